//! The upkeep of volumes that pods use: their expansion, their statistics, and the repeated publication
//! that some drivers request.
//!
//! A node must not watch claims and volumes, and may only read those of its pods. So the node reads them at
//! an interval, as kubelet does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use csi_client::{Driver, NodeCapabilities, VolumeStats};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use object_model::IncompleteMetadata;
use pod_lifecycle::node::volume_expansion::may_grow;
use resource_kinds::{MetadataIdentity, pod_references};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::drivers::RegisteredDriver;
use super::error::CsiVolumeError;
use super::records::VolumeData;
use super::request::CsiVolume;
use super::volumes::CsiVolumes;
use crate::api::events::PodEvents;
use crate::api::objects::{ApiObjects, BoundClaim};

/// Interval of the rounds.
const INTERVAL: Duration = Duration::from_secs(10);
/// Claims are read in each round whose number is a multiple of this; kubelet reads the claims of a pod
/// about once a minute.
const CLAIMS_EVERY: u32 = 2;
/// Volumes are published again in each round whose number is a multiple of this; kubelet does it about
/// once a minute.
const PUBLISH_EVERY: u32 = 3;

/// The tasks of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UpkeepRound {
    /// Whether volumes grow.
    grows: bool,
    /// Whether volumes are published again.
    publishes: bool,
}

impl UpkeepRound {
    /// The tasks of the round with a number; the first number is 1.
    fn numbered(number: u32) -> Self {
        Self {
            grows: number.is_multiple_of(CLAIMS_EVERY),
            publishes: number.is_multiple_of(PUBLISH_EVERY),
        }
    }
}

/// A pod whose volumes are ready.
#[derive(Clone)]
pub struct LivePod {
    /// The last version of the pod that the agent read.
    pub pod: Arc<Pod>,
    /// The `fsGroup` of the pod.
    pub group: Option<u32>,
    /// Sends events about the pod.
    pub events: PodEvents,
}

/// Maintains the volumes of running pods until `shutdown`. A driver that does not respond delays only its
/// own volumes.
pub async fn keep_up(
    volumes: Arc<CsiVolumes>,
    objects: Arc<ApiObjects>,
    pods: impl Fn() -> Vec<LivePod>,
    shutdown: CancellationToken,
) {
    let mut rounds = JoinSet::new();
    let mut busy_drivers = BTreeSet::new();
    for number in 1_u32.. {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        while let Some(round) = rounds.try_join_next() {
            match round {
                Ok(driver) => busy_drivers.remove(&driver),
                // The error does not name the driver of the round.
                Err(_) => {
                    rounds.abort_all();
                    busy_drivers = BTreeSet::new();
                    break;
                }
            };
        }
        for (driver, published) in volumes.published_by_driver(&pods()).await {
            if !busy_drivers.insert(driver.clone()) {
                continue;
            }
            let (volumes, objects) = (volumes.clone(), objects.clone());
            rounds.spawn(async move {
                volumes
                    .run_round(&objects, &driver, &published, UpkeepRound::numbered(number))
                    .await;
                driver
            });
        }
    }
}

/// The publication of a volume for a running pod.
struct PublishedVolume {
    data: VolumeData,
    /// The directory in which the volume is staged.
    staging_path: Option<String>,
    pod: LivePod,
}

