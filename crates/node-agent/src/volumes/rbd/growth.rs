//! The growth of mounted images: after the server has resized the image, the node grows its file system.
//!
//! The kernel gets the new size from the cluster. A node may not watch claims, and may only read the claims of
//! its pods. So it reads the claims of pods with images at an interval.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_kernel::{TimedCallError, blocking, call_with_timeout};
use k8s_openapi::api::core::v1::Pod;
use object_model::IncompleteMetadata;
use pod_lifecycle::PodIdentity;
use pod_lifecycle::node::volume_expansion::{RecordedVolume, may_grow, plan};
use rbd_images::{Bus, Image, device_path, exclusively};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_references::claim_of;
use tokio_util::sync::CancellationToken;

use super::{local_device, records};
use crate::api::claim_growth::ClaimGrowth;
use crate::api::object_error::ApiObjectError;
use crate::api::objects::ApiObjects;
use crate::csi_volumes::LivePod;
use crate::paths::PodDir;
use crate::volumes::mount_points::mounts_below;

/// Interval at which claims are read.
const INTERVAL: Duration = Duration::from_secs(20);

/// Time limit of a growth. A longer growth continues, and a later check finds its result.
const GROW_MAX: Duration = Duration::from_secs(60);

/// The reason why a file system has not grown.
#[derive(Debug, thiserror::Error)]
enum GrowthError {
    #[error("the kernel has no images of Ceph")]
    NoBus,
    #[error("find the device of {image}: {source}")]
    Find { image: String, source: io::Error },
    #[error(transparent)]
    FileSystem(#[from] local_device::LocalDeviceError),
    #[error(transparent)]
    Call(#[from] TimedCallError),
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
    /// The API server has rejected a request, or did not respond.
    #[error(transparent)]
    Api(#[from] ApiObjectError),
    /// The text of the event about the failure.
    #[error("{0}")]
    Reported(String),
}

/// Grows the file systems of these pods' images with their claims, until `shutdown`.
pub async fn keep_growing(
    objects: Arc<ApiObjects>,
    node: String,
    data_dir: PathBuf,
    pods: impl Fn() -> Vec<LivePod>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for live in pods() {
            let Ok(identity) = PodIdentity::read(&live.pod) else {
                continue;
            };
            let dir = PodDir::new(&data_dir, &identity);
            let at = dir.clone();
            let images = blocking(move || records(&at)).await;
            let images = images.unwrap_or_else(|error: io::Error| {
                let error = format!("read the records of images: {error}");
                tracing::warn!(error, "images do not grow");
                Vec::new()
            });
            for (volume, image) in images {
                let target = dir.volume(&volume);
                let grown = grow(&objects, &node, &live, &volume, image, target).await;
                if let Err(error) = grown {
                    tracing::warn!(volume, %error, "an image does not grow yet");
                }
            }
        }
    }
}

/// Grows the file system of one volume, if its claim requests more.
async fn grow(
    objects: &ApiObjects,
    node: &str,
    live: &LivePod,
    volume: &str,
    image: Image,
    target: PathBuf,
) -> Result<(), GrowthError> {
    let namespace = live.pod.metadata.object_namespace()?;
    let Some(name) = writable_claim(&live.pod, volume)? else {
        return Ok(());
    };
    let claim = objects.claim(namespace, &name).await?;
    let Some(claim) = claim.filter(|claim| may_grow(claim, RecordedVolume::default())) else {
        return Ok(());
    };
    let persistent = objects.volume_of(&claim).await?;
    let spec = persistent.spec.as_ref();
    let source = spec.and_then(|spec| spec.rbd.as_ref());
    let is_block = spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    let is_read_only = source.is_none_or(|source| source.read_only == Some(true));
    let growth = plan(&claim, &persistent, RecordedVolume::default());
    let Some(growth) = growth.filter(|_| !is_block && !is_read_only) else {
        return Ok(());
    };
    let desired_bytes = u64::try_from(growth.capacity.value()).unwrap_or(0);
    let growing = ClaimGrowth {
        objects,
        events: &live.events,
        node,
        volume: persistent.metadata.object_name()?,
        growth,
    };
    let claim = growing.begin(&claim).await?;
    let key = format!("grow {}", target.display());
    let result =
        call_with_timeout(key, GROW_MAX, move || fill(&image, &target, desired_bytes)).await;
    match result.map_err(GrowthError::from).flatten() {
        Ok(FillResult::Filled) => Ok(growing.succeeded(&claim).await?),
        Ok(FillResult::NotYet) => Ok(()),
        Err(error) => {
            let message = error.to_string();
            let event = growing.warn(&message);
            let recorded = RecordedVolume::default();
            growing.failed(&claim, recorded, &message, false).await?;
            Err(GrowthError::Reported(event))
        }
    }
}

/// The claim of a pod's volume, if the pod may write to it.
fn writable_claim(pod: &Pod, volume: &str) -> Result<Option<String>, IncompleteMetadata> {
    let pod_name = pod.metadata.object_name()?;
    let mut volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    let claim = volumes
        .find(|candidate| candidate.name == volume)
        .and_then(|volume| claim_of(pod_name, volume));
    Ok(claim.and_then(|(claim, read_only)| (!read_only).then_some(claim)))
}

/// The result of an attempt.
enum FillResult {
    /// The file system fills the device.
    Filled,
    /// The kernel does not have the new size yet, or the volume is being unmounted.
    NotYet,
}

/// Grows the file system of a mounted image to the size of its device.
fn fill(image: &Image, target: &Path, desired_bytes: u64) -> Result<FillResult, GrowthError> {
    let find_error = |source: io::Error| GrowthError::Find {
        image: image.full_name(),
        source,
    };
    let bus = Bus::present().ok_or(GrowthError::NoBus)?;
    let opened = exclusively(image, || {
        let Some(device) = bus.find_device(image)? else {
            return Ok(None);
        };
        // While the device is open, it is not unmapped, and no other image gets its number.
        let open = File::open(device_path(&device))?;
        Ok(Some((device, open)))
    });
    let Some((device, _open)) = opened.map_err(find_error)? else {
        return Ok(FillResult::NotYet);
    };
    let size = bus.size(&device).map_err(find_error)?;
    if size < desired_bytes || mounts_below(target).map_err(find_error)?.is_empty() {
        let image = image.full_name();
        tracing::debug!(image, size, desired_bytes, "an image grows later");
        return Ok(FillResult::NotYet);
    }
    local_device::grow(&device_path(&device), target)?;
    Ok(FillResult::Filled)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn volumes_that_a_pod_writes_to_by_a_claim_grow() {
        let pod: Pod = json_tree::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "d", "readOnly": true}},
                {"name": "e", "rbd": {"monitors": ["m"], "image": "i"}}]}}))
        .unwrap();
        let claim = |volume: &str| writable_claim(&pod, volume).unwrap();
        assert_eq!(claim("a").as_deref(), Some("c"));
        for volume in ["b", "e", "none"] {
            assert_eq!(claim(volume), None, "{volume}");
        }
    }
}
