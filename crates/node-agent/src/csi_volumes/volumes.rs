//! The life of a driver's volume on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_client::CsiError;
use host_kernel::keyed_locks::KeyedLocks;
use host_kernel::{Interrupted, blocking};
use json_tree::json;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube_api_client::{Api, Client};
use nix::mount::{MntFlags, umount2};
use object_model::{ObjectKey, Uid};
use pod_lifecycle::node::csi::{CsiStep, plan};
use resource_kinds::MetadataIdentity;
use tokio::sync::Mutex;

use super::attachment::{self, VolumesInUse};
use super::directory::{KubeletDir, KubeletPath};
use super::drivers::{Drivers, RegisteredDriver};
use super::error::{CsiVolumeError, ReverseCallError, UnmountError};
use super::expansion::RecordedCapacities;
use super::left_over::LeftoverNotice;
use super::records::{self, VolumeData, VolumeRecords};
use super::request::{CsiVolume, GroupUse, RequestData, VolumeId};
use super::stages::RecordedStages;
use super::volume_stats::VolumeStatsCache;
use crate::api::objects::{ApiObjects, RequestedToken, in_time};
use crate::paths::pods_dir;

/// The lifetime of tokens if the driver requests none; kubelet's value.
const TOKEN_SECONDS: i64 = 3600;

pub struct CsiVolumes {
    client: Client,
    node: String,
    directory: KubeletDir,
    pods: PathBuf,
    drivers: Drivers,
    /// One lock for each volume: only one step of a volume runs at a time.
    locks: KeyedLocks<Mutex<()>>,
    in_use: VolumesInUse,
    stages: RecordedStages,
    sizes: RecordedCapacities,
    stats: VolumeStatsCache,
    left_over: LeftoverNotice,
}

/// A volume that is published for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub path: PathBuf,
    /// The group to which the node changes the files; `None` if the files keep their group.
    pub group: Option<u32>,
}

impl CsiVolumes {
    /// The volumes that a former agent has left.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn open(client: Client, node: String, data_dir: &Path) -> io::Result<Self> {
        let directory = KubeletDir::new(data_dir);
        let records = VolumeRecords::read(&directory)?;
        Ok(Self {
            client,
            node,
            in_use: VolumesInUse::new(names_in_use(&records)),
            stages: RecordedStages::new(records.stages.iter().map(|data| data.id().unique_name())),
            directory,
            pods: pods_dir(data_dir),
            drivers: Drivers::default(),
            locks: KeyedLocks::default(),
            sizes: RecordedCapacities::default(),
            stats: VolumeStatsCache::default(),
            left_over: LeftoverNotice::default(),
        })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    /// The directory that drivers expect: `/var/lib/kubelet` by default.
    pub fn directory(&self) -> &KubeletDir {
        &self.directory
    }

    pub(super) fn drivers(&self) -> &Drivers {
        &self.drivers
    }

    pub fn in_use(&self) -> &VolumesInUse {
        &self.in_use
    }

    pub(super) fn sizes(&self) -> &RecordedCapacities {
        &self.sizes
    }

    pub(super) fn left_over(&self) -> &LeftoverNotice {
        &self.left_over
    }

    pub fn stats(&self) -> &VolumeStatsCache {
        &self.stats
    }

    pub(super) fn lock(&self, id: &VolumeId) -> Arc<Mutex<()>> {
        self.locks.get(&id.unique_name())
    }

