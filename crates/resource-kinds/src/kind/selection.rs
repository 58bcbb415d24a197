//! Field selectors.

use json_tree::Value;

use super::info::Words;

/// A kind with field selectors beyond `metadata.name` and `metadata.namespace`. The defaults are
/// those of a kind without them.
pub trait Selectable: Send + Sync {
    /// The names for which [`selectable_field`](Self::selectable_field) answers.
    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&[])
    }

    /// The object's value for a field selector; `None` if the kind cannot be selected by it.
    fn selectable_field(&self, _object: &Value, _field: &str) -> Option<String> {
        None
    }

    /// Whether the value of the field is the text at its path, empty if there is none. The server
    /// then reads it without decoding the object.
    fn is_text_at_path(&self, _field: &str) -> bool {
        false
    }
}
