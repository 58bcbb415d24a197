//! Devices of a pod. A pod that claims devices waits until they can be prepared, before its volumes are
//! prepared.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use object_model::IncompleteMetadata;
use pod_lifecycle::resources::devices::{claims, unprepared};
use resource_kinds::MetadataIdentity;
use resource_kinds::reasons::devices::FAILED_PREPARE;

use super::VolumeError;
use crate::api::object_error::ApiObjectError;
use crate::api::objects::ApiObjects;

/// The reason why a pod's volumes or devices are not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotPrepared {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("Failed to prepare dynamic resources: {0}")]
    Devices(String),
    #[error("Failed to prepare dynamic resources: {0}")]
    Api(#[from] ApiObjectError),
    #[error("Failed to prepare dynamic resources: {0}")]
    Metadata(#[from] IncompleteMetadata),
}

impl NotPrepared {
    /// The reason for the pod's event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Volume(error) => error.error.reason(),
            Self::Devices(_) | Self::Api(_) | Self::Metadata(_) => FAILED_PREPARE,
        }
    }
}

/// Prepares the devices of a pod.
///
/// # Errors
/// The missing device. No device driver can register with the agent, so a claim for devices always fails.
pub async fn prepare(objects: &ApiObjects, pod: &Pod) -> Result<(), NotPrepared> {
    let mut names = claims(pod);
    if names.is_empty() {
        return Ok(());
    }
    let namespace = pod.metadata.object_namespace()?;
    // The agent may have a version of the object from before the names of the claims were in its status.
    let mut current = pod.clone();
    if names.iter().any(|(_, claim)| claim.is_none()) {
        let stored = objects.pod(namespace, pod.metadata.object_name()?).await?;
        current.status = stored.and_then(|pod| pod.status);
        names = claims(&current);
    }
    let mut existing = BTreeMap::new();
    for name in names.into_iter().filter_map(|(_, claim)| claim) {
        if let Some(claim) = objects.resource_claim(namespace, &name).await? {
            existing.insert(name, claim);
        }
    }
    let prepared_devices = BTreeSet::new();
    let reason = unprepared(&current, &existing, &prepared_devices);
    reason.map_or(Ok(()), |reason| Err(NotPrepared::Devices(reason)))
}
