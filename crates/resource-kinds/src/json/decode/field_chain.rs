//! The position of a value, for messages.

use json_tree::Value;

use crate::json::api_types::Structure;

/// The path of a value, from the inside out. Its text is only built for a message. An element of a list or a
/// map has the place of its field, as in Go's messages.
pub(super) enum FieldChain<'a> {
    /// The object itself.
    Root,
    /// A field of a structure.
    Field {
        /// The place of the structure.
        of: &'a FieldChain<'a>,
        /// The type of the structure.
        structure: &'a Structure,
        /// The name of the field.
        name: &'a str,
    },
}

impl FieldChain<'_> {
    /// The message about a value of another type than the wanted one.
    pub(super) fn mismatch(&self, given: &Value, wanted: &str) -> String {
        let given = json_type(given);
        match self {
            Self::Root => {
                format!("json: cannot unmarshal {given} into Go value of type {wanted}")
            }
            Self::Field { structure, .. } => {
                let structure = structure.short_name();
                let mut names = self.names();
                names.reverse();
                let path = names.join(".");
                format!(
                    "json: cannot unmarshal {given} into Go struct field {structure}.{path} of \
                     type {wanted}"
                )
            }
        }
    }

    /// The names of the fields, from the inside out.
    fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut place = self;
        while let Self::Field { of, name, .. } = place {
            names.push(*name);
            place = of;
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
