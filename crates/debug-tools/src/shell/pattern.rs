//! Patterns: `*`, `?`, `[a-z]`, of text and of file names.

use std::path::{Path, PathBuf};

/// A character of a pattern, and whether it is literal.
pub type Sign = (char, bool);

/// Whether a text matches a pattern such as `*.log`.
pub fn is_described(pattern: &str, text: &str) -> bool {
    let signs: Vec<Sign> = pattern.chars().map(|sign| (sign, false)).collect();
    matches(&signs, &text.chars().collect::<Vec<char>>())
}

/// Whether a text matches the pattern.
pub fn matches(pattern: &[Sign], text: &[char]) -> bool {
    // The state for backtracking: the position after the last star, with the remaining text.
    let (mut at, mut index) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while index < text.len() || at < pattern.len() {
        if let Some(('*', false)) = pattern.get(at) {
            at += 1;
            back = Some((at, index));
            continue;
        }
        let step = text
            .get(index)
            .and_then(|sign| one(pattern.get(at..).unwrap_or_default(), *sign));
        match (step, back) {
            (Some(length), _) => {
                at += length;
                index += 1;
            }
            (None, Some((star, consumed))) if consumed < text.len() => {
                at = star;
                index = consumed + 1;
                back = Some((star, consumed + 1));
            }
            (None, _) => return false,
        }
    }
    true
}

/// The number of characters of the pattern's first element, if the element matches the character.
fn one(pattern: &[Sign], sign: char) -> Option<usize> {
    match pattern.first()? {
        ('?', false) => Some(1),
        ('[', false) => match set(pattern) {
            Some((length, is_in)) => is_in(sign).then_some(length),
            None => (sign == '[').then_some(1),
        },
        (expected, _) => (*expected == sign).then_some(1),
    }
}

/// Parses a set in brackets: its length and its predicate.
fn set(pattern: &[Sign]) -> Option<(usize, impl Fn(char) -> bool)> {
    let is_negated = matches!(pattern.get(1), Some(('!' | '^', false)));
    let start = 1 + usize::from(is_negated);
    // A closing bracket at the start is a member of the set.
    let rest = pattern.get(start + 1..)?;
    let end = start + 1 + rest.iter().position(|sign| *sign == (']', false))?;
    let inside: Vec<char> = pattern[start..end].iter().map(|(sign, _)| *sign).collect();
    let is_in = move |sign: char| {
        let mut at = 0;
        let mut is_member = false;
        while let Some(first) = inside.get(at) {
            match (inside.get(at + 1), inside.get(at + 2)) {
                (Some('-'), Some(last)) => {
                    is_member |= (*first..=*last).contains(&sign);
                    at += 3;
                }
                _ => {
                    is_member |= *first == sign;
                    at += 1;
                }
            }
        }
        is_member != is_negated
    };
    Some((end + 1, is_in))
}

/// Whether the text has a character with a special meaning.
pub fn is_pattern(signs: &[Sign]) -> bool {
    signs
        .iter()
        .any(|(sign, is_quoted)| !is_quoted && "*?[".contains(*sign))
}

/// The files that a pattern describes, in order.
pub fn files(pattern: &[Sign], directory: &Path) -> Vec<String> {
    let is_absolute = matches!(pattern.first(), Some(('/', _)));
    let mut paths = vec![String::from(if is_absolute { "/" } else { "" })];
    let parts: Vec<&[Sign]> = pattern
        .split(|(sign, _)| *sign == '/')
        .filter(|part| !part.is_empty())
        .collect();
    for (number, part) in parts.iter().enumerate() {
        let is_last = number + 1 == parts.len();
        let mut next = Vec::new();
        for start in &paths {
            for name in names(part, &directory.join(start)) {
                let path = format!("{start}{name}");
                match is_last {
                    true => next.push(path),
                    false => next.push(path + "/"),
                }
            }
        }
        paths = next;
    }
    paths
}

fn names(part: &[Sign], directory: &Path) -> Vec<String> {
    if !is_pattern(part) {
        let name: String = part.iter().map(|(sign, _)| *sign).collect();
        let path: PathBuf = directory.join(&name);
        return match path.symlink_metadata().is_ok() {
            true => vec![name],
            false => Vec::new(),
        };
    }
    let shows_hidden = matches!(part.first(), Some(('.', _)));
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| shows_hidden || !name.starts_with('.'))
        .filter(|name| matches(part, &name.chars().collect::<Vec<char>>()))
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let signs: Vec<Sign> = pattern.chars().map(|sign| (sign, false)).collect();
        super::matches(&signs, &text.chars().collect::<Vec<char>>())
    }

    #[test]
    fn patterns_describe_texts() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("*.log", "web.log.log", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            (
                "*a*a*a*a*a*b",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                false,
            ),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
