//! Regular expressions in the syntax of RE2, which schemas and CEL expressions of Kubernetes have: translated to the syntax of the crate
//! `regex`.
//!
//! The differences: classes of RE2 have no nested classes and no set operations, `\d`, `\s`, `\w` and `\b` are about
//! ASCII, a brace that starts no repetition is a literal brace, and a repetition cannot be repeated.

use std::iter::Peekable;
use std::str::Chars;

/// Maximum number of repetitions in braces, as in RE2.
const REPETITIONS_MAX: u32 = 1000;

/// An expression in the syntax of the crate `regex`.
///
/// # Errors
/// The description of a syntax error.
pub(crate) fn translate(source: &str) -> Result<String, String> {
    let mut translated = String::with_capacity(source.len() + 16);
    let mut rest = source.chars().peekable();
    // Whether the last part was a repetition.
    let mut repeated = false;
    while let Some(c) = rest.next() {
        let was_repeated = std::mem::take(&mut repeated);
        match c {
            '\\' => escape(&mut rest, &mut translated)?,
            '[' => class(&mut rest, &mut translated)?,
            '{' => match repetition(&rest)? {
                None => translated.push_str(r"\{"),
                Some(text) => {
                    // The characters up to the closing brace.
                    rest.by_ref().take(text.len() + 1).for_each(drop);
                    translated.extend(["{", &text, "}"]);
                    repeated = true;
                }
            },
            '}' => translated.push_str(r"\}"),
            '*' | '+' | '?' => {
                translated.push(c);
                repeated = true;
            }
            '(' => {
                translated.push(c);
                group(&mut rest, &mut translated)?;
            }
            _ => translated.push(c),
        }
        if repeated {
            if was_repeated {
                return Err("invalid nested repetition operator".to_owned());
            }
            // A question mark behind a repetition makes it lazy.
            if rest.next_if_eq(&'?').is_some() {
                translated.push('?');
            }
        }
    }
    Ok(translated)
}

/// The content of the braces of a repetition; `None` if the braces are literal.
fn repetition(rest: &Peekable<Chars<'_>>) -> Result<Option<String>, String> {
    let content: String = rest.clone().take_while(|c| *c != '}').collect();
    let is_closed = rest.clone().any(|c| c == '}');
    let (min, max) = content
        .split_once(',')
        .map_or((content.as_str(), None), |(min, max)| (min, Some(max)));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let max = max.filter(|max| !max.is_empty());
    if !is_closed || !is_number(min) || !max.is_none_or(is_number) {
        return Ok(None);
    }
    let count = |text: &str| text.parse().ok().filter(|n: &u32| *n <= REPETITIONS_MAX);
    let bounds = (count(min), max.map(count));
    match bounds {
        (Some(min), Some(Some(max))) if min <= max => Ok(Some(content)),
        (Some(_), None) => Ok(Some(content)),
        _ => Err(format!("invalid repeat count: `{{{content}}}`")),
    }
}

/// The flags or the name of a group; RE2 has neither look-around nor the flags of other syntaxes.
fn group(rest: &mut Peekable<Chars<'_>>, translated: &mut String) -> Result<(), String> {
    if rest.next_if_eq(&'?').is_none() {
        return Ok(());
    }
    translated.push('?');
    if matches!(rest.peek(), Some('P' | '<')) {
        return Ok(());
    }
    while let Some(c) = rest.next_if(|c| !matches!(c, ':' | ')')) {
        if !matches!(c, 'i' | 'm' | 's' | 'U' | '-') {
            return Err("invalid or unsupported Perl syntax".to_owned());
        }
        translated.push(c);
    }
    // The colon belongs to the flags.
    translated.extend(rest.next_if_eq(&':'));
    Ok(())
}

fn trailing() -> String {
    "trailing backslash at end of expression: ``".to_owned()
}