    /// Stages a volume and publishes it for a pod. May be repeated.
    pub async fn publish(
        &self,
        objects: &ApiObjects,
        pod: &Pod,
        volume: &CsiVolume,
        group: Option<u32>,
    ) -> Result<Published, CsiVolumeError> {
        let RegisteredDriver {
            driver,
            capabilities,
            ..
        } = self.drivers.get(&volume.id.driver)?;
        let object = self.driver_object(&volume.id.driver).await?;
        let object = object.as_ref();
        volume.check_life_cycle(object)?;
        let is_attached = volume.needs_attachment(object);
        let mut data = RequestData::default();
        let _awaited = is_attached.then(|| self.in_use.expect(volume.id.unique_name()));
        if is_attached {
            data.publish_context = attachment::wait(&self.client, &self.node, &volume.id).await?;
        }
        if volume.is_staged(capabilities) {
            data.stage_secrets = secrets(objects, volume.stage_secret.as_ref()).await?;
        }
        data.publish_secrets = secrets(objects, volume.publish_secret.as_ref()).await?;
        data.tokens = tokens(objects, pod, object).await?;

        let uid = pod.metadata.object_uid()?;
        let group = volume.group(object, capabilities, group);
        let lock = self.lock(&volume.id);
        let _guard = lock.lock().await;
        self.check_single_pod(volume, &uid).await?;
        self.on_disk(|dir| dir.create().map_err(CsiVolumeError::KubeletDir))
            .await?;
        if volume.is_staged(capabilities) {
            let stage = volume.stage(capabilities, group, &data);
            let path = volume.staging_path();
            let record = KubeletPath::stage_record(&volume.id.driver, &volume.id.handle);
            let stage_data = VolumeData {
                pod: Some(uid.clone()),
                ..self.data(volume, &stage.staging_path, is_attached)
            };
            self.on_disk(move |dir| {
                records::write(dir, &record, &stage_data)?;
                create_dir(dir.at(&path))
            })
            .await?;
            self.recorded(&volume.id, is_attached);
            let staged = driver.stage(&stage).await;
            if self.stages.record_result(&volume.id.unique_name(), &staged) {
                self.remove_stage(&volume.id).await?;
            }
            staged.map_err(CsiVolumeError::Stage)?;
        }
        let publication = volume.publication(capabilities, group, &data, pod, object)?;
        let path = self.directory.at(&volume.target_path(&uid));
        let record = KubeletPath::publication_record(uid.as_str(), &volume.name);
        let publication_data = VolumeData {
            volume: volume.name.clone(),
            pod: Some(uid),
            ..self.data(volume, &publication.target_path, is_attached)
        };
        let parent = path.parent().map(PathBuf::from).unwrap_or_default();
        self.on_disk(move |dir| {
            records::write(dir, &record, &publication_data)?;
            create_dir(parent)
        })
        .await?;
        self.recorded(&volume.id, is_attached);
        let result = driver.publish(&publication).await;
        result.map_err(CsiVolumeError::Publish)?;
        let (target, is_block) = (path.clone(), volume.is_block);
        blocking(move || create_target(&target, is_block)).await?;
        self.sizes.is_newly_used(&volume.id);
        Ok(Published {
            path,
            group: match group {
                GroupUse::Node(group) => Some(group),
                GroupUse::None | GroupUse::Driver(_) => None,
            },
        })
    }

    /// Removes the record of a volume that is not staged.
    async fn remove_stage(&self, id: &VolumeId) -> Result<(), CsiVolumeError> {
        let records = self.records().await?.of_volume(id);
        let Some(data) = records.stages.first().cloned() else {
            return Ok(());
        };
        let record = KubeletPath::stage_record(&id.driver, &id.handle);
        self.on_disk(move |dir| records::remove(dir, &record, &data).map_err(CsiVolumeError::from))
            .await?;
        let remaining = self.records().await?.of_volume(id);
        if names_in_use(&remaining).is_empty() {
            self.in_use.forget(&id.unique_name());
        }
        Ok(())
    }

    /// Publishes a volume again for a pod that has it.
    ///
    /// # Errors
    /// The volume does not change.
    pub(super) async fn publish_again(
        &self,
        objects: &ApiObjects,
        pod: &Pod,
        volume: &CsiVolume,
        group: Option<u32>,
        object: &CSIDriver,
    ) -> Result<(), CsiVolumeError> {
        let RegisteredDriver {
            driver,
            capabilities,
            ..
        } = self.drivers.get(&volume.id.driver)?;
        let mut data = RequestData::default();
        if volume.needs_attachment(Some(object)) {
            data.publish_context = attachment::wait(&self.client, &self.node, &volume.id).await?;
        }
        data.publish_secrets = secrets(objects, volume.publish_secret.as_ref()).await?;
        data.tokens = tokens(objects, pod, Some(object)).await?;
        let group = volume.group(Some(object), capabilities, group);
        let publication = volume.publication(capabilities, group, &data, pod, Some(object))?;
        let lock = self.lock(&volume.id);
        let _guard = lock.lock().await;
        let uid = pod.metadata.object_uid()?;
        if !self.is_published(&volume.id, &uid).await? {
            return Ok(());
        }
        let result = driver.publish(&publication).await;
        result.map_err(CsiVolumeError::Publish)
    }

