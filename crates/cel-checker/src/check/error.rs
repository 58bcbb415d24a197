//! Errors of types, with cel-go's messages.

use std::fmt;

use thiserror::Error;

use super::Position;
use crate::types::{Commas, Type};

/// The number of errors that are reported.
const ERRORS_MAX: usize = 100;
/// Maximum length of a line that is printed with an error, in bytes.
const SNIPPET_MAX: usize = 16_384;

/// An error of types.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckError {
    /// The subexpression's identifier.
    pub id: u64,
    pub position: Position,
    pub kind: CheckErrorKind,
}

/// The reason of an error.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum CheckErrorKind {
    #[error("undeclared reference to '{name}' (in container '')")]
    Undeclared { name: String },
    #[error("undefined field '{name}'")]
    UndefinedField { name: String },
    #[error("unexpected failed resolution of '{name}'")]
    UnresolvedType { name: String },
    #[error("type '{of}' does not support field selection")]
    NoFields { of: Type },
    #[error("found no matching overload for '{function}' applied to '{}'", Call(arguments, *is_member))]
    NoOverload {
        function: String,
        arguments: Vec<Type>,
        is_member: bool,
    },
    #[error(
        "expression of type '{of}' cannot be range of a comprehension (must be list, map, or dynamic)"
    )]
    NoRange { of: Type },
    #[error("expected type '{expected}' but found '{actual}'")]
    Mismatch { expected: Type, actual: Type },
    #[error("expected type of field '{name}' is '{declared}' but provided type is '{value}'")]
    FieldType {
        name: String,
        declared: Type,
        value: Type,
    },
    #[error("'{name}' is not a message type")]
    NoMessageType { name: String },
    #[error("unsupported optional field selection: {detail}")]
    OptionalSelection { detail: String },
    #[error("invalid {function} argument")]
    InvalidConstant { function: &'static str },
}

impl CheckErrorKind {
    pub(super) fn undeclared(name: &str) -> Self {
        Self::Undeclared {
            name: name.to_owned(),
        }
    }

    pub(super) fn mismatch(expected: &Type, actual: &Type) -> Self {
        Self::Mismatch {
            expected: expected.clone(),
            actual: actual.clone(),
        }
    }
}

/// The types of the arguments of a call.
struct Call<'t>(&'t [Type], bool);

impl fmt::Display for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [receiver, arguments @ ..] if self.1 => write!(f, "{receiver}.({})", Commas(arguments)),
            arguments => write!(f, "({})", Commas(arguments)),
        }
    }
}

/// The errors of an expression in the order of their positions. They are displayed with the lines of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckErrors {
    pub errors: Vec<CheckError>,
    source: String,
    /// The number of errors that are not in the list.
    omitted: usize,
}

impl CheckErrors {
    pub(super) fn new(mut errors: Vec<CheckError>, source: &str) -> Self {
        let omitted = errors.len().saturating_sub(ERRORS_MAX);
        errors.truncate(ERRORS_MAX);
        errors.sort_by_key(|error| error.position);
        Self {
            errors,
            source: source.to_owned(),
            omitted,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, error: &CheckError) -> fmt::Result {
        let Position { line, column } = error.position;
        write!(f, "ERROR: <input>:{line}:{column}: {}", error.kind)?;
        let snippet = line
            .checked_sub(1)
            .and_then(|line| self.source.split('\n').nth(line))
            .filter(|snippet| snippet.len() <= SNIPPET_MAX);
        let Some(snippet) = snippet else {
            return Ok(());
        };
        write!(f, "\n | {}\n | ", snippet.replace('\t', " "))?;
        let mut letters = snippet.chars();
        for letter in letters.by_ref().take(column.saturating_sub(1)) {
            // A full-width dot is as wide as most letters outside of ASCII.
            f.write_str(if letter.is_ascii() { "." } else { "\u{ff0e}" })?;
        }
        let is_wide = letters.next().is_some_and(|letter| !letter.is_ascii());
        f.write_str(if is_wide { "\u{ff3e}" } else { "^" })
    }
}

impl fmt::Display for CheckErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            self.write(f, error)?;
        }
        if self.omitted > 0 {
            write!(f, "\n{} more errors were truncated", self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for CheckErrors {}
