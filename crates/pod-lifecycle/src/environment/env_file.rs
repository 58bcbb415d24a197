//! Files of environment variables (`fileKeyRef`, statefulset.md §12.12).
//!
//! The format is a subset of shell syntax: `NAME='value'`, with each assignment on separate lines. A value
//! may contain any characters except a single quote, even line feeds. Empty lines and lines that begin with
//! `#` are skipped.

/// A malformed line of a file of environment variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct EnvFileError {
    /// The number of the line, from 1.
    pub line: usize,
    pub problem: &'static str,
}

/// The value of `key` in a file; `None` if the key is absent.
///
/// # Errors
/// A line before the key's line, or the key's line itself, is malformed.
pub fn value(text: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut rest = text;
    let mut line = 1;
    while !rest.is_empty() {
        let (head, tail) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = head.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            (rest, line) = (tail, line + 1);
            continue;
        }
        let malformed = |problem| Err(EnvFileError { line, problem });
        let Some((name, quoted)) = rest.split_once("='") else {
            return malformed("not of the form NAME='value'");
        };
        let name = name.trim_start();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != '=') {
            return malformed("not of the form NAME='value'");
        }
        let Some((content, after)) = quoted.split_once('\'') else {
            return malformed("the quotation does not end");
        };
        let (trailing, tail) = after.split_once('\n').unwrap_or((after, ""));
        if !trailing.trim().is_empty() {
            return malformed("there is more after the quotation");
        }
        if name == key {
            return Ok(Some(content.to_owned()));
        }
        line += 1 + content.matches('\n').count();
        rest = tail;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_and_may_have_several_lines() {
        // statefulset.md 12.12
        let text = "# comment\n\nA='1'\n  B='two\nlines = $(A)'  \nC=''\n";
        let value_of = |key: &str| value(text, key).unwrap();
        assert_eq!(value_of("A").as_deref(), Some("1"));
        assert_eq!(value_of("B").as_deref(), Some("two\nlines = $(A)"));
        assert_eq!(value_of("C").as_deref(), Some(""));
        assert_eq!(value_of("D"), None);
    }

    #[test]
    fn what_could_be_read_in_several_ways_is_an_error() {
        for (text, expected) in [
            ("A=1\n", "line 1: not of the form"),
            ("A='1'\nexport B='2'\n", "line 2: not of the form"),
            ("A='x\ny'\nB='2\n", "line 3: the quotation does not end"),
            ("A='1' B='2'\n", "line 1: there is more"),
        ] {
            let message = value(text, "Z").unwrap_err().to_string();
            assert!(message.starts_with(expected), "{text:?}: {message}");
        }
    }
}
