//! The life of a driver's volume on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use csi_client::CsiError;
use host_kernel::blocking;
use host_kernel::keyed_locks::KeyedLocks;
use json_tree::json;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube_api_client::{Api, Client};
use nix::mount::{MntFlags, umount2};
use pod_lifecycle::node::csi::{CsiStep, plan};
use tokio::sync::Mutex;

use super::attachment::{self, VolumesInUse};
use super::directory::{KubeletDir, KubeletPath};
use super::drivers::{Drivers, Registered};
use super::expansion::KnownCapacities;
use super::left_over::LeftoverNotice;
use super::records::{self, VolumeData, VolumeRecords};
use super::request::{CsiVolume, GroupUse, Identity, RequestData, SecretName};
use super::stages::KnownStages;
use super::volume_stats::VolumeStatsCache;
use crate::api::objects::{ApiObjects, TokenWanted, in_time};
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
    stages: KnownStages,
    sizes: KnownCapacities,
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
    pub fn open(client: Client, node: String, data_dir: &std::path::Path) -> io::Result<Self> {
        let directory = KubeletDir::of(data_dir);
        let records = VolumeRecords::read(&directory)?;
        Ok(Self {
            client,
            node,
            in_use: VolumesInUse::new(names_in_use(&records)),
            stages: KnownStages::new(records.stages.iter().map(|data| data.id().unique_name())),
            directory,
            pods: pods_dir(data_dir),
            drivers: Drivers::default(),
            locks: KeyedLocks::default(),
            sizes: KnownCapacities::default(),
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

    pub(super) fn sizes(&self) -> &KnownCapacities {
        &self.sizes
    }

    pub(super) fn left_over(&self) -> &LeftoverNotice {
        &self.left_over
    }

    pub fn stats(&self) -> &VolumeStatsCache {
        &self.stats
    }

    pub(super) fn lock(&self, id: &Identity) -> Arc<Mutex<()>> {
        self.locks.get(&id.unique_name())
    }

    /// Stages a volume and publishes it for a pod. May be repeated.
    ///
    /// # Errors
    /// A message for users.
    pub async fn publish(
        &self,
        objects: &ApiObjects,
        pod: &Pod,
        wanted: &CsiVolume,
        group: Option<u32>,
    ) -> Result<Published, String> {
        let Registered { driver, can, .. } = self.drivers.get(&wanted.id.driver)?;
        let object = self.driver_object(&wanted.id.driver).await?;
        let object = object.as_ref();
        wanted.check_life_cycle(object)?;
        let is_attached = wanted.needs_attachment(object);
        let mut found = RequestData::default();
        let _expected = is_attached.then(|| self.in_use.expect(wanted.id.unique_name()));
        if is_attached {
            found.publish_context = attachment::wait(&self.client, &self.node, &wanted.id).await?;
        }
        if wanted.is_staged(can) {
            found.stage_secrets = secrets(objects, wanted.stage_secret.as_ref()).await?;
        }
        found.publish_secrets = secrets(objects, wanted.publish_secret.as_ref()).await?;
        found.tokens = tokens(objects, pod, object).await?;

        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let group = wanted.group(object, can, group);
        let lock = self.lock(&wanted.id);
        let _turn = lock.lock().await;
        self.check_single_pod(wanted, &uid).await?;
        self.on_disk(|dir| {
            let made = dir.make();
            made.map_err(|error| format!("make the drivers' directory: {error}"))
        })
        .await?;
        if wanted.is_staged(can) {
            let stage = wanted.stage(can, group, &found);
            let place = wanted.stage_place();
            let record = KubeletPath::stage_record(&wanted.id.driver, &wanted.id.handle);
            let data = VolumeData {
                pod: uid.clone(),
                ..self.data(wanted, &stage.staging_path, is_attached)
            };
            self.on_disk(move |dir| {
                records::write(dir, &record, &data)?;
                make_dir(dir.at(&place))
            })
            .await?;
            self.recorded(&wanted.id, is_attached);
            let staged = driver.stage(&stage).await;
            if self.stages.ended(&wanted.id.unique_name(), &staged) {
                self.remove_stage(&wanted.id).await?;
            }
            staged.map_err(|error| format!("MountDevice failed: {error}"))?;
        }
        let publication = wanted.publication(can, group, &found, pod, object);
        let path = self.directory.at(&wanted.publication_place(&uid));
        let record = KubeletPath::publication_record(&uid, &wanted.name);
        let data = VolumeData {
            volume: wanted.name.clone(),
            pod: uid,
            ..self.data(wanted, &publication.target_path, is_attached)
        };
        let parent = path.parent().map(PathBuf::from).unwrap_or_default();
        self.on_disk(move |dir| {
            records::write(dir, &record, &data)?;
            make_dir(parent)
        })
        .await?;
        self.recorded(&wanted.id, is_attached);
        let published = driver.publish(&publication).await;
        published.map_err(|error| error.to_string())?;
        let (target, is_block) = (path.clone(), wanted.is_block);
        blocking(move || make_target(&target, is_block)).await?;
        self.sizes.is_newly_used(&wanted.id);
        Ok(Published {
            path,
            group: match group {
                GroupUse::Node(group) => Some(group),
                GroupUse::None | GroupUse::Driver(_) => None,
            },
        })
    }

    /// Removes the record of a volume that is not staged.
    async fn remove_stage(&self, id: &Identity) -> Result<(), String> {
        let records = self.records().await?.of(&id.driver, &id.handle);
        let Some(data) = records.stages.first().cloned() else {
            return Ok(());
        };
        let record = KubeletPath::stage_record(&id.driver, &id.handle);
        self.on_disk(move |dir| records::remove(dir, &record, &data))
            .await?;
        let left = self.records().await?.of(&id.driver, &id.handle);
        if names_in_use(&left).is_empty() {
            self.in_use.forget(&id.unique_name());
        }
        Ok(())
    }

    /// Publishes a volume again for a pod that has it.
    ///
    /// # Errors
    /// A message for users; the volume does not change.
    pub(super) async fn publish_again(
        &self,
        objects: &ApiObjects,
        pod: &Pod,
        wanted: &CsiVolume,
        group: Option<u32>,
        object: &CSIDriver,
    ) -> Result<(), String> {
        let Registered { driver, can, .. } = self.drivers.get(&wanted.id.driver)?;
        let mut found = RequestData::default();
        if wanted.needs_attachment(Some(object)) {
            found.publish_context = attachment::wait(&self.client, &self.node, &wanted.id).await?;
        }
        found.publish_secrets = secrets(objects, wanted.publish_secret.as_ref()).await?;
        found.tokens = tokens(objects, pod, Some(object)).await?;
        let group = wanted.group(Some(object), can, group);
        let publication = wanted.publication(can, group, &found, pod, Some(object));
        let lock = self.lock(&wanted.id);
        let _turn = lock.lock().await;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if !self.is_published(&wanted.id, uid).await? {
            return Ok(());
        }
        let published = driver.publish(&publication).await;
        published.map_err(|error| error.to_string())
    }

    /// Whether the volume has a record for a pod, by its UID. The result is valid while the caller holds
    /// the volume's lock.
    pub(super) async fn is_published(&self, id: &Identity, pod: &str) -> Result<bool, String> {
        let records = self.records().await?.of(&id.driver, &id.handle);
        Ok(records.publications.iter().any(|data| data.pod == pod))
    }

    /// Checks that a volume for one pod is published for no other pod. The error is kubelet's text.
    async fn check_single_pod(&self, wanted: &CsiVolume, pod: &str) -> Result<(), String> {
        if !wanted.is_for_one_pod() {
            return Ok(());
        }
        let records = self
            .records()
            .await?
            .of(&wanted.id.driver, &wanted.id.handle);
        match records.publications.iter().all(|data| data.pod == pod) {
            true => Ok(()),
            false => Err(
                "volume uses the ReadWriteOncePod access mode and is already in use by another pod"
                    .to_owned(),
            ),
        }
    }

    /// The object of a driver, if there is one.
    pub(super) async fn driver_object(&self, name: &str) -> Result<Option<CSIDriver>, String> {
        let api: Api<CSIDriver> = Api::all(self.client.clone());
        in_time(api.get_opt(name)).await
    }

    fn recorded(&self, id: &Identity, is_attached: bool) {
        if is_attached {
            self.in_use.record(id.unique_name());
        }
    }

    fn data(&self, wanted: &CsiVolume, path: &str, is_attached: bool) -> VolumeData {
        VolumeData {
            driver_name: wanted.id.driver.clone(),
            volume_handle: wanted.id.handle.clone(),
            path: path.to_owned(),
            is_attached,
            ..VolumeData::default()
        }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&KubeletDir) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let directory = self.directory.clone();
        blocking(move || work(&directory)).await
    }

    pub(super) async fn records(&self) -> Result<VolumeRecords, String> {
        let read = |dir: &KubeletDir| {
            VolumeRecords::read(dir)
                .map_err(|error| format!("read the records of volumes: {error}"))
        };
        self.on_disk(read).await
    }

    /// Unpublishes all volumes of a pod, and unstages those that no other pod uses. A volume that cannot be
    /// unstaged now delays no pod: the unstage is retried later.
    ///
    /// If the pod `comes_back` with the node, a driver that is not registered does not delay the release:
    /// the node unmounts without the driver, and the records let the node call the driver later.
    ///
    /// # Errors
    /// A message for users; the caller tries again later.
    pub async fn release(&self, pod: &str, comes_back: bool) -> Result<(), String> {
        let own = self.records().await?.of_pod(pod);
        for id in own {
            let Err(error) = self.release_volume(&id, Some(pod)).await else {
                continue;
            };
            if comes_back {
                tracing::warn!(error, "a volume is unmounted without its driver");
                self.unmount(&id, pod).await?;
                continue;
            }
            if self.is_published(&id, pod).await? {
                return Err(error);
            }
            tracing::warn!(error, "a volume that no pod uses is not released");
            self.give_up_stage(&id, pod).await?;
        }
        Ok(())
    }

    /// Removes the pod from the record of a staged volume, so that the clean-up unstages the volume later.
    async fn give_up_stage(&self, id: &Identity, pod: &str) -> Result<(), String> {
        let lock = self.lock(id);
        let _turn = lock.lock().await;
        let records = self.records().await?.of(&id.driver, &id.handle);
        let stage = records.stages.into_iter().find(|data| data.pod == pod);
        if let Some(mut data) = stage {
            data.pod = String::new();
            let record = KubeletPath::stage_record(&id.driver, &id.handle);
            self.on_disk(move |dir| records::write(dir, &record, &data))
                .await?;
        }
        self.left_over.retry_now();
        Ok(())
    }

    /// The volumes of registered drivers that are published or staged for pods that the node no longer has.
    pub(super) async fn without_pod(&self) -> Result<Vec<Identity>, String> {
        let records = self.records().await?;
        let present = self.present_pods().await?;
        let all: BTreeSet<Identity> = records.all().map(VolumeData::id).collect();
        let is_left = |id: &Identity| {
            let own = records.of(&id.driver, &id.handle);
            let is_registered = self.drivers.get(&id.driver).is_ok();
            is_registered && !steps(&own, |pod| present.contains(pod)).is_empty()
        };
        Ok(all.into_iter().filter(is_left).collect())
    }

    /// Releases a volume for the pods that the node no longer has.
    pub(super) async fn release_unused(&self, id: &Identity) -> Result<(), String> {
        self.release_volume(id, None).await
    }

    async fn present_pods(&self) -> Result<BTreeSet<String>, String> {
        let pods = self.pods.clone();
        blocking(move || {
            pod_uids(&pods).map_err(|error| format!("read {}: {error}", pods.display()))
        })
        .await
    }

    /// Executes the release steps of a volume, as if the pod `leaving` did not exist.
    async fn release_volume(&self, id: &Identity, leaving: Option<&str>) -> Result<(), String> {
        let lock = self.lock(id);
        let _turn = lock.lock().await;
        let records = self.records().await?.of(&id.driver, &id.handle);
        let present = self.present_pods().await?;
        let lives = |pod: &str| Some(pod) != leaving && present.contains(pod);
        let steps = steps(&records, lives);
        if steps.is_empty() {
            return Ok(());
        }
        let Registered { driver, .. } = self.drivers.get(&id.driver)?;
        for step in steps {
            let (record, data) = match step {
                CsiStep::Unpublish { pod } => {
                    let of_pod = |data: &&VolumeData| data.pod == pod;
                    let Some(data) = records.publications.iter().find(of_pod) else {
                        continue;
                    };
                    let done = driver.unpublish(&id.handle, &data.path).await;
                    let done = self.unless_unknown(done, data).await;
                    done.map_err(|error| format!("UnmountVolume.TearDown failed: {error}"))?;
                    (
                        KubeletPath::publication_record(&data.pod, &data.volume),
                        data,
                    )
                }
                CsiStep::Unstage => {
                    let Some(data) = records.stages.first() else {
                        continue;
                    };
                    let done = driver.unstage(&id.handle, &data.path).await;
                    let done = self.unless_unknown(done, data).await;
                    done.map_err(|error| format!("UnmountDevice failed: {error}"))?;
                    self.stages.forget(&id.unique_name());
                    (KubeletPath::stage_record(&id.driver, &id.handle), data)
                }
            };
            let data = data.clone();
            self.on_disk(move |dir| records::remove(dir, &record, &data))
                .await?;
        }
        let left = self.records().await?.of(&id.driver, &id.handle);
        if names_in_use(&left).is_empty() {
            self.in_use.forget(&id.unique_name());
        }
        if left == VolumeRecords::default() {
            self.sizes.forget(id);
        }
        Ok(())
    }

    /// The result of a reverse call. If the driver does not know the volume, only the mount is left to
    /// remove.
    async fn unless_unknown(
        &self,
        done: Result<(), CsiError>,
        data: &VolumeData,
    ) -> Result<(), String> {
        match done {
            Err(error) if error.is_not_found() => {
                let (volume, driver) = (&data.volume_handle, &data.driver_name);
                tracing::warn!(volume, driver, "the driver does not know the volume");
                let path = data.path.clone();
                self.on_disk(move |dir| end_mount(dir, &path)).await
            }
            other => other.map_err(|error| error.to_string()),
        }
    }

    /// Unmounts a volume for a pod, and unmounts its stage if no other pod uses it; the records stay.
    async fn unmount(&self, id: &Identity, pod: &str) -> Result<(), String> {
        let lock = self.lock(id);
        let _turn = lock.lock().await;
        let records = self.records().await?.of(&id.driver, &id.handle);
        let is_last = records.publications.iter().all(|data| data.pod == pod);
        let stages = records.stages.into_iter().filter(|_| is_last);
        let own = records.publications.into_iter();
        let own: Vec<VolumeData> = own.filter(|data| data.pod == pod).chain(stages).collect();
        self.on_disk(move |dir| own.iter().try_for_each(|data| end_mount(dir, &data.path)))
            .await
    }
}

/// Unmounts the path of a call, if it is a mount point.
fn end_mount(dir: &KubeletDir, path: &str) -> Result<(), String> {
    let Some(path) = dir.real(path.as_ref()) else {
        return Ok(());
    };
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    match umount2(&path, flags) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(error) => Err(format!("unmount {}: {error}", path.display())),
    }
}

