//! Reads the identity of an object from its metadata: at the edge, once, so that decisions compare types.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::{IncompleteMetadata, ObjectIdentity, ObjectKey, ResourceVersion, Uid};

/// The parts of an identity in `metadata`. Each fails if the server did not write the field.
pub trait MetadataIdentity {
    fn object_name(&self) -> Result<&str, IncompleteMetadata>;

    /// The namespace of an object of a namespaced kind.
    fn object_namespace(&self) -> Result<&str, IncompleteMetadata>;

    fn object_uid(&self) -> Result<Uid, IncompleteMetadata>;

    fn object_version(&self) -> Result<ResourceVersion, IncompleteMetadata>;

    /// The namespace, which is empty for cluster-scoped kinds, and the name.
    fn object_key(&self) -> Result<ObjectKey, IncompleteMetadata>;

    fn identity(&self) -> Result<ObjectIdentity, IncompleteMetadata> {
        Ok(ObjectIdentity {
            key: self.object_key()?,
            uid: self.object_uid()?,
            version: self.object_version()?,
        })
    }
}

impl MetadataIdentity for ObjectMeta {
    fn object_name(&self) -> Result<&str, IncompleteMetadata> {
        not_empty(self.name.as_deref()).ok_or(IncompleteMetadata::Name)
    }

    fn object_namespace(&self) -> Result<&str, IncompleteMetadata> {
        not_empty(self.namespace.as_deref()).ok_or(IncompleteMetadata::Namespace)
    }

    fn object_uid(&self) -> Result<Uid, IncompleteMetadata> {
        self.uid.as_deref().ok_or(IncompleteMetadata::Uid)?.parse()
    }

    fn object_version(&self) -> Result<ResourceVersion, IncompleteMetadata> {
        let absent = || IncompleteMetadata::ResourceVersion(String::new());
        self.resource_version.as_deref().ok_or_else(absent)?.parse()
    }

    fn object_key(&self) -> Result<ObjectKey, IncompleteMetadata> {
        let name = self.object_name()?;
        Ok(match not_empty(self.namespace.as_deref()) {
            Some(namespace) => ObjectKey::new(namespace, name),
            None => ObjectKey::cluster(name),
        })
    }
}

fn not_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_needs_a_name_a_uid_and_a_version() {
        let whole = ObjectMeta {
            name: Some("web".to_owned()),
            namespace: Some("shop".to_owned()),
            uid: Some("u".to_owned()),
            resource_version: Some("7".to_owned()),
            ..ObjectMeta::default()
        };
        let identity = whole.identity().unwrap();
        assert_eq!(identity.key, ObjectKey::new("shop", "web"));
        assert_eq!(identity.uid, *"u");
        assert_eq!(identity.version.get(), 7);
        let without = |change: fn(&mut ObjectMeta)| {
            let mut meta = whole.clone();
            change(&mut meta);
            meta.identity().unwrap_err()
        };
        assert_eq!(without(|meta| meta.name = None), IncompleteMetadata::Name);
        assert_eq!(
            without(|meta| meta.uid = Some(String::new())),
            IncompleteMetadata::Uid
        );
        let absent = IncompleteMetadata::ResourceVersion(String::new());
        assert_eq!(without(|meta| meta.resource_version = None), absent);
    }
}
