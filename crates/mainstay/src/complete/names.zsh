# Names on the server, where a word may be one; else the words of the program.
functions[_mainstay_words]=$functions[_mainstay]
_mainstay() {
    local -a names
    case $words[2] in
        (why|logs|status|ps|volume)
            names=(${(f)"$($words[1] complete -- "${(@)words[2,CURRENT]}" 2>/dev/null </dev/null)"})
            ;;
    esac
    if (( $#names == 0 )); then
        _mainstay_words "$@"
    elif [[ $names[1] == */ ]]; then
        compadd -S '' -a names
    else
        compadd -a names
    fi
}