/// The release steps for a volume with these records.
fn steps(records: &VolumeRecords, lives: impl Fn(&str) -> bool) -> Vec<CsiStep> {
    let users = records.publications.iter();
    let users: Vec<&str> = users.map(|data| data.pod.as_str()).collect();
    let staged_for = records.stages.first().map(|data| data.pod.as_str());
    plan(&users, staged_for, lives)
}

fn names_in_use(records: &VolumeRecords) -> BTreeSet<String> {
    let attached = records.all().filter(|data| data.is_attached);
    attached.map(|data| data.id().unique_name()).collect()
}

/// The uids of the pods that have a directory: `<namespace>_<name>_<uid>`.
fn pod_uids(pods: &std::path::Path) -> io::Result<BTreeSet<String>> {
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name();
        let uid = name.to_str().and_then(|name| name.rsplit('_').next());
        found.extend(uid.map(str::to_owned));
    }
    Ok(found)
}

fn make_dir(path: PathBuf) -> Result<(), String> {
    fs::create_dir_all(&path).map_err(|error| format!("make {}: {error}", path.display()))
}

/// Creates the target of a volume, if it is missing. A driver may report a volume as published without a
/// target. As in containerd, the directory is created then, and removed with the volume. A block volume
/// without a device is an error.
fn make_target(path: &std::path::Path, is_block: bool) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match is_block {
            true => Err(format!(
                "the driver has published the volume, and there is no device at {}",
                path.display()
            )),
            false => make_dir(path.to_owned()),
        },
        // An error of the mount point comes from the driver's file system.
        _ => Ok(()),
    }
}

