
# Names on the server, where a word may be one; else the words of the program.
_mainstay_or_names() {
    COMPREPLY=()
    local name
    case "${COMP_WORDS[1]}" in
        why|logs|status|ps|volume)
            while IFS= read -r name; do
                [[ "$name" == "$2"* ]] && COMPREPLY+=("$name")
            done < <("$1" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null </dev/null)
            ;;
    esac
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        _mainstay "$@"
    elif [[ "${COMPREPLY[0]}" == */ ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _mainstay_or_names -o bashdefault -o default mainstay
