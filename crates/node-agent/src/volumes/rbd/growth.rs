//! The growth of mounted images: the server has resized the image, and its file system follows.
//!
//! The kernel learns of the new size from the cluster. A node may not watch claims, only read those of its
//! pods: it checks at intervals, and only at pods with images.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_kernel::blocking;
use host_kernel::call_with_timeout;
use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::PodIdentity;
use pod_lifecycle::node::volume_expansion::{KnownVolume, may_grow, plan};
use rbd_images::{Bus, Image, device_path, exclusively};
use resource_kinds::pod_references::claim_of;
use tokio_util::sync::CancellationToken;

use super::{local_device, records};
use crate::api::claim_growth::ClaimGrowth;
use crate::api::objects::ApiObjects;
use crate::csi_volumes::LivePod;
use crate::paths::PodDir;
use crate::volumes::mount_points::mounts_below;

/// Interval of the looks.
const INTERVAL: Duration = Duration::from_secs(20);

/// Until a file system has grown; a longer growth continues, and is found at a later check.
const GROW_MAX: Duration = Duration::from_secs(60);

/// Lets the file systems of these pods' images grow with their claims, until `shutdown`.
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
            let dir = PodDir::of(&data_dir, &identity);
            let at = dir.clone();
            let found = blocking(move || {
                let found = records(&at);
                found.map_err(|error| format!("read the records of images: {error}"))
            })
            .await;
            let images = found.unwrap_or_else(|error| {
                tracing::warn!(error, "images do not grow");
                Vec::new()
            });
            for (volume, image) in images {
                let target = dir.volume(&volume);
                let grown = grow(&objects, &node, &live, &volume, image, target).await;
                if let Err(error) = grown {
                    tracing::warn!(volume, error, "an image does not grow yet");
                }
            }
        }
    }
}

/// Lets the file system of one volume grow, if its claim asks for it.
async fn grow(
    objects: &ApiObjects,
    node: &str,
    live: &LivePod,
    volume: &str,
    image: Image,
    target: PathBuf,
) -> Result<(), String> {
    let namespace = live.pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(name) = writable_claim(&live.pod, volume) else {
        return Ok(());
    };
    let claim = objects.claim(namespace, &name).await?;
    let Some(claim) = claim.filter(|claim| may_grow(claim, KnownVolume::default())) else {
        return Ok(());
    };
    let found = objects.volume_of(&claim).await?;
    let spec = found.spec.as_ref();
    let source = spec.and_then(|spec| spec.rbd.as_ref());
    let is_block = spec.and_then(|spec| spec.volume_mode.as_deref()) == Some("Block");
    let read_only = source.is_none_or(|source| source.read_only == Some(true));
    let growth = plan(&claim, &found, KnownVolume::default());
    let Some(growth) = growth.filter(|_| !is_block && !read_only) else {
        return Ok(());
    };
    let wanted = u64::try_from(growth.capacity.value()).unwrap_or(0);
    let growing = ClaimGrowth {
        objects,
        events: &live.events,
        node,
        volume: found.metadata.name.as_deref().unwrap_or_default(),
        growth,
    };
    let claim = growing.begin(&claim).await?;
    let key = format!("grow {}", target.display());
    let done = call_with_timeout(key, GROW_MAX, move || fill(&image, &target, wanted)).await;
    match done.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(Filled::Whole) => growing.succeeded(&claim).await,
        Ok(Filled::Later) => Ok(()),
        Err(error) => {
            let text = growing.warn(&error);
            let known = KnownVolume::default();
            growing.failed(&claim, known, &error, false).await?;
            Err(text)
        }
    }
}

/// The claim of a pod's volume, if the pod may write to it.
fn writable_claim(pod: &Pod, volume: &str) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let mut volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    let found = volumes.find(|one| one.name == volume)?;
    let (claim, read_only) = claim_of(name, found)?;
    (!read_only).then_some(claim)
}

/// The end of an attempt.
enum Filled {
    /// The file system fills the device.
    Whole,
    /// The kernel does not know the new size yet, or the volume is being unmounted.
    Later,
}

/// Lets the file system of a mounted image fill its device.
fn fill(image: &Image, target: &Path, wanted: u64) -> Result<Filled, String> {
    let shown = image.full_name();
    let failed = |error: std::io::Error| format!("find the device of {shown}: {error}");
    let bus = Bus::present().ok_or("the kernel has no images of Ceph")?;
    let opened = exclusively(image, || {
        let Some(device) = bus.find_device(image)? else {
            return Ok(None);
        };
        // While the device is open it is not unmapped, and its number is not another image's.
        let open = File::open(device_path(&device))?;
        Ok(Some((device, open)))
    });
    let Some((device, _open)) = opened.map_err(failed)? else {
        return Ok(Filled::Later);
    };
    let size = bus.size(&device).map_err(failed)?;
    if size < wanted || mounts_below(target).map_err(failed)?.is_empty() {
        tracing::debug!(image = shown, size, wanted, "an image grows later");
        return Ok(Filled::Later);
    }
    local_device::grow(&device_path(&device), target)?;
    Ok(Filled::Whole)
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
        assert_eq!(writable_claim(&pod, "a").as_deref(), Some("c"));
        for other in ["b", "e", "none"] {
            assert_eq!(writable_claim(&pod, other), None, "{other}");
        }
    }
}
