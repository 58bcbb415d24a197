//! `rbd` volumes: images of a Ceph cluster that the kernel maps as block devices of this node.
//!
//! The directory of each pod that uses an image has a record of the image. The record is written before the
//! image is mapped, and deleted after the image is unmapped. So a new agent can list the devices of the former
//! agent, and the image is unmapped with the last pod of the node that uses it. A record without a device is
//! no error: a reboot unmaps all images.
//!
//! Only one node writes to an image, unless its volume allows more: the image is mapped with its lock, if it
//! supports a lock, and `rbd status` must name no other client.

mod growth;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use host_kernel::durable_file::{Durability, replace};
use host_kernel::{Interrupted, TimedCallError, blocking, call_with_timeout};
use kube_api_client::guarded_writes::chain;
use object_model::ObjectKey;
use rbd_images::{
    Bus, Device, Image, ImageAccess, InvalidSource, MapError, MonitorsError, NoBus, RbdLogin,
    RbdProgram, RbdProgramError, RbdSource, SecretName, UnmapError, device_path, exclusively,
    key_in_keyring, monitor_addresses,
};
use resource_kinds::storage::rbd::{PROVISIONER, key_of};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use self::growth::keep_growing;
use super::error::VolumeSetupError;
use super::mount_points::mounts_below;
use super::prepared::{BlockVolume, Prepared};
use super::{block, local_device, nfs, ownership};
use crate::api::object_error::ApiObjectError;
use crate::api::objects::ApiObjects;
use crate::paths::PodDir;

/// Time limit to map, format and mount an image.
const PREPARE_MAX: Duration = Duration::from_secs(180);

/// Attempts to unmap a device. A device may be open for a moment, because udev reads new devices.
const UNMAP_ATTEMPTS_MAX: u32 = 20;
const UNMAP_DELAY: Duration = Duration::from_millis(100);

/// The use of an image by a pod's volume.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// Whether the containers use the device.
    pub is_block: bool,
    /// Whether other nodes may write to it at the same time.
    pub is_shared: bool,
    /// Mount options of the file system.
    pub options: Vec<String>,
    /// Whether the containers only read.
    pub read_only: bool,
    /// The group of the files; `None` if they keep their group.
    pub group: Option<GroupChange>,
}

/// The change of the group of a volume's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupChange {
    pub gid: u32,
    /// Whether the files keep their group if the volume's root has the group already.
    pub on_mismatch_only: bool,
}

