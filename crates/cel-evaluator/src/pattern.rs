//! Compiled regular expressions, with bounds for their size and their work.

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::error::EvaluationError;
use crate::meter::Meter;
use crate::re2;

/// Maximum size of a compiled pattern of a schema, in bytes.
const COMPILED_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("error parsing regexp: {0}")]
pub struct PatternError(String);

/// Compiles a pattern of RE2.
///
/// # Errors
/// The pattern is malformed or too large.
pub fn compile_pattern(source: &str) -> Result<Regex, PatternError> {
    let translated = re2::translate(source).map_err(PatternError)?;
    let built = RegexBuilder::new(&translated)
        .size_limit(COMPILED_BYTES_MAX)
        .build();
    built.map_err(|error| PatternError(error.to_string()))
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
        let translated = re2::translate(source).map_err(refused)?;
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