/// An escape outside of classes.
fn escape(rest: &mut Peekable<Chars<'_>>, translated: &mut String) -> Result<(), String> {
    let c = rest.next().ok_or_else(trailing)?;
    match c {
        'd' => translated.push_str("[0-9]"),
        'D' => translated.push_str("[^0-9]"),
        's' => translated.push_str(r"[\t\n\f\r ]"),
        'S' => translated.push_str(r"[^\t\n\f\r ]"),
        'w' => translated.push_str("[0-9A-Za-z_]"),
        'W' => translated.push_str("[^0-9A-Za-z_]"),
        'b' => translated.push_str(r"(?-u:\b)"),
        'B' => translated.push_str(r"(?-u:\B)"),
        'A' | 'z' => translated.extend(['\\', c]),
        'Q' => quoted(rest, translated),
        // The end of quoted text without its start has no effect.
        'E' => {}
        _ => symbol(c, rest, translated)?,
    }
    Ok(())
}

/// Text between `\Q` and `\E`, or the end of the expression.
fn quoted(rest: &mut Peekable<Chars<'_>>, translated: &mut String) {
    while let Some(c) = rest.next() {
        if c == '\\' && rest.next_if_eq(&'E').is_some() {
            return;
        }
        translated.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }
}

/// An escape for one character or a Unicode class, inside or outside of classes.
fn symbol(c: char, rest: &mut Peekable<Chars<'_>>, translated: &mut String) -> Result<(), String> {
    match c {
        'a' | 'f' | 't' | 'n' | 'r' | 'v' => translated.extend(['\\', c]),
        'x' | 'p' | 'P' => {
            translated.extend(['\\', c]);
            if rest.peek() == Some(&'{') {
                // The braces hold a number or a name, and are no repetition.
                let content: String = rest.by_ref().take_while(|c| *c != '}').collect();
                translated.extend([&content, "}"]);
            }
        }
        '0'..='7' => {
            let mut digits = String::from(c);
            while digits.len() < 3
                && let Some(digit) = rest.next_if(|c| matches!(c, '0'..='7'))
            {
                digits.push(digit);
            }
            // A digit without others is a reference to a group, which RE2 does not have.
            if digits.len() == 1 && c != '0' {
                return Err(format!("invalid escape sequence: `\\{c}`"));
            }
            let code = u32::from_str_radix(&digits, 8).unwrap_or_default();
            translated.push_str(&format!(r"\x{{{code:x}}}"));
        }
        c if c.is_ascii_punctuation() || c == ' ' => {
            match c {
                // Symbols that the crate does not escape outside of its own syntax.
                '<' | '>' | ' ' | '_' | '"' | '\'' | ',' | ';' | ':' | '=' | '@' | '`' | '!'
                | '%' => {
                    translated.push(c);
                }
                _ => translated.extend(['\\', c]),
            }
        }
        c => return Err(format!("invalid escape sequence: `\\{c}`")),
    }
    Ok(())
}

/// A class, up to its closing bracket.
fn class(rest: &mut Peekable<Chars<'_>>, translated: &mut String) -> Result<(), String> {
    translated.push('[');
    if rest.next_if_eq(&'^').is_some() {
        translated.push('^');
    }
    let mut is_first = true;
    while let Some(c) = rest.next() {
        match c {
            ']' if !is_first => {
                translated.push(']');
                return Ok(());
            }
            '[' if rest.peek() == Some(&':') => {
                // A named class such as `[:alpha:]`, or a literal bracket.
                let name: String = rest.clone().take_while(|c| *c != ']').collect();
                if name.len() > 1 && name.ends_with(':') {
                    rest.by_ref().take(name.chars().count() + 1).for_each(drop);
                    translated.extend(["[", &name, "]"]);
                } else {
                    translated.push_str(r"\[");
                }
            }
            '\\' => {
                let c = rest.next().ok_or_else(trailing)?;
                match c {
                    'd' => translated.push_str("0-9"),
                    'D' => translated.push_str("[^0-9]"),
                    's' => translated.push_str(r"\t\n\f\r\x20"),
                    'S' => translated.push_str(r"[^\t\n\f\r\x20]"),
                    'w' => translated.push_str("0-9A-Za-z_"),
                    'W' => translated.push_str("[^0-9A-Za-z_]"),
                    // An escaped symbol is never the dash of a range, nor part of a set operation.
                    '&' | '~' => translated.extend(['\\', c]),
                    _ => symbol(c, rest, translated)?,
                }
            }
            // Symbols that start nested classes and set operations in the crate.
            '[' | '&' | '~' | ']' => {
                cov_mark::hit!(findings_2_k13);
                translated.extend(['\\', c]);
            }
            '-' => dash(is_first, rest, translated),
            _ => translated.push(c),
        }
        is_first = false;
    }
    Err("missing closing ]".to_owned())
}

