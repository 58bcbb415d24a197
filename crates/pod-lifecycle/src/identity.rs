use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use object_model::{IncompleteMetadata, ObjectKey, Uid};
use resource_kinds::MetadataIdentity;

/// The namespace, the name and the UID of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodIdentity {
    pub key: ObjectKey,
    pub uid: Uid,
}

impl PodIdentity {
    /// # Errors
    /// The pod has no name, namespace or UID.
    pub fn read(pod: &Pod) -> Result<Self, IncompleteMetadata> {
        let (namespace, name) = (
            pod.metadata.object_namespace()?,
            pod.metadata.object_name()?,
        );
        Ok(Self {
            key: ObjectKey::new(namespace, name),
            uid: pod.metadata.object_uid()?,
        })
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    pub fn name(&self) -> &str {
        &self.key.name
    }
}

impl fmt::Display for PodIdentity {
    /// `name_namespace(uid)`, as in the messages of kubelet.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}_{}({})",
            self.name(),
            self.namespace(),
            self.uid
        )
    }
}
