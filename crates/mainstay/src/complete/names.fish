
# Names on the server, where a word may be one.
function __fish_mainstay_names
    set -l words (commandline -opc)
    $words[1] complete -- $words[2..-1] (commandline -ct) 2>/dev/null </dev/null
end
complete -c mainstay -n "__fish_mainstay_using_subcommand why logs" -f -a "(__fish_mainstay_names)"
complete -c mainstay -n "__fish_mainstay_using_subcommand why logs status ps volume" -s n -l namespace -x -a "(__fish_mainstay_names)"