pub(super) async fn secrets(
    objects: &ApiObjects,
    name: Option<&SecretName>,
) -> Result<BTreeMap<String, String>, String> {
    let Some(SecretName { namespace, name }) = name else {
        return Ok(BTreeMap::new());
    };
    let found = objects.secret(namespace, name).await?;
    let found = found.ok_or_else(|| format!("secret \"{namespace}/{name}\" not found"))?;
    let texts = found.data.into_iter().flatten();
    texts
        .map(|(key, ByteString(bytes))| match String::from_utf8(bytes) {
            Ok(text) => Ok((key, text)),
            Err(_) => Err(format!("secret \"{namespace}/{name}\": {key} is no text")),
        })
        .collect()
}

/// The tokens that the driver requests, as JSON by audience.
async fn tokens(
    objects: &ApiObjects,
    pod: &Pod,
    driver: Option<&CSIDriver>,
) -> Result<Option<String>, String> {
    let wanted = driver.and_then(|driver| driver.spec.token_requests.as_deref());
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Ok(None);
    };
    let mut found = json_tree::Map::new();
    for request in wanted {
        let audience = Some(request.audience.clone()).filter(|audience| !audience.is_empty());
        let seconds = request.expiration_seconds.unwrap_or(TOKEN_SECONDS);
        let token = TokenWanted {
            audience,
            expiration_seconds: seconds,
        };
        let token = objects.token(pod, token).await?;
        let (value, expires) = (token.value, token.expires.to_string());
        let entry = json!({"token": value, "expirationTimestamp": expires});
        found.insert(request.audience.clone(), entry);
    }
    Ok(Some(json_tree::Value::Object(found).to_string()))
}
