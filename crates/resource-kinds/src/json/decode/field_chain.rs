//! The path of a value, for error messages.

use json_tree::Value;

use super::DecodeError;
use crate::json::api_types::Structure;

/// The path of a value, from the inner field to the outer field. The text is only built for an error message. As in
/// Go's messages, an element of a list or a map has the path of its field.
pub(super) enum FieldChain<'a> {
    /// The object itself.
    Root,
    /// A field of a structure.
    Field {
        /// The path of the structure.
        of: &'a FieldChain<'a>,
        structure: &'a Structure,
        name: &'a str,
    },
}

impl FieldChain<'_> {
    /// The error for a value that does not have the expected type.
    pub(super) fn mismatch(&self, value: &Value, expected: &str) -> DecodeError {
        let target = match self {
            Self::Root => "Go value".to_owned(),
            Self::Field { structure, .. } => {
                let structure = structure.short_name();
                let mut names = self.names();
                names.reverse();
                let path = names.join(".");
                format!("Go struct field {structure}.{path}")
            }
        };
        DecodeError::Mismatch {
            actual: json_type(value),
            target,
            expected: expected.to_owned(),
        }
    }

    /// The names of the fields, from the inner field to the outer field.
    fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut link = self;
        while let Self::Field { of, name, .. } = link {
            names.push(*name);
            link = of;
        }
        names
    }
}

/// The type of a JSON value, as upstream's decoder names it.
pub(super) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