    /// Whether the volume is recorded as published for a pod. The result is valid while the caller holds
    /// the volume's lock.
    pub(super) async fn is_published(
        &self,
        id: &VolumeId,
        pod: &Uid,
    ) -> Result<bool, CsiVolumeError> {
        let records = self.records().await?.of_volume(id);
        let mut pods = records.publications.iter().map(|data| data.pod.as_ref());
        Ok(pods.any(|publication_pod| publication_pod == Some(pod)))
    }

    /// Checks that a volume for one pod is published for no other pod. The error is kubelet's text.
    async fn check_single_pod(&self, volume: &CsiVolume, pod: &Uid) -> Result<(), CsiVolumeError> {
        if !volume.is_for_one_pod() {
            return Ok(());
        }
        let records = self.records().await?.of_volume(&volume.id);
        match records.publications.iter().all(|data| is_of(data, pod)) {
            true => Ok(()),
            false => Err(CsiVolumeError::InUse),
        }
    }

    /// The object of a driver, if there is one.
    pub(super) async fn driver_object(
        &self,
        name: &str,
    ) -> Result<Option<CSIDriver>, CsiVolumeError> {
        let api: Api<CSIDriver> = Api::all(self.client.clone());
        Ok(in_time(api.get_opt(name)).await?)
    }

    fn recorded(&self, id: &VolumeId, is_attached: bool) {
        if is_attached {
            self.in_use.record(id.unique_name());
        }
    }

    fn data(&self, volume: &CsiVolume, path: &str, is_attached: bool) -> VolumeData {
        VolumeData {
            driver_name: volume.id.driver.clone(),
            volume_handle: volume.id.handle.clone(),
            path: path.to_owned(),
            is_attached,
            ..VolumeData::default()
        }
    }

    async fn on_disk<T: Send + 'static, E: From<Interrupted> + Send + 'static>(
        &self,
        work: impl FnOnce(&KubeletDir) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let directory = self.directory.clone();
        blocking(move || work(&directory)).await
    }

    pub(super) async fn records(&self) -> Result<VolumeRecords, CsiVolumeError> {
        self.on_disk(|dir| VolumeRecords::read(dir).map_err(CsiVolumeError::Records))
            .await
    }

    /// Unpublishes all volumes of a pod, and unstages those that no other pod uses. A volume that cannot be
    /// unstaged now delays no pod: the unstage is retried later.
    ///
    /// If the pod `comes_back` with the node, a driver that is not registered does not delay the release:
    /// the node unmounts without the driver, and the records let the node call the driver later.
    ///
    /// # Errors
    /// The caller tries again later.
    pub async fn release(&self, pod: &Uid, comes_back: bool) -> Result<(), CsiVolumeError> {
        for id in self.records().await?.of_pod(pod) {
            let Err(error) = self.release_volume(&id, Some(pod)).await else {
                continue;
            };
            if comes_back {
                tracing::warn!(%error, "a volume is unmounted without its driver");
                self.unmount(&id, pod).await?;
                continue;
            }
            if self.is_published(&id, pod).await? {
                return Err(error);
            }
            tracing::warn!(%error, "a volume that no pod uses is not released");
            self.disown_stage(&id, pod).await?;
        }
        Ok(())
    }

    /// Removes the pod from the record of a staged volume, so that the clean-up unstages the volume later.
    async fn disown_stage(&self, id: &VolumeId, pod: &Uid) -> Result<(), CsiVolumeError> {
        let lock = self.lock(id);
        let _guard = lock.lock().await;
        let records = self.records().await?.of_volume(id);
        let stage = records.stages.into_iter().find(|data| is_of(data, pod));
        if let Some(mut data) = stage {
            data.pod = None;
            let record = KubeletPath::stage_record(&id.driver, &id.handle);
            self.on_disk(move |dir| {
                records::write(dir, &record, &data).map_err(CsiVolumeError::from)
            })
            .await?;
        }
        self.left_over.retry_now();
        Ok(())
    }

