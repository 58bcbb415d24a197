//! Devices of a pod. A pod that claims devices waits until they can be prepared, before its volumes are
//! prepared.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::resources::devices::{claims, unprepared};
use resource_kinds::reasons::devices::FAILED_PREPARE;

use super::VolumeError;
use crate::api::objects::ApiObjects;

/// The reason why a pod's volumes or devices are not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotPrepared {
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("Failed to prepare dynamic resources: {0}")]
    Devices(String),
}

impl NotPrepared {
    /// The reason for the pod's event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Volume(error) => error.error.reason(),
            Self::Devices(_) => FAILED_PREPARE,
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
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
    // The agent may have a version of the object from before the names of the claims were in its status.
    let mut current = pod.clone();
    if names.iter().any(|(_, claim)| claim.is_none()) {
        let found = objects.pod(&namespace, &name).await;
        let found = found.map_err(NotPrepared::Devices)?;
        current.status = found.and_then(|found| found.status);
        names = claims(&current);
    }
    let mut found = BTreeMap::new();
    for claim in names.into_iter().filter_map(|(_, claim)| claim) {
        let there = objects.resource_claim(&namespace, &claim).await;
        if let Some(there) = there.map_err(NotPrepared::Devices)? {
            found.insert(claim, there);
        }
    }
    let none = BTreeSet::new();
    let why = unprepared(&current, &found, &none);
    why.map_or(Ok(()), |why| Err(NotPrepared::Devices(why)))
}