/// The reason why an image is not mapped, mounted or unmapped.
#[derive(Debug, thiserror::Error)]
pub enum RbdVolumeError {
    #[error("read the mounts: {0}")]
    Mounts(io::Error),
    #[error(transparent)]
    Source(#[from] InvalidSource),
    #[error(transparent)]
    Bus(#[from] NoBus),
    #[error(transparent)]
    Monitors(#[from] MonitorsError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("read the keyring {path}: {source}")]
    Keyring { path: String, source: io::Error },
    /// The API server has rejected a request, or did not respond.
    #[error(transparent)]
    Api(#[from] ApiObjectError),
    #[error("secret \"{0}\" not found")]
    SecretNotFound(ObjectKey),
    #[error(
        "secret \"{secret}\" has the type {existing:?}, and volumes of Ceph need {:?}",
        PROVISIONER
    )]
    SecretType { secret: ObjectKey, existing: String },
    #[error("secret \"{secret}\": {reason}")]
    SecretKey {
        secret: ObjectKey,
        reason: &'static str,
    },
    #[error("find the device of {image}: {source}")]
    Find { image: String, source: io::Error },
    #[error(
        "the image {image} is mapped on this machine as {}, and not for pods of this node",
        device.display()
    )]
    Foreign { image: String, device: PathBuf },
    #[error("the image {0} has no device")]
    NoDevice(String),
    #[error("open {}: {source}", device.display())]
    Open { device: PathBuf, source: io::Error },
    #[error("the pod is gone")]
    PodDeleted,
    #[error("nobody waits for the volume any more")]
    Abandoned,
    #[error(
        "the image {0} has no feature \"exclusive-lock\", and the program \"rbd\" (ceph-common) is not \
         installed on the node: whether another machine writes to the image cannot be told"
    )]
    ProgramMissing(String),
    #[error("{}", chain(.0))]
    Program(RbdProgramError),
    #[error("rbd image {image} is still being used: by {}", clients.join(", "))]
    InUse { image: String, clients: Vec<String> },
    #[error("map {image}: {source}")]
    Call {
        image: String,
        source: TimedCallError,
    },
    #[error("apply fsGroup: {0}")]
    FsGroup(io::Error),
    #[error("unmount a volume whose pod is gone: {0}")]
    Unmount(io::Error),
    #[error("find the users of an image: {0}")]
    Users(io::Error),
    #[error(transparent)]
    Device(#[from] block::DeviceError),
    #[error(transparent)]
    FileSystem(#[from] local_device::LocalDeviceError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Maps the image of a pod's volume and mounts it, unless it is mounted there.
pub(super) async fn prepare(
    objects: &ApiObjects,
    dir: &PodDir,
    volume: &str,
    source: RbdSource,
    usage: Usage,
) -> Result<Prepared, VolumeSetupError> {
    let (is_block, read_only) = (usage.is_block, usage.read_only || source.read_only);
    let setup_error = |error: RbdVolumeError| VolumeSetupError {
        block: is_block,
        cause: error.into(),
    };
    let target = dir.volume(volume);
    let mount_point = target.clone();
    let mut prepared = Prepared {
        path: target,
        read_only,
        remote: true,
        ..Prepared::default()
    };
    let is_mounted = blocking(move || is_mounted(&mount_point)).await;
    if is_mounted.map_err(setup_error)? && !is_block {
        return Ok(prepared);
    }
    source.check().map_err(|error| setup_error(error.into()))?;
    let key = key(objects, &source).await.map_err(setup_error)?;
    let abandoned = CancellationToken::new();
    let attempt = Attempt {
        dir: dir.clone(),
        volume: volume.to_owned(),
        source,
        usage,
        key,
        runtime: Handle::current(),
        abandoned: abandoned.clone(),
    };
    let _abandon = abandoned.drop_guard();
    let image = format!("{}/{}", attempt.source.pool, attempt.source.image);
    let name = format!("rbd {}", prepared.path.display());
    let device = call_with_timeout(name, PREPARE_MAX, move || attempt.run()).await;
    let device = device.unwrap_or_else(|source| Err(RbdVolumeError::Call { image, source }));
    let device = device.map_err(setup_error)?;
    if is_block {
        prepared.path = device;
        prepared.block = Some(BlockVolume::Device);
        prepared.remote = false;
    }
    Ok(prepared)
}

fn is_mounted(target: &Path) -> Result<bool, RbdVolumeError> {
    let mounts = mounts_below(target).map_err(RbdVolumeError::Mounts)?;
    Ok(!mounts.is_empty())
}

/// The key of the user: of the Secret, or of the keyring on the node. `None` if there is no keyring: a cluster
/// without authentication needs no key.
async fn key(objects: &ApiObjects, source: &RbdSource) -> Result<Option<String>, RbdVolumeError> {
    let Some(SecretName {
        namespace,
        name,
        is_typed,
    }) = &source.secret
    else {
        let (path, user) = (source.keyring.clone(), source.user.clone());
        return blocking(move || match fs::read_to_string(&path) {
            Ok(text) => Ok(key_in_keyring(&text, &user)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RbdVolumeError::Keyring { path, source }),
        })
        .await;
    };
    let secret = ObjectKey::new(&**namespace, &**name);
    let object = objects.secret(namespace, name).await?;
    let object = object.ok_or_else(|| RbdVolumeError::SecretNotFound(secret.clone()))?;
    if *is_typed && object.type_.as_deref() != Some(PROVISIONER) {
        let existing = object.type_.unwrap_or_default();
        return Err(RbdVolumeError::SecretType { secret, existing });
    }
    let key = key_of(&object.data.unwrap_or_default());
    let key = key.map_err(|reason| RbdVolumeError::SecretKey { secret, reason })?;
    Ok(Some(key))
}

/// One attempt to prepare a volume. The pod may be deleted at any step; then its record is deleted.
struct Attempt {
    dir: PodDir,
    volume: String,
    source: RbdSource,
    usage: Usage,
    key: Option<String>,
    /// Runs the program `rbd`.
    runtime: Handle,
    /// Cancelled when no task waits for the attempt any more.
    abandoned: CancellationToken,
}

impl Attempt {
    fn run(&self) -> Result<PathBuf, RbdVolumeError> {
        let bus = Bus::open()?;
        let image = Image {
            monitors: monitor_addresses(&self.source.monitors)?,
            pool: self.source.pool.clone(),
            name: self.source.image.clone(),
        };
        let (device, open) = self.mapped(&bus, &image)?;
        let path = self.mount_device(&device, &device_path(&device));
        // While the device was open, it could not be unmapped, and no other image could get its number.
        drop(open);
        if path.is_err() || !record(&self.dir, &self.volume).exists() {
            self.unmap_unused(&bus, &device)?;
        }
        path
    }

    /// The device of the image, which is mapped if necessary, and an open file of the device.
    fn mapped(&self, bus: &Bus, image: &Image) -> Result<(Device, File), RbdVolumeError> {
        let find_error = |source: io::Error| RbdVolumeError::Find {
            image: image.full_name(),
            source,
        };
        let is_new = exclusively(image, || {
            let device = bus.find_device(image).map_err(find_error)?;
            let pods = users(&self.dir, image).map_err(find_error)?;
            if let Some(device) = device.as_ref().filter(|_| pods.is_empty()) {
                return Err(RbdVolumeError::Foreign {
                    image: image.full_name(),
                    device: device_path(device),
                });
            }
            write_record(&self.dir, &self.volume, image).map_err(find_error)?;
            Ok(device.is_none())
        })?;
        if is_new {
            let (source, key) = (&self.source, self.key.as_deref());
            bus.map_image(image, source, key, self.access())?;
        }
        let opened = exclusively(image, || {
            let device = bus.find_device(image).map_err(find_error)?;
            let device = device.ok_or_else(|| RbdVolumeError::NoDevice(image.full_name()))?;
            if !record(&self.dir, &self.volume).exists() {
                return Ok(None);
            }
            let path = device_path(&device);
            match File::open(&path) {
                Ok(file) => Ok(Some((device, file))),
                Err(source) => Err(RbdVolumeError::Open {
                    device: path,
                    source,
                }),
            }
        })?;
        if let Some(opened) = opened {
            return Ok(opened);
        }
        let unmapped = retry_while_open(image, || match users(&self.dir, image)?.is_empty() {
            true => bus.unmap(image),
            false => Ok(()),
        });
        unmapped.map_err(|error| find_error(error.into()))?;
        Err(RbdVolumeError::PodDeleted)
    }

    fn access(&self) -> ImageAccess {
        match (self.source.read_only, self.usage.is_shared) {
            (true, _) => ImageAccess::ReadOnly,
            (false, true) => ImageAccess::Shared,
            (false, false) => ImageAccess::Locked,
        }
    }

    /// Mounts the device, or checks that a block volume has a device.
    fn mount_device(&self, device: &Device, device_path: &Path) -> Result<PathBuf, RbdVolumeError> {
        if self.access() == ImageAccess::Locked {
            self.check_alone(device)?;
        }
        if self.usage.is_block {
            block::check_device(device_path)?;
            return Ok(device_path.to_owned());
        }
        let target = self.dir.volume(&self.volume);
        let file_system = self.source.file_system.as_deref();
        let (options, read_only) = (&self.usage.options, self.source.read_only);
        local_device::mount_at(device_path, &target, file_system, options, read_only)?;
        if let Some(group) = self.usage.group.filter(|_| !read_only) {
            ownership::give_to_group(&target, group.gid, group.on_mismatch_only)
                .map_err(RbdVolumeError::FsGroup)?;
        }
        Ok(device_path.to_owned())
    }

    /// Checks that no other client has the image open. The image is already mapped on this node, so two nodes
    /// that begin at the same time see each other.
    fn check_alone(&self, device: &Device) -> Result<(), RbdVolumeError> {
        let image = device.image.full_name();
        let login = RbdLogin {
            monitors: device.image.monitors.clone(),
            pool: device.image.pool.clone(),
            user: self.source.user.clone(),
            key: self.key.clone(),
        };
        let program = RbdProgram::default();
        let watchers = program.other_watchers(&login, &device.image.name, &device.client);
        let watchers = self.abandoned.run_until_cancelled(watchers);
        match self.runtime.block_on(watchers) {
            None => Err(RbdVolumeError::Abandoned),
            Some(Err(RbdProgramError::Missing)) if device.is_locked => Ok(()),
            Some(Err(RbdProgramError::Missing)) => Err(RbdVolumeError::ProgramMissing(image)),
            Some(Err(error)) => Err(RbdVolumeError::Program(error)),
            Some(Ok(clients)) if clients.is_empty() => Ok(()),
            Some(Ok(clients)) => Err(RbdVolumeError::InUse { image, clients }),
        }
    }

    /// Unmaps a device that is not used, or whose pod is deleted.
    fn unmap_unused(&self, bus: &Bus, device: &Device) -> Result<(), RbdVolumeError> {
        let is_deleted = !record(&self.dir, &self.volume).exists();
        if is_deleted && !self.usage.is_block {
            nfs::unmount(&self.dir.volume(&self.volume)).map_err(RbdVolumeError::Unmount)?;
        }
        let image = &device.image;
        let unmapped = retry_while_open(image, || {
            let users = users(&self.dir, image)?;
            let other_users = users.iter().filter(|user| **user != self.dir).count();
            match other_users == 0 && mounts_of_image(&self.dir, image).is_empty() {
                true => bus.unmap(image),
                false => Ok(()),
            }
        });
        match unmapped {
            Err(UnmapError::Unknown(error)) => Err(RbdVolumeError::Users(error)),
            // The next attempt unmaps a remaining device, or the deletion of the pod.
            Err(error) => {
                tracing::debug!(image = image.full_name(), %error, "an image stays mapped");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// The mounts of the pod's volumes that are images.
pub(super) fn targets(dir: &PodDir) -> io::Result<Vec<PathBuf>> {
    let records = records(dir)?;
    let targets = records.iter().map(|(volume, _)| dir.volume(volume));
    // The mount table has absolute paths without links.
    Ok(targets
        .filter_map(|target| {
            fs::canonicalize(target.parent()?)
                .ok()
                .zip(target.file_name().map(ToOwned::to_owned))
        })
        .map(|(parent, name)| parent.join(name))
        .collect())
}

/// Unmaps the images of which the pod was the last user. The volumes of the pod must be unmounted.
///
/// # Errors
/// An image is still open, or its cluster does not respond; the caller can retry.
pub(super) fn release(dir: &PodDir) -> io::Result<()> {
    for (volume, image) in records(dir)? {
        retry_while_open(&image, || {
            let users = users(dir, &image)?;
            let other_users = users.iter().filter(|user| *user != dir).count();
            let images = records(dir)?;
            let uses = images.iter().filter(|(_, used)| used.is(&image)).count();
            if other_users == 0
                && uses <= 1
                && let Some(bus) = Bus::present()
            {
                bus.unmap(&image)?;
            }
            // With the lock of the image: if the last two pods are released concurrently, the second pod unmaps
            // the image.
            Ok(fs::remove_file(record(dir, &volume))?)
        })?;
    }
    match fs::remove_dir(directory(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Works on an image, and retries while its device is open. Other tasks use the image between the attempts, so
/// each attempt reads the users of the image again.
fn retry_while_open(
    image: &Image,
    work: impl Fn() -> Result<(), UnmapError>,
) -> Result<(), UnmapError> {
    let mut attempts = 1;
    loop {
        match exclusively(image, &work) {
            Err(UnmapError::IsOpen { .. }) if attempts < UNMAP_ATTEMPTS_MAX => {
                attempts += 1;
                thread::sleep(UNMAP_DELAY);
            }
            result => return result,
        }
    }
}

/// The directory of a pod's records.
fn directory(dir: &PodDir) -> PathBuf {
    dir.root().join("rbd")
}

fn record(dir: &PodDir, volume: &str) -> PathBuf {
    directory(dir).join(volume)
}

fn write_record(dir: &PodDir, volume: &str, image: &Image) -> io::Result<()> {
    fs::create_dir_all(directory(dir))?;
    let text = serde_json::to_vec(image)?;
    // A power failure unmaps the image, so the record need not be durable.
    replace(&record(dir, volume), &text, 0o600, Durability::PageCache)
}

/// The images that a pod may have mapped, by its volumes.
fn records(dir: &PodDir) -> io::Result<Vec<(String, Image)>> {
    let entries = match fs::read_dir(directory(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut images = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        match serde_json::from_slice(&fs::read(entry.path())?) {
            Ok(image) => images.push((name, image)),
            // A partial file: the writer was killed before it mapped the image.
            Err(_) => fs::remove_file(entry.path())?,
        }
    }
    Ok(images)
}

/// The pods of the node with a record of an image.
fn users(dir: &PodDir, image: &Image) -> io::Result<Vec<PodDir>> {
    let Some(pods) = dir.root().parent() else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut users = Vec::new();
    for entry in entries {
        let pod = PodDir::at(entry?.path());
        if records(&pod)?.iter().any(|(_, used)| used.is(image)) {
            users.push(pod);
        }
    }
    Ok(users)
}

/// The mounts of an image in a pod.
fn mounts_of_image(dir: &PodDir, image: &Image) -> Vec<PathBuf> {
    let pod_images = records(dir).unwrap_or_default();
    let pod_images = pod_images
        .into_iter()
        .filter(|(_, image_of_pod)| image_of_pod.is(image));
    pod_images
        .flat_map(|(volume, _)| mounts_below(&dir.volume(&volume)).unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, monitor: &str) -> Image {
        Image {
            monitors: vec![monitor.to_owned()],
            pool: "kube".to_owned(),
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_users_of_an_image_are_read_from_records() {
        let temp = tempfile::tempdir().unwrap();
        let pod = |name: &str| PodDir::at(temp.path().join("pods").join(name));
        let (first, second) = (pod("first"), pod("second"));
        assert!(records(&first).unwrap().is_empty());
        write_record(&first, "data", &image("foo", "10.0.0.1:6789")).unwrap();
        write_record(&second, "data", &image("foo", "10.0.0.1:6789")).unwrap();
        write_record(&second, "other", &image("bar", "10.0.0.1:6789")).unwrap();
        let count = |image: &Image| users(&first, image).unwrap().len();
        assert_eq!(count(&image("foo", "10.0.0.1:6789")), 2);
        assert_eq!(count(&image("bar", "10.0.0.1:6789")), 1);
        assert_eq!(count(&image("foo", "10.9.9.9:6789")), 0);
        // As after the kill of a writer.
        fs::write(record(&second, ".data.new"), "{\"monitors").unwrap();
        assert_eq!(records(&second).unwrap().len(), 2);
        // As after a reboot: nothing is mapped.
        for dir in [&second, &first, &first] {
            release(dir).unwrap();
            assert!(!directory(dir).exists());
        }
    }
}
