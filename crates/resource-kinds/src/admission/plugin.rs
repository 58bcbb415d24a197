//! The interface of an admission plug-in, and the parts that several of them share.

use json_tree::Value;
use object_model::Status;

use super::reader::ObjectReader;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    /// A change of an object, or of a sub-resource of an object.
    Update,
    Delete,
}

#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest<'a> {
    pub operation: Operation,
    /// API group, empty for core.
    pub group: &'a str,
    /// Resource in the plural, for instance `pods`.
    pub plural: &'a str,
    /// Sub-resource, empty for the object itself.
    pub subresource: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// Name; may be empty on create.
    pub name: &'a str,
    /// Name of the user who sent the request.
    pub user: &'a str,
    /// The stored object, on update and delete.
    pub old: Option<&'a Value>,
}

/// An admission plug-in: it may change an object before it is stored, or refuse it.
pub trait Admission: Send + Sync + 'static {
    /// The plug-in's name in Kubernetes, for instance `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Changes the object, or refuses the request. `object` is null on delete.
    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status>;

    /// Warnings about a request that is not refused.
    fn warnings(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: &Value,
        _cluster: &dyn ObjectReader,
    ) -> Vec<String> {
        Vec::new()
    }
}

/// Whether the request creates an object of a core kind.
pub(super) fn creates(request: &AdmissionRequest<'_>, plural: &str) -> bool {
    request.operation == Operation::Create
        && request.group.is_empty()
        && request.plural == plural
        && request.subresource.is_empty()
}

/// A copy of an object without these fields. Maps that are empty after the removal are removed, too.
pub(super) fn without(object: &Value, fields: &[&[&str]]) -> Value {
    let mut rest = object.clone();
    for field in fields {
        remove_field(&mut rest, field);
    }
    rest
}

fn remove_field(value: &mut Value, field: &[&str]) {
    let Some((first, more)) = field.split_first() else {
        return;
    };
    let Some(map) = value.as_object_mut() else {
        return;
    };
    let is_empty = match map.get_mut(*first) {
        Some(child) if !more.is_empty() => {
            remove_field(child, more);
            child.as_object().is_some_and(json_tree::Map::is_empty)
        }
        _ => true,
    };
    if is_empty {
        map.shift_remove(*first);
    }
}

/// The refusal of a request: a Status with code 403.
pub(super) fn forbidden(request: &AdmissionRequest<'_>, object: &Value, why: &str) -> Status {
    let object_name = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = if request.name.is_empty() {
        object_name
    } else {
        request.name
    };
    Status::forbidden(request.group, request.plural, name, why)
}
