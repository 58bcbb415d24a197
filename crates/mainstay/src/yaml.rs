//! The error of a YAML text, in one line with its place.

use std::fmt::Display;

use serde_saphyr::{DefaultMessageFormatter, MessageFormatter};

/// The error as `FILE:LINE:COLUMN: MESSAGE`. The parser's own text quotes the line, and calls every
/// file `<input>`.
pub fn mistake(file: &dyn Display, error: &serde_saphyr::Error) -> anyhow::Error {
    let text = DefaultMessageFormatter.format_message(error.without_snippet());
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match error.location() {
        Some(at) => anyhow::anyhow!("{file}:{}:{}: {text}", at.line(), at.column()),
        None => anyhow::anyhow!("{file}: {text}"),
    }
}
