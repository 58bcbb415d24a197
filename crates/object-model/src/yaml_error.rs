//! Errors of the YAML parser in one line, with line and column. The parser's own text quotes the line in several
//! lines, and names every file `<input>`.

use std::fmt::Display;

use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _};

/// The error as `FILE:LINE:COLUMN: MESSAGE`.
pub fn in_file(file: &dyn Display, error: &Error) -> String {
    let text = message(error);
    match error.location() {
        Some(at) => format!("{file}:{}:{}: {text}", at.line(), at.column()),
        None => format!("{file}: {text}"),
    }
}

/// The error as `line LINE, column COLUMN: MESSAGE`, for callers that add the file name.
pub fn in_text(error: &Error) -> String {
    let text = message(error);
    match error.location() {
        Some(at) => format!("line {}, column {}: {text}", at.line(), at.column()),
        None => text,
    }
}

fn message(error: &Error) -> String {
    let text = DefaultMessageFormatter.format_message(error.without_snippet());
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[expect(dead_code, reason = "only the refusal is of interest")]
        name: String,
    }

    #[test]
    fn an_error_is_one_line_with_its_place() {
        let error = serde_saphyr::from_str::<Settings>("name: a\nuser: b\n").unwrap_err();
        let (of_file, of_text) = (in_file(&"a.yaml", &error), in_text(&error));
        assert!(of_file.starts_with("a.yaml:2:1: "), "{of_file}");
        assert!(of_text.starts_with("line 2, column 1: "), "{of_text}");
        for text in [of_file, of_text] {
            assert!(text.contains("user"), "{text}");
            assert!(!text.contains("<input>") && !text.contains('\n'), "{text}");
        }
    }
}