    /// The volumes of registered drivers that are published or staged for pods that the node no longer has.
    pub(super) async fn without_pod(&self) -> Result<Vec<VolumeId>, CsiVolumeError> {
        let records = self.records().await?;
        let present = self.present_pods().await?;
        let ids: BTreeSet<VolumeId> = records.all().map(VolumeData::id).collect();
        let is_unused = |id: &VolumeId| {
            let is_registered = self.drivers.get(&id.driver).is_ok();
            is_registered && !steps(&records.of_volume(id), |pod| present.contains(pod)).is_empty()
        };
        Ok(ids.into_iter().filter(is_unused).collect())
    }

    /// Releases a volume for the pods that the node no longer has.
    pub(super) async fn release_unused(&self, id: &VolumeId) -> Result<(), CsiVolumeError> {
        self.release_volume(id, None).await
    }

    async fn present_pods(&self) -> Result<BTreeSet<Uid>, CsiVolumeError> {
        let pods = self.pods.clone();
        blocking(move || {
            pod_uids(&pods).map_err(|source| CsiVolumeError::Pods { path: pods, source })
        })
        .await
    }

    /// Executes the release steps of a volume, as if the pod `leaving` did not exist.
    async fn release_volume(
        &self,
        id: &VolumeId,
        leaving: Option<&Uid>,
    ) -> Result<(), CsiVolumeError> {
        let lock = self.lock(id);
        let _guard = lock.lock().await;
        let records = self.records().await?.of_volume(id);
        let present = self.present_pods().await?;
        let lives = |pod: &Uid| Some(pod) != leaving && present.contains(pod);
        let steps = steps(&records, lives);
        if steps.is_empty() {
            return Ok(());
        }
        let RegisteredDriver { driver, .. } = self.drivers.get(&id.driver)?;
        for step in steps {
            let (record, data) = match step {
                CsiStep::Unpublish { pod } => {
                    let has_uid = |data: &&VolumeData| uid_text(data) == pod;
                    let Some(data) = records.publications.iter().find(has_uid) else {
                        continue;
                    };
                    let unpublished = driver.unpublish(&id.handle, &data.path).await;
                    let unpublished = self.unmount_if_unknown(unpublished, data).await;
                    unpublished.map_err(CsiVolumeError::Unpublish)?;
                    (KubeletPath::publication_record(&pod, &data.volume), data)
                }
                CsiStep::Unstage => {
                    let Some(data) = records.stages.first() else {
                        continue;
                    };
                    let unstaged = driver.unstage(&id.handle, &data.path).await;
                    let unstaged = self.unmount_if_unknown(unstaged, data).await;
                    unstaged.map_err(CsiVolumeError::Unstage)?;
                    self.stages.forget(&id.unique_name());
                    (KubeletPath::stage_record(&id.driver, &id.handle), data)
                }
            };
            let data = data.clone();
            self.on_disk(move |dir| {
                records::remove(dir, &record, &data).map_err(CsiVolumeError::from)
            })
            .await?;
        }
        let remaining = self.records().await?.of_volume(id);
        if names_in_use(&remaining).is_empty() {
            self.in_use.forget(&id.unique_name());
        }
        if remaining == VolumeRecords::default() {
            self.sizes.forget(id);
        }
        Ok(())
    }

    /// The result of a call that reverts another call. If the driver does not know the volume, the node only
    /// removes the mount.
    async fn unmount_if_unknown(
        &self,
        result: Result<(), CsiError>,
        data: &VolumeData,
    ) -> Result<(), ReverseCallError> {
        match result {
            Err(error) if error.is_not_found() => {
                let (volume, driver) = (&data.volume_handle, &data.driver_name);
                tracing::warn!(volume, driver, "the driver does not know the volume");
                let path = data.path.clone();
                self.on_disk(move |dir| Ok(unmount_path(dir, &path)?)).await
            }
            result => result.map_err(ReverseCallError::Driver),
        }
    }

    /// Unmounts a volume for a pod, and unmounts its stage if no other pod uses it; the records stay.
    async fn unmount(&self, id: &VolumeId, pod: &Uid) -> Result<(), CsiVolumeError> {
        let lock = self.lock(id);
        let _guard = lock.lock().await;
        let records = self.records().await?.of_volume(id);
        let is_last = records.publications.iter().all(|data| is_of(data, pod));
        let stages = records.stages.into_iter().filter(|_| is_last);
        let publications = records.publications.into_iter();
        let publications = publications.filter(|data| is_of(data, pod));
        let mounts: Vec<VolumeData> = publications.chain(stages).collect();
        self.on_disk(move |dir| {
            let mut paths = mounts.iter().map(|data| &data.path);
            Ok(paths.try_for_each(|path| unmount_path(dir, path))?)
        })
        .await
    }
}

