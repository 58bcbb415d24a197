//! Devices of a pod, which are allocated and prepared before its volumes: devices of plugins, and claims.

use std::collections::BTreeMap;
use std::io;

use k8s_openapi::api::core::v1::Pod;
use object_model::{IncompleteMetadata, Uid};
use pod_lifecycle::resources::devices::{claims, unprepared};
use resource_kinds::MetadataIdentity;
use resource_kinds::reasons::devices::FAILED_PREPARE;

use super::VolumeError;
use crate::api::object_error::ApiObjectError;
use crate::api::objects::ApiObjects;
use crate::devices::NodeDevices;
use crate::devices::claims::ClaimError;
use crate::devices::plugins::AllocationError;
use crate::paths::PodDir;

/// The reason of a pod that the node rejects because its devices are not allocated; as kubelet.
const ALLOCATION_FAILED: &str = "UnexpectedAdmissionError";

/// The reason of an event about devices that stay with a pod that has ended.
const FAILED_UNPREPARE: &str = "FailedUnprepareDynamicResources";

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
    #[error("Failed to prepare dynamic resources: {0}")]
    Claim(#[from] ClaimError),
    /// The text is kubelet's.
    #[error("Allocate failed due to {0}, which is unexpected")]
    Allocation(#[from] AllocationError),
}

impl NotPrepared {
    /// The reason for the pod's event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Volume(error) => error.error.reason(),
            Self::Devices(_) | Self::Api(_) | Self::Metadata(_) | Self::Claim(_) => FAILED_PREPARE,
            Self::Allocation(_) => ALLOCATION_FAILED,
        }
    }

    /// Whether the pod fails; otherwise the preparation is repeated.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Allocation(error) if error.is_final())
    }
}

/// Allocates the devices of plugins for a pod, and prepares its claims. May be repeated. `has_ended` returns whether a
/// pod does not need its devices any more.
///
/// # Errors
/// The missing device.
pub async fn prepare(
    devices: &NodeDevices,
    objects: &ApiObjects,
    pod: &Pod,
    dir: &PodDir,
    has_ended: &(dyn Fn(&Uid) -> bool + Send + Sync),
) -> Result<(), NotPrepared> {
    let uid = pod.metadata.object_uid()?;
    if let Some(spec) = &pod.spec {
        let allocated = devices.plugins.allocate(&uid, spec, dir, has_ended);
        allocated.await?;
    }
    prepare_claims(devices, objects, pod, &uid).await
}

async fn prepare_claims(
    devices: &NodeDevices,
    objects: &ApiObjects,
    pod: &Pod,
    uid: &Uid,
) -> Result<(), NotPrepared> {
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
    for name in names.iter().filter_map(|(_, claim)| claim.as_ref()) {
        if let Some(claim) = objects.resource_claim(namespace, name).await? {
            existing.insert(name.clone(), claim);
        }
    }
    if let Some(reason) = unprepared(&current, &existing, &devices.claims.drivers()) {
        return Err(NotPrepared::Devices(reason));
    }
    for (pod_claim, name) in names {
        if let Some(claim) = name.and_then(|name| existing.get(&name)) {
            devices.claims.prepare(uid, &pod_claim, claim).await?;
        }
    }
    Ok(())
}

/// The reason why a pod's volumes or devices are not released.
#[derive(Debug, thiserror::Error)]
pub enum NotReleased {
    #[error("Failed to unprepare dynamic resources: {0}")]
    Claims(#[from] ClaimError),
    #[error("Failed to release the devices of plugins: {0}")]
    Plugins(io::Error),
    #[error("UnmountVolume failed: {0}")]
    Volumes(String),
}

impl NotReleased {
    /// The reason for the pod's event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Claims(_) | Self::Plugins(_) => FAILED_UNPREPARE,
            Self::Volumes(_) => "FailedUnMount",
        }
    }
}

/// Reverts [`prepare`] for a pod that has ended.
///
/// # Errors
/// A driver has failed, or a record is not removed.
pub async fn release(devices: &NodeDevices, uid: &Uid, dir: &PodDir) -> Result<(), NotReleased> {
    devices.claims.release(uid).await?;
    let released = devices.plugins.release(uid, dir).await;
    released.map_err(NotReleased::Plugins)
}
