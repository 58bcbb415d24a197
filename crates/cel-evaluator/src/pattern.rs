//! Regular expressions in the dialect of RE2, which CEL and Kubernetes use.
//!
//! The crate `regex` has the same syntax but for character classes: there `[` begins a nested class, and `&&`, `--`
//! and `~~` are operators. In RE2 all of these are characters.

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::error::EvaluationError;
use crate::meter::Meter;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("error parsing regexp: {0}")]
pub struct PatternError(String);

/// Compiles a pattern of RE2.
///
/// # Errors
/// The pattern is malformed or too large.
pub fn compile_pattern(source: &str) -> Result<Regex, PatternError> {
    let translated = translated(source);
    Regex::new(&translated).map_err(|error| PatternError(error.to_string()))
}

/// A compiled pattern, and the work of a search for each byte of a text.
#[derive(Clone, Debug)]
pub(crate) struct CompiledPattern {
    pub regex: Regex,
    pub work_per_byte: usize,
}

/// Maximum bytes of a compiled pattern, the work of its compilation, and the work of a search for each byte.
const TIERS: [(usize, usize, usize); 4] = [
    (8 << 10, 20_000, 1),
    (64 << 10, 200_000, 16),
    (1 << 20, 4_000_000, 256),
    (10 << 20, 40_000_000, 2_048),
];

impl CompiledPattern {
    /// Compiles a pattern, and counts the work.
    ///
    /// # Errors
    /// The pattern is malformed or too large, or the work is more than an evaluation may do.
    pub(crate) fn compile(source: &str, meter: &mut Meter) -> Result<Self, EvaluationError> {
        let translated = translated(source);
        let mut failure = None;
        for (bytes, work, work_per_byte) in TIERS {
            meter.work(work + source.len())?;
            match RegexBuilder::new(&translated).size_limit(bytes).build() {
                Ok(regex) => {
                    return Ok(Self {
                        regex,
                        work_per_byte,
                    });
                }
                Err(error @ regex::Error::CompiledTooBig(_)) => failure = Some(error.to_string()),
                Err(error) => return Err(refused(error.to_string())),
            }
        }
        Err(refused(failure.unwrap_or_default()))
    }
}

fn refused(text: String) -> EvaluationError {
    EvaluationError::Function(PatternError(text).to_string())
}

/// The pattern in the syntax of the crate `regex`.
fn translated(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(letter) = rest.chars().next() {
        let length = match letter {
            '\\' => escape(rest, &mut result),
            '[' => class(rest, &mut result),
            _ => {
                result.push(letter);
                letter.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    result
}

/// The ASCII class that an escape stands for in RE2.
fn ascii_class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "0-9",
        'D' => "^0-9",
        's' => "\\t\\n\\x0c\\r ",
        'S' => "^\\t\\n\\x0c\\r ",
        'w' => "0-9A-Za-z_",
        'W' => "^0-9A-Za-z_",
        _ => return None,
    })
}

/// Translates the escape sequence at the start of a text, outside of a class. Returns its length.
fn escape(rest: &str, result: &mut String) -> usize {
    let Some(letter) = rest[1..].chars().next() else {
        result.push('\\');
        return rest.len();
    };
    let length = 1 + letter.len_utf8();
    if let Some(class) = ascii_class(letter) {
        result.extend(["[", class, "]"]);
    } else if letter == 'b' {
        result.push_str(r"(?-u:\b)");
    } else if letter == 'Q' {
        let quoted = &rest[length..];
        let end = quoted.find(r"\E").unwrap_or(quoted.len());
        result.push_str(&regex::escape(&quoted[..end]));
        return (length + end + 2).min(rest.len());
    } else {
        result.push_str(&rest[..length]);
    }
    length
}

/// Translates the character class at the start of a text. Returns its length.
fn class(rest: &str, result: &mut String) -> usize {
    result.push('[');
    let mut at = 1;
    if rest[at..].starts_with('^') {
        result.push('^');
        at += 1;
    }
    let first = at;
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with(']') && at > first {
            result.push(']');
            return at + 1;
        }
        if here.starts_with("[:")
            && let Some(end) = here.find(":]")
        {
            result.push_str(&here[..end + 2]);
            at += end + 2;
            continue;
        }
        let escaped = here.strip_prefix('\\').and_then(|rest| rest.chars().next());
        if let Some(class) = escaped.and_then(ascii_class) {
            result.extend(["[", class, "]"]);
            at += 2;
            continue;
        }
        at += class_character(here, result);
        // A `-` before the end of the class is a character.
        let here = &rest[at..];
        if here.starts_with('-') && here.len() > 1 && !here.starts_with("-]") {
            result.push('-');
            at += 1 + class_character(&here[1..], result);
        }
    }
    rest.len()
}

/// Copies one character of a class, so that it is no operator. Returns its length.
fn class_character(rest: &str, result: &mut String) -> usize {
    let mut letters = rest.chars();
    match (letters.next(), letters.next()) {
        (Some('\\'), Some(letter)) => {
            let length = 1 + letter.len_utf8();
            result.push_str(&rest[..length]);
            // The number or name in braces: `\x{7f}`, `\p{Greek}`.
            let braces = rest[length..].starts_with('{');
            let end = rest[length..].find('}').filter(|_| braces);
            let end = end.map_or(length, |end| length + end + 1);
            result.push_str(&rest[length..end]);
            end
        }
        (Some(letter), _) => {
            if letter.is_ascii_punctuation() {
                result.push('\\');
            }
            result.push(letter);
            letter.len_utf8()
        }
        (None, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings-2 K13
    #[test]
    fn classes_have_the_meaning_of_re2() {
        for (pattern, matching, other) in [
            ("^[^[ ]+$", "a]b", "a[b"),
            ("^[a&&b]+$", "a&b", "c"),
            ("^[a~~b]+$", "a~b", "c"),
            (r"^[\d-]+$", "1-2", "\u{661}"),
            (r"^\w\W\s$", "a- ", "\u{e9}- "),
            (r"^\Qa.b\E$", "a.b", "axb"),
            (r"^[\x{61}-\x63]$", "b", "d"),
            ("^[a-]+$", "a-", "b"),
            ("^[[:alpha:]_]+$", "a_b", "a1"),
            ("^[]a]+$", "]a", "b"),
            ("^[^]a]+$", "b", "]"),
            (r"^[\]\[]+$", "][", "a"),
            ("^[a-c&]+$", "b&", "d"),
            ("^[[]x]$", "[x]", "x"),
            (r"^\[a\]$", "[a]", "a"),
            ("^[+--]+$", "+,-", "a"),
        ] {
            let regex = compile_pattern(pattern).unwrap();
            assert!(regex.is_match(matching), "{pattern} {matching}");
            assert!(!regex.is_match(other), "{pattern} {other}");
        }
        assert!(compile_pattern("[a--b]").is_err());
        assert!(compile_pattern("[a").is_err());
        assert!(compile_pattern("(").is_err());
    }
}
