//! Errors of a patch, and their texts for the client.

use json_tree::Value;
use object_model::{Cause, Status, StatusDetails, StatusReason};

/// The error of a patch. The messages are those of apimachinery's `mergepatch`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch does not have the form of its content type.
    #[error("{0}")]
    Malformed(String),
    /// A JSON patch has more operations than allowed.
    #[error("The allowed maximum operations in a JSON patch is {max}, got {count}")]
    TooManyOperations {
        /// The number of operations.
        count: usize,
        /// The maximum number.
        max: usize,
    },
    /// A JSON patch is well-formed but does not fit the document.
    #[error("{0}")]
    DoesNotApply(String),
    /// A test in a JSON patch fails.
    #[error("{0}")]
    TestFailed(String),
    /// A list element lacks its merge key.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The list element, as text.
        map: String,
        /// The missing field.
        key: String,
    },
    /// `$patch` has a value that is not allowed.
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective {
        /// The value of `$patch`.
        directive: String,
        /// The map that contains it, as text.
        map: String,
    },
    /// A list of lists cannot be merged.
    #[error("lists of lists are not supported")]
    ListOfLists,
}

impl PatchError {
    /// The response for the client. A patch that does not apply has upstream's message for 422, and
    /// the cause in the details.
    pub fn status(&self) -> Status {
        match self {
            Self::TooManyOperations { .. } => Status::new(
                StatusReason::RequestEntityTooLarge,
                format!("Request entity too large: {self}"),
            ),
            Self::DoesNotApply(_) | Self::TestFailed(_) | Self::ListOfLists => {
                let text = "the server rejected our request due to an error in our request";
                let mut status = Status::new(StatusReason::Invalid, text);
                status.details = Some(Box::new(StatusDetails {
                    causes: vec![Cause {
                        message: self.to_string(),
                        field: "patch".to_owned(),
                        ..Cause::default()
                    }],
                    ..StatusDetails::default()
                }));
                status
            }
            Self::Malformed(_) | Self::NoMergeKey { .. } | Self::UnknownDirective { .. } => {
                Status::bad_request(self.to_string())
            }
        }
    }

    pub(crate) fn no_merge_key(element: &Value, key: &str) -> Self {
        Self::NoMergeKey {
            map: printed(element),
            key: key.to_owned(),
        }
    }

    pub(crate) fn unknown_directive(directive: &Value, map: &Value) -> Self {
        Self::UnknownDirective {
            directive: printed(directive),
            map: printed(map),
        }
    }

    /// A value of the wrong type; `expected` is a word such as `list` or `map`.
    pub(crate) fn wrong_type(expected: &str, actual: &Value) -> Self {
        Self::Malformed(format!(
            "expected a {expected}, but received a {}",
            type_name(actual)
        ))
    }
}

/// Formats a value as Go's `%v`: `map[name:a ports:[1 2]]`, so that clients see Kubernetes' messages.
pub(crate) fn printed(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(printed).collect();
            format!("[{}]", elements.join(" "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", printed(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}
