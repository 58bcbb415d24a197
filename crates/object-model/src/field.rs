//! Paths of fields and errors of fields (the messages are from apimachinery's package `field`).

use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use json_tree::Value;

/// A path such as `spec.template.spec.containers[0].name`.
///
/// The validation of custom objects creates a path for every field that it checks and prints few of them. A path of
/// usual length is therefore stored inline, without an allocation.
#[derive(Clone, Default)]
pub struct FieldPath(Text);

/// Maximum length in bytes of a path that is stored inline.
const SHORT_BYTES_MAX: usize = 110;

#[derive(Clone)]
enum Text {
    Short {
        length: u8,
        bytes: [u8; SHORT_BYTES_MAX],
    },
    Long(String),
}

impl FieldPath {
    pub fn root(name: &str) -> Self {
        let mut path = Self::default();
        path.0.push(name);
        path
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let mut path = self.clone();
        if !path.0.is_empty() {
            path.0.push(".");
        }
        path.0.push(name);
        path
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        // Writing to a text never fails.
        let _ = write!(path.0, "[{index}]");
        path
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        for part in ["[", key, "]"] {
            path.0.push(part);
        }
        path
    }

    fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Text {
    fn as_str(&self) -> &str {
        match self {
            // Only whole texts were appended, so the bytes are UTF-8.
            Self::Short { length, bytes } => {
                std::str::from_utf8(&bytes[..usize::from(*length)]).unwrap_or_default()
            }
            Self::Long(text) => text,
        }
    }

    fn push(&mut self, more: &str) {
        match self {
            Self::Long(text) => text.push_str(more),
            Self::Short { length, bytes } => {
                let start = usize::from(*length);
                let end = start + more.len();
                match (bytes.get_mut(start..end), u8::try_from(end)) {
                    (Some(free), Ok(end)) => {
                        free.copy_from_slice(more.as_bytes());
                        *length = end;
                    }
                    _ => *self = Self::Long([self.as_str(), more].concat()),
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Short { length, .. } => *length == 0,
            Self::Long(text) => text.is_empty(),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Short {
            length: 0,
            bytes: [0; SHORT_BYTES_MAX],
        }
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

impl PartialEq for FieldPath {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for FieldPath {}

impl PartialOrd for FieldPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FieldPath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FieldPath").field(&self.as_str()).finish()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of an error, which is the `reason` of the cause in a Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorType {
    /// A required value is missing.
    Required,
    /// The value is malformed or violates a rule.
    Invalid,
    /// The value is not one of the allowed values.
    NotSupported,
    /// The field may not be set (or changed) here.
    Forbidden,
    /// The value occurs twice, but must be unique.
    Duplicate,
    /// The value is too long.
    TooLong,
    /// The list has too many elements (`FieldValueTooMany`).
    TooMany,
    /// The named object does not exist.
    NotFound,
    /// The value has the wrong type.
    TypeInvalid,
    /// The server failed.
    Internal,
}

/// A validation error of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorType,
    /// The path of the field, for instance `spec.replicas`.
    pub field: FieldPath,
    /// The invalid value, if it helps the user.
    pub value: Option<Value>,
    /// The error as a clause without a full stop.
    pub detail: String,
}

impl FieldError {
    /// The error of a missing value (`FieldValueRequired`).
    pub fn required(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorType::Required, field, None, detail)
    }

    /// The error of a malformed value (`FieldValueInvalid`).
    pub fn invalid(field: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorType::Invalid, field, Some(value.into()), detail)
    }

    /// The error of a field that may not be set or changed (`FieldValueForbidden`).
    pub fn forbidden(field: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorType::Forbidden, field, None, detail)
    }

    /// The error of a value that occurs twice.
    pub fn duplicate(field: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorType::Duplicate, field, Some(value.into()), "")
    }

    /// The error of a name that does not exist.
    pub fn not_found(field: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorType::NotFound, field, Some(value.into()), "")
    }

    /// The error of a value that is too long; `max` in bytes.
    pub fn too_long(field: &FieldPath, max: usize) -> Self {
        let detail = format!("may not be more than {max} bytes");
        Self::new(FieldErrorType::TooLong, field, None, detail)
    }

    /// The error of a list with more than `max` elements.
    pub fn too_many(field: &FieldPath, count: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} items");
        Self::new(FieldErrorType::TooMany, field, Some(count.into()), detail)
    }

    /// The error of a value that is not allowed. The allowed values are listed alphabetically.
    pub fn not_supported(field: &FieldPath, value: impl Into<Value>, allowed: &[&str]) -> Self {
        let mut sorted: Vec<&str> = allowed.to_vec();
        sorted.sort_unstable();
        Self::not_among(field, value, &sorted)
    }

    /// The error of a value that is not allowed. The allowed values are listed in their given order.
    pub fn not_among(field: &FieldPath, value: impl Into<Value>, allowed: &[&str]) -> Self {
        let quoted: Vec<String> = allowed.iter().map(|v| format!("{v:?}")).collect();
        let detail = format!("supported values: {}", quoted.join(", "));
        Self::new(
            FieldErrorType::NotSupported,
            field,
            Some(value.into()),
            detail,
        )
    }

    fn new(
        kind: FieldErrorType,
        field: &FieldPath,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            field: field.clone(),
            value,
            detail: detail.into(),
        }
    }

    /// The cause's `reason`, for instance `FieldValueInvalid`.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            FieldErrorType::Required => "FieldValueRequired",
            FieldErrorType::Invalid => "FieldValueInvalid",
            FieldErrorType::NotSupported => "FieldValueNotSupported",
            FieldErrorType::Forbidden => "FieldValueForbidden",
            FieldErrorType::Duplicate => "FieldValueDuplicate",
            FieldErrorType::TooLong => "FieldValueTooLong",
            FieldErrorType::TooMany => "FieldValueTooMany",
            FieldErrorType::NotFound => "FieldValueNotFound",
            FieldErrorType::TypeInvalid => "FieldValueTypeInvalid",
            FieldErrorType::Internal => "InternalError",
        }
    }

    /// The message without the path, for instance `Invalid value: -1: must be …`.
    pub fn message(&self) -> String {
        let title = match self.kind {
            FieldErrorType::Required => "Required value",
            FieldErrorType::Invalid | FieldErrorType::TypeInvalid => "Invalid value",
            FieldErrorType::NotSupported => "Unsupported value",
            FieldErrorType::Forbidden => "Forbidden",
            FieldErrorType::Duplicate => "Duplicate value",
            FieldErrorType::TooLong => "Too long",
            FieldErrorType::TooMany => "Too many",
            FieldErrorType::NotFound => "Not found",
            FieldErrorType::Internal => "Internal error",
        };
        let mut text = title.to_owned();
        if let Some(value) = &self.value {
            text.push_str(&format!(": {value}"));
        }
        if !self.detail.is_empty() {
            text.push_str(&format!(": {}", self.detail));
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_the_same_whatever_its_length() {
        let (mut path, mut text) = (FieldPath::default(), String::new());
        for round in 0..12 {
            let name = "é".repeat(round);
            path = path.child("spec").child(&name).index(round).key(&name);
            let dot = if text.is_empty() { "" } else { "." };
            text.push_str(&format!("{dot}spec.{name}[{round}][{name}]"));
            assert_eq!(path.to_string(), text);
            assert_eq!(path, FieldPath::root(&text));
        }
        assert!(text.len() > 2 * SHORT_BYTES_MAX);
        assert!(FieldPath::root("b") > FieldPath::root(&"a".repeat(200)));
    }
}
