//! Field selectors.

use json_tree::Value;

use super::info::Words;

/// A kind with field selectors in addition to `metadata.name` and `metadata.namespace`. The default methods are those
/// of a kind without such selectors.
pub trait Selectable: Send + Sync {
    /// The fields that [`selectable_field`](Self::selectable_field) supports.
    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&[])
    }

    /// The object's value for a field selector; `None` if the kind does not support the field.
    fn selectable_field(&self, _object: &Value, _field: &str) -> Option<String> {
        None
    }

    /// Whether the value of the field is the text at its path, or empty if the text is absent. The server then reads
    /// the text without decoding the object.
    fn is_text_at_path(&self, _field: &str) -> bool {
        false
    }
}
