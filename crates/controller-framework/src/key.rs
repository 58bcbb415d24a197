//! The name of an object within its kind.

use kube_api_client::Resource;
use object_model::ObjectKey;

/// The namespace and the name of an object; each may be empty in an object that no server has sent.
pub fn object_key<K: Resource>(object: &K) -> ObjectKey {
    Identity::of(object).key()
}

/// The identity of an object and of its state. Each field may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity<'o> {
    /// Namespace; empty for cluster-scoped kinds.
    pub namespace: &'o str,
    /// Name of the object.
    pub name: &'o str,
    /// UID of the object.
    pub uid: &'o str,
    /// resourceVersion of the object.
    pub resource_version: &'o str,
}

impl<'o> Identity<'o> {
    /// The identity of an object.
    pub fn of<K: Resource>(object: &'o K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default(),
        }
    }

    /// The namespace and the name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace, self.name)
    }
}
