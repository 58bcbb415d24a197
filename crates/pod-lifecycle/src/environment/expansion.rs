//! Expansion of `$(NAME)` in commands, arguments and environment values (statefulset.md §12.12).

/// Replaces `$(NAME)` by the result of `value_of`. An unknown name is not replaced; `$$` becomes `$`.
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(more) = after.strip_prefix('$') {
            out.push('$');
            rest = more;
        } else if let Some((name, more)) = reference(after) {
            match value_of(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = more;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out + rest
}

fn reference(after: &str) -> Option<(&str, &str)> {
    let inner = after.strip_prefix('(')?;
    let end = inner.find(')')?;
    Some((&inner[..end], &inner[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_escaped_or_left() {
        // statefulset.md 12.12
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("x$(A)y", "x1y"),
            ("$(A)$(A)", "11"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A ${A} $", "$A ${A} $"),
            ("ü$(A)ß", "ü1ß"),
            ("", ""),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }
}
