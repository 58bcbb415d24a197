//! The summaries of nodes (`/stats/summary` of the kubelet), and the usage of a volume according to them.

use std::time::Duration;

use futures::future::join_all;
use json_tree::Value;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::Client;
use resource_kinds::storage::Driver;
use resource_kinds::storage::nfs_class::is_nfs_directory;

/// A node that does not respond within this time is printed without its usage.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The known usage of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeUsage {
    /// Used bytes, as the node's summary reports them.
    pub used: Option<i64>,
    /// Whether the volume can hold no more than its size.
    pub enforced: Option<bool>,
}

/// The summaries of these nodes. A node without permission or response is left out.
pub async fn read(client: &Client, nodes: impl IntoIterator<Item = String>) -> Vec<Value> {
    let figures = nodes.into_iter().map(|node| async move {
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
        let request = client.get::<Value>(&path);
        tokio::time::timeout(TIMEOUT, request).await.ok()?.ok()
    });
    join_all(figures).await.into_iter().flatten().collect()
}

/// The usage of the volume of a claim.
pub fn usage(
    claim: &ObjectMeta,
    volume: Option<&PersistentVolume>,
    figures: &[Value],
) -> VolumeUsage {
    let measured = volume.and_then(|volume| measured(volume, figures));
    let used = measured.and_then(|measured| measured["usedBytes"].as_i64());
    let mounted = || match volume.is_some_and(is_in_pool) {
        true => None,
        false => of_own_file_system(claim, figures),
    };
    VolumeUsage {
        used: used.or_else(mounted),
        enforced: volume.and_then(|volume| enforced(volume, measured)),
    }
}

/// The usage in the node's summary, for a volume of the classes of mainstay.
fn measured<'a>(volume: &PersistentVolume, figures: &'a [Value]) -> Option<&'a Value> {
    let path = volume.spec.as_ref()?.local.as_ref()?.path.as_str();
    let mut all = figures
        .iter()
        .flat_map(|node| node["localVolumes"].as_array().into_iter().flatten());
    all.find(|volume| volume["path"] == path)
}

/// Whether the file system of a volume is the pool of its node: the usage of the file system is the usage of all
/// volumes in the pool.
fn is_in_pool(volume: &PersistentVolume) -> bool {
    Driver::of_volume(volume) == Some(Driver::LocalCow)
}

/// Whether the size of a volume is enforced; `None` for the volumes of other provisioners.
fn enforced(volume: &PersistentVolume, measured: Option<&Value>) -> Option<bool> {
    if is_nfs_directory(volume) {
        return Some(false);
    }
    let spec = volume.spec.as_ref()?;
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    match Driver::of_volume(volume)? {
        Driver::LocalCow => Some(true),
        // A device has its size.
        Driver::Local if is_block => Some(true),
        Driver::Local => measured.map(|measured| measured["limitBytes"].is_i64()),
    }
}

/// The usage of a mounted volume. For a directory on the node's disk the file system reports the
/// disk's usage, which is not the volume's.
fn of_own_file_system(claim: &ObjectMeta, figures: &[Value]) -> Option<i64> {
    let name = claim.name.as_deref().unwrap_or_default();
    let namespace = claim.namespace.as_deref().unwrap_or_default();
    figures.iter().find_map(|node| {
        let disk = &node["node"]["fs"]["capacityBytes"];
        let pods = node["pods"].as_array()?.iter();
        let mut volumes = pods.flat_map(|pod| pod["volume"].as_array().into_iter().flatten());
        let volume = volumes.find(|volume| {
            volume["pvcRef"]["name"] == name && volume["pvcRef"]["namespace"] == namespace
        })?;
        (volume["capacityBytes"] != *disk).then(|| volume["usedBytes"].as_i64())?
    })
}
