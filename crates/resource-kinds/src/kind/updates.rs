//! Updates through sub-resources that are a part of the object.

use json_tree::Value;
use object_model::FieldError;

use super::FieldRead;
use crate::json::parts;

/// The rules of updates through `status`. The default methods are those of most kinds.
pub trait StatusUpdate: Send + Sync {
    /// Restores the fields that the update may not change: everything except the status. The metadata is not
    /// restored, because the pipeline handles it.
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
    }

    /// The parts outside of the metadata and the status of which these rules and the rules of admission read only
    /// some fields, with these fields. All fields of other parts may be read. Both objects may lack the other fields
    /// of a listed part. The kind's defaults must not concern the status.
    fn reads(&self) -> &'static [FieldRead] {
        &[]
    }

    /// The validation errors of a changed status.
    fn validate_status_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }
}

/// The rules of updates through other sub-resources, such as `resize` of a pod. The default methods are those of a
/// kind without such sub-resources.
pub trait SubresourceUpdate: Send + Sync {
    /// Restores the fields that the update may not change.
    fn prepare_subresource_update(&self, _name: &str, object: &mut Value, old: &Value) {
        old.clone_into(object);
    }

    /// The validation errors of the update.
    fn validate_subresource_update(
        &self,
        _name: &str,
        _object: &Value,
        _old: &Value,
    ) -> Vec<FieldError> {
        Vec::new()
    }
}
