//! The name of an object within its kind.

use kube_api_client::Resource;
use object_model::{IncompleteMetadata, ObjectKey, ResourceVersion};

/// The namespace and the name of an object from a cache, which accepts only objects with a name.
pub fn object_key<K: Resource>(object: &K) -> ObjectKey {
    let meta = object.meta();
    ObjectKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// The identity of an object and of its state, which borrows the texts of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'o> {
    /// Empty for cluster-scoped kinds.
    pub namespace: &'o str,
    pub name: &'o str,
    pub uid: &'o str,
    pub version: ResourceVersion,
}

impl<'o> Identity<'o> {
    pub fn of<K: Resource>(object: &'o K) -> Result<Self, IncompleteMetadata> {
        let meta = object.meta();
        Self::parse(IdentityTexts {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            name: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
            resource_version: meta.resource_version.as_deref().unwrap_or_default(),
        })
    }

    /// Fails if the name or the UID is empty, or the resourceVersion is no positive number.
    pub fn parse(texts: IdentityTexts<'o>) -> Result<Self, IncompleteMetadata> {
        if texts.name.is_empty() {
            return Err(IncompleteMetadata::Name);
        }
        if texts.uid.is_empty() {
            return Err(IncompleteMetadata::Uid);
        }
        Ok(Self {
            namespace: texts.namespace,
            name: texts.name,
            uid: texts.uid,
            version: texts.resource_version.parse()?,
        })
    }

    /// Whether both are states of the same object.
    pub fn is_of_object(&self, other: &Identity<'_>) -> bool {
        self.uid == other.uid
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace, self.name)
    }
}

/// The parts of an identity as they are in the metadata; an absent part is empty.
#[derive(Clone, Copy, Debug)]
pub struct IdentityTexts<'o> {
    /// Empty for cluster-scoped kinds.
    pub namespace: &'o str,
    pub name: &'o str,
    pub uid: &'o str,
    pub resource_version: &'o str,
}
