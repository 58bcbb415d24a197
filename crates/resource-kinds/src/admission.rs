//! What a cluster adds to, or refuses of, a request on account of other objects: the built-in
//! admission plug-ins. Each is pure over the object and a [`Lookup`].

use object_model::Status;
use serde_json::Value;

use crate::kind::Lookup;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A changed object, or a sub-resource of it.
    Update,
    /// An object on its way out.
    Delete,
}

/// The request as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest<'a> {
    /// What is being done.
    pub operation: Operation,
    /// API group, empty for core.
    pub group: &'a str,
    /// Resource, plural.
    pub plural: &'a str,
    /// Sub-resource, empty for the object itself.
    pub subresource: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// Name; may be empty on create.
    pub name: &'a str,
    /// Who asks.
    pub user: &'a str,
    /// The stored object, on update and delete.
    pub old: Option<&'a Value>,
}

/// One admission plug-in.
pub trait Admission: Send + Sync + 'static {
    /// The plug-in's name as Kubernetes has it, for instance `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Changes the object, or refuses the request. `object` is null on delete.
    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn Lookup,
    ) -> Result<(), Status>;
}
