//! The sub-resource `scale`.

use json_tree::Value;
use object_model::FieldError;

/// A kind with the sub-resource `scale`.
pub trait Scalable: Send + Sync {
    /// The `autoscaling/v1` Scale of an object.
    fn scale(&self, object: &Value) -> Value;

    /// The path of the desired number of replicas, if the object does not have that field.
    fn missing_replicas(&self, _object: &Value) -> Option<&str> {
        None
    }

    /// Copies the fields of an updated Scale into the object; returns the validation errors of the Scale.
    fn set_scale(&self, object: &mut Value, scale: &Value) -> Vec<FieldError>;
}
