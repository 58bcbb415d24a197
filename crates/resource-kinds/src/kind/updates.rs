//! Updates through sub-resources that are a part of the object.

use json_tree::Value;
use object_model::FieldError;

use super::FieldRead;
use crate::json::parts;

/// The rules of updates through `status`. The defaults are those of most kinds.
pub trait StatusUpdate: Send + Sync {
    /// Restores the fields that the update may not change: all but the status. The metadata stays as sent, its
    /// rules are those of the pipeline.
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
    }

    /// The parts outside of the metadata and the status of which these rules and those of admission
    /// read some fields only, with these fields; of all others they may read all. Such a part may be
    /// without its other fields in both objects. The kind's defaults must not concern the status.
    fn reads(&self) -> &'static [FieldRead] {
        &[]
    }

    /// The validation errors of a changed status.
    fn validate_status_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }
}

/// The rules of updates through other sub-resources, such as `resize` of a pod. The defaults are
/// those of a kind without such sub-resources.
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