/// A dash of a class: literal at the start, at the end, and before another dash; else the dash of a range.
fn dash(is_first: bool, rest: &mut Peekable<Chars<'_>>, translated: &mut String) {
    let is_last = rest.peek() == Some(&']');
    match is_first || is_last {
        true => translated.push_str(r"\-"),
        false => {
            translated.push('-');
            // The end of the range is a dash, as in `[+--]`.
            if rest.next_if_eq(&'-').is_some() {
                translated.push_str(r"\-");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::compile_pattern as compile;

    // findings-2 K13
    #[test]
    fn patterns_have_the_syntax_of_re2() {
        cov_mark::check!(findings_2_k13);
        for (pattern, matching, other) in [
            ("^[^[ ]$", "a", "["),
            ("^[a&&b]+$", "a&b", "c"),
            ("^[a~~b]+$", "~", "c"),
            ("^[+--]$", ",", "."),
            ("^[a[b]$", "[", "c"),
            ("^[]a]$", "]", "b"),
            ("^[^]a]$", "b", "]"),
            ("^[a-]$", "-", "b"),
            ("^[-a]$", "-", "b"),
            (r"^[\]\-\[]+$", "]-[", "a"),
            (r"^\d$", "1", "\u{663}"),
            (r"^\w$", "_", "\u{e9}"),
            (r"^[\w.]+$", "a.b", "a b"),
            (r"^\s$", "\t", "\u{a0}"),
            (r"^[^\s]$", "a", " "),
            (r"^[\D]$", "a", "1"),
            (r"^a{$", "a{", "a"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"^a{2}$", "aa", "a"),
            (r"^a{1,}?$", "aaa", ""),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^\<a\>$", "<a>", "a"),
            (r"^\/\_\:\%$", "/_:%", "a"),
            (r"^[[:alpha:]]+$", "ab", "1"),
            (r"^[[:digit:]a]+$", "1a", "b"),
            (r"^\x41\101$", "AA", "A"),
            (r"^(?i:ab)$", "AB", "ac"),
            (r"^(?P<n>a)(?:b)(?<m>c)$", "abc", "ab"),
            (r"^\pL+$", "\u{e9}a", "1"),
            (r"^\p{Greek}+$", "\u{3b1}", "a"),
            (r"^[\p{Lu}\x{61}]*$", "Ba", "b"),
            (r"^}$", "}", "a"),
        ] {
            let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert!(regex.is_match(matching), "{pattern} {matching}");
            assert!(!regex.is_match(other), "{pattern} {other}");
        }
    }

    #[test]
    fn expressions_that_re2_refuses_are_refused() {
        for pattern in [
            "(", "[", "[a", "a**", "a{2}{3}", "a+*", "*", "a{1001}", "a{3,2}", r"\", r"\y", r"\1",
            "(?=a)", "(?!a)", "(?<=a)", "(?x)a", "(?u)a", r"\Z", "b+*",
        ] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
        let error = compile("[a").unwrap_err().to_string();
        assert_eq!(error, "error parsing regexp: missing closing ]");
    }

    #[test]
    fn no_text_is_a_failure_of_the_translation() {
        for source in [
            "",
            "\u{10ffff}",
            "[",
            "[[:",
            "[[:a",
            "{",
            "{1",
            r"\Q",
            r"\Qa\",
            "(?",
            "(?i",
        ] {
            // The result does not matter; the call returns.
            let _ = compile(source).is_ok();
        }
    }
}