impl CsiVolumes {
    /// The publications for `pods`, by driver.
    async fn published_by_driver(
        &self,
        pods: &[LivePod],
    ) -> BTreeMap<String, Vec<PublishedVolume>> {
        let mut by_driver: BTreeMap<String, Vec<PublishedVolume>> = BTreeMap::new();
        let records = match self.records().await {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(%error, "volumes are not checked");
                return by_driver;
            }
        };
        for data in records.publications {
            let Some(pod) = pods.iter().find(|live| is_published_for(&data, &live.pod)) else {
                continue;
            };
            let stage = records.stages.iter().find(|stage| stage.id() == data.id());
            let staging_path = stage.map(|stage| stage.path.clone());
            let volumes = by_driver.entry(data.driver_name.clone()).or_default();
            volumes.push(PublishedVolume {
                data,
                staging_path,
                pod: pod.clone(),
            });
        }
        let paths = by_driver.values().flatten();
        let paths: BTreeSet<PathBuf> = paths.filter_map(|volume| self.path(volume)).collect();
        self.stats().retain(|path| paths.contains(path));
        by_driver
    }

    fn path(&self, volume: &PublishedVolume) -> Option<PathBuf> {
        self.directory().node_path(volume.data.path.as_ref())
    }

    /// Maintains the volumes of a driver, one after another.
    async fn run_round(
        &self,
        objects: &ApiObjects,
        driver: &str,
        volumes: &[PublishedVolume],
        round: UpkeepRound,
    ) {
        let Ok(RegisteredDriver {
            driver,
            capabilities,
            ..
        }) = self.drivers().get(driver)
        else {
            return;
        };
        if round.publishes {
            self.publish_all(objects, &driver.name, volumes).await;
        }
        if capabilities.stats {
            self.read_stats(&driver, capabilities, volumes).await;
        }
        let grows = capabilities.expand && round.grows;
        for volume in volumes.iter().filter(|_| grows) {
            if let Err(error) = self.grow(objects, volume).await {
                let volume = &volume.data.volume;
                tracing::warn!(volume, %error, "a volume does not grow yet");
            }
        }
    }

    /// Publishes volumes again, if their driver requests it: the driver renews the content of a volume, for
    /// instance with a new token of the pod.
    async fn publish_all(&self, objects: &ApiObjects, driver: &str, volumes: &[PublishedVolume]) {
        let object = match self.driver_object(driver).await {
            Ok(Some(object)) if object.spec.requires_republish == Some(true) => object,
            Ok(_) => return,
            Err(error) => return tracing::warn!(driver, %error, "a CSIDriver cannot be read"),
        };
        for published in volumes {
            let LivePod { pod, group, events } = &published.pod;
            let result = match current(objects, published).await {
                Ok(Some(volume)) => {
                    self.publish_again(objects, pod, &volume, *group, &object)
                        .await
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                let volume = &published.data.volume;
                let text = format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}");
                events.warning("FailedMount", text);
            }
        }
    }

    /// Reads the statistics of volumes that are due.
    async fn read_stats(
        &self,
        driver: &Driver,
        capabilities: NodeCapabilities,
        volumes: &[PublishedVolume],
    ) {
        for volume in volumes {
            let Some(path) = self.path(volume) else {
                continue;
            };
            let now = Instant::now();
            if !self.stats().is_due(&path, now) {
                continue;
            }
            let data = &volume.data;
            let staging = volume.staging_path.as_deref();
            let stats = driver.stats(&data.volume_handle, &data.path, staging).await;
            let stats = stats.map(|stats| VolumeStats {
                is_abnormal: stats.is_abnormal.filter(|_| capabilities.condition),
                ..stats
            });
            let is_silent = stats.as_ref().is_err_and(csi_client::CsiError::is_silence);
            if let Err(error) = &stats {
                tracing::warn!(volume = data.volume, %error, "a volume has no statistics");
            }
            self.stats().set(path, now, stats.ok());
            if is_silent {
                return;
            }
        }
    }

    /// Expands a volume, if its claim requests more.
    async fn grow(
        &self,
        objects: &ApiObjects,
        published: &PublishedVolume,
    ) -> Result<(), CsiVolumeError> {
        let Some((claim, read_only)) = claim_of(objects, published).await? else {
            return Ok(());
        };
        if !may_grow(&claim, self.sizes().get(&published.data.id())) {
            return Ok(());
        }
        let volume = objects.volume_of(&claim).await?;
        let Some(csi_volume) = CsiVolume::of_volume(&volume, read_only)? else {
            return Ok(());
        };
        let bound = BoundClaim { claim, volume };
        let LivePod { pod, events, .. } = &published.pod;
        self.expand(objects, pod, &bound, &csi_volume, events).await
    }
}

fn is_published_for(data: &VolumeData, pod: &Pod) -> bool {
    let uid = pod.metadata.object_uid();
    uid.is_ok_and(|uid| data.pod.as_ref() == Some(&uid))
}

/// The volume of a publication, from its pod's specification; `None` if the pod does not use the volume any
/// more.
async fn current(
    objects: &ApiObjects,
    published: &PublishedVolume,
) -> Result<Option<CsiVolume>, CsiVolumeError> {
    let pod = &published.pod.pod;
    if let Some(volume) = inline(pod, &published.data.volume) {
        return Ok(CsiVolume::inline(pod, volume)?);
    }
    let Some((claim, read_only)) = claim_of(objects, published).await? else {
        return Ok(None);
    };
    let volume = objects.volume_of(&claim).await?;
    Ok(CsiVolume::of_volume(&volume, read_only)?)
}

/// The inline volume of a pod with this name.
fn inline<'a>(pod: &'a Pod, name: &str) -> Option<&'a Volume> {
    let mut volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    volumes.find(|volume| volume.csi.is_some() && volume.name == name)
}

/// The claim by which a pod uses a PersistentVolume, and whether it only reads; `None` for an inline
/// volume.
async fn claim_of(
    objects: &ApiObjects,
    published: &PublishedVolume,
) -> Result<Option<(PersistentVolumeClaim, bool)>, CsiVolumeError> {
    let pod = &published.pod.pod;
    let namespace = pod.metadata.object_namespace()?;
    for (name, read_only) in claims(pod)? {
        let claim = objects.claim(namespace, &name).await?;
        let spec = claim.as_ref().and_then(|claim| claim.spec.as_ref());
        let volume = spec.and_then(|spec| spec.volume_name.as_deref());
        if volume == Some(&*published.data.volume) {
            return Ok(claim.map(|claim| (claim, read_only)));
        }
    }
    Ok(None)
}

/// The names of a pod's claims, and whether the pod only reads them.
fn claims(pod: &Pod) -> Result<Vec<(String, bool)>, IncompleteMetadata> {
    let name = pod.metadata.object_name()?;
    let volumes = pod.spec.iter().flat_map(|spec| &spec.volumes).flatten();
    Ok(volumes
        .filter_map(|volume| pod_references::claim_of(name, volume))
        .collect())
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn claims_are_those_of_a_pod_s_volumes() {
        let pod: Pod = json_tree::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [], "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "c", "readOnly": true}},
                {"name": "b", "ephemeral": {}},
                {"name": "d", "emptyDir": {}}]}}))
        .unwrap();
        let expected = [("c".to_owned(), true), ("p-b".to_owned(), false)];
        assert_eq!(claims(&pod).unwrap(), expected);
    }
}