/// Unmounts the path of a call, if it is a mount point.
fn unmount_path(dir: &KubeletDir, path: &str) -> Result<(), UnmountError> {
    let Some(path) = dir.node_path(path.as_ref()) else {
        return Ok(());
    };
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match umount2(&path, flags) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(UnmountError { path, errno }),
    }
}

/// Whether the volume is published or staged for the pod.
fn is_of(data: &VolumeData, pod: &Uid) -> bool {
    data.pod.as_ref() == Some(pod)
}

/// The text of the pod's UID; empty if the last pod of a stage is deleted.
fn uid_text(data: &VolumeData) -> &str {
    data.pod.as_ref().map_or("", Uid::as_str)
}

/// The release steps for a volume with these records.
fn steps(records: &VolumeRecords, lives: impl Fn(&Uid) -> bool) -> Vec<CsiStep> {
    let users = records.publications.iter();
    let users: Vec<&str> = users.map(uid_text).collect();
    let staged_for = records.stages.first().map(uid_text);
    plan(&users, staged_for, |pod| {
        pod.parse().is_ok_and(|uid| lives(&uid))
    })
}

fn names_in_use(records: &VolumeRecords) -> BTreeSet<String> {
    let attached = records.all().filter(|data| data.is_attached);
    attached.map(|data| data.id().unique_name()).collect()
}

/// The UIDs of the pods that have a directory: `<namespace>_<name>_<uid>`.
fn pod_uids(pods: &Path) -> io::Result<BTreeSet<Uid>> {
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    let mut uids = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name();
        let uid = name.to_str().and_then(|name| name.rsplit('_').next());
        uids.extend(uid.and_then(|uid| uid.parse().ok()));
    }
    Ok(uids)
}

fn create_dir(path: PathBuf) -> Result<(), CsiVolumeError> {
    fs::create_dir_all(&path).map_err(|source| CsiVolumeError::CreateDir { path, source })
}

/// Creates the target of a volume, if it is missing. A driver may report a volume as published without a
/// target. As in containerd, the directory is created then, and removed with the volume. A block volume
/// without a device is an error.
fn create_target(path: &Path, is_block: bool) -> Result<(), CsiVolumeError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_block {
            true => Err(CsiVolumeError::NoDevice(path.to_owned())),
            false => create_dir(path.to_owned()),
        },
        // An error of the mount point comes from the driver's file system.
        _ => Ok(()),
    }
}

pub(super) async fn secrets(
    objects: &ApiObjects,
    key: Option<&ObjectKey>,
) -> Result<BTreeMap<String, String>, CsiVolumeError> {
    let Some(secret) = key else {
        return Ok(BTreeMap::new());
    };
    let object = objects.secret(&secret.namespace, &secret.name).await?;
    let object = object.ok_or_else(|| CsiVolumeError::SecretNotFound(secret.clone()))?;
    let entries = object.data.into_iter().flatten();
    entries
        .map(|(key, ByteString(bytes))| match String::from_utf8(bytes) {
            Ok(text) => Ok((key, text)),
            Err(_) => Err(CsiVolumeError::SecretNotText {
                secret: secret.clone(),
                key,
            }),
        })
        .collect()
}

/// The tokens that the driver requests, as JSON by audience.
async fn tokens(
    objects: &ApiObjects,
    pod: &Pod,
    driver: Option<&CSIDriver>,
) -> Result<Option<String>, CsiVolumeError> {
    let requests = driver.and_then(|driver| driver.spec.token_requests.as_deref());
    let Some(requests) = requests.filter(|requests| !requests.is_empty()) else {
        return Ok(None);
    };
    let mut by_audience = json_tree::Map::new();
    for request in requests {
        let audience = Some(request.audience.clone()).filter(|audience| !audience.is_empty());
        let seconds = request.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let token = RequestedToken {
            audience,
            expiration_seconds: seconds,
        };
        let token = objects.token(pod, token).await?;
        let (value, expires) = (token.value, token.expires.to_string());
        let entry = json!({"token": value, "expirationTimestamp": expires});
        by_audience.insert(request.audience.clone(), entry);
    }
    Ok(Some(json_tree::Value::Object(by_audience).to_string()))
}
