//! `rbd` volumes: images of a Ceph cluster that the kernel maps as block devices of this node.
//!
//! Each pod that uses an image has a record beside its volumes, which is written before the image is
//! mapped and goes after it is unmapped. So a new agent knows the devices of the former one, and the device
//! goes with the last pod of the node that uses it. A record without a device is no error: a reboot
//! unmaps all.
//!
//! Only one node writes to an image, unless its volume allows more: it is mapped with its lock, where it
//! can have one, and `rbd status` must name no other client.

mod growth;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use host_kernel::durable_file::{Durability, replace};
use host_kernel::{blocking, call_with_timeout};
use kube_api_client::guarded_writes::chain;
use rbd_images::{
    Bus, Device, Image, ImageAccess, RbdLogin, RbdProgram, RbdProgramError, RbdSource, SecretName,
    UnmapError, device_path, exclusively, key_in_keyring, monitor_addresses,
};
use resource_kinds::storage::rbd::{PROVISIONER, key_of};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use self::growth::keep_growing;
use super::mount_points::mounts_below;
use super::{BlockVolume, Prepared, VolumeSetupError, block, local_device, nfs, ownership};
use crate::api::objects::ApiObjects;
use crate::paths::PodDir;

/// Until an image is mapped, formatted and mounted.
const PREPARE_MAX: Duration = Duration::from_secs(180);

/// A device may be open for a moment: udev reads new ones.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// The use of an image by a pod's volume.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    /// Whether the containers have the device.
    pub is_block: bool,
    /// Whether other nodes may write to it at the same time.
    pub is_shared: bool,
    /// Mount options of the file system.
    pub options: Vec<String>,
    /// Whether the containers only read.
    pub read_only: bool,
    /// The group that the files are given to, and whether only if the root is not its own.
    pub group: Option<(u32, bool)>,
}

/// Maps the image of a pod's volume and mounts it, unless it is mounted there.
///
/// # Errors
/// As users read them.
pub(super) async fn prepare(
    objects: &ApiObjects,
    dir: &PodDir,
    volume: &str,
    source: RbdSource,
    usage: Usage,
) -> Result<Prepared, VolumeSetupError> {
    let (is_block, read_only) = (usage.is_block, usage.read_only || source.read_only);
    let failed = |message: String| VolumeSetupError {
        block: is_block,
        message,
    };
    let target = dir.volume(volume);
    let at = target.clone();
    let mut prepared = Prepared {
        path: target,
        read_only,
        remote: true,
        ..Prepared::default()
    };
    let mounted = blocking(move || is_mounted(&at)).await;
    if mounted.map_err(failed)? && !is_block {
        return Ok(prepared);
    }
    source.check().map_err(|error| failed(error.to_string()))?;
    let key = key(objects, &source).await.map_err(failed)?;
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
    let shown = format!("map {}/{}", attempt.source.pool, attempt.source.image);
    let name = format!("rbd {}", prepared.path.display());
    let done = call_with_timeout(name, PREPARE_MAX, move || attempt.run()).await;
    let done = done.unwrap_or_else(|error| Err(format!("{shown}: {error}")));
    let device = done.map_err(failed)?;
    if is_block {
        prepared.path = device;
        prepared.block = Some(BlockVolume::Device);
        prepared.remote = false;
    }
    Ok(prepared)
}

fn is_mounted(target: &Path) -> Result<bool, String> {
    let mounts = mounts_below(target).map_err(|error| format!("read the mounts: {error}"))?;
    Ok(!mounts.is_empty())
}

/// The key of the user: of the Secret, or of the keyring on the node. A cluster without authentication
/// needs none.
async fn key(objects: &ApiObjects, source: &RbdSource) -> Result<Option<String>, String> {
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
            Err(error) => Err(format!("read the keyring {path}: {error}")),
        })
        .await;
    };
    let secret = objects.secret(namespace, name).await?;
    let secret = secret.ok_or_else(|| format!("secret \"{namespace}/{name}\" not found"))?;
    if *is_typed && secret.type_.as_deref() != Some(PROVISIONER) {
        let found = secret.type_.unwrap_or_default();
        return Err(format!(
            "secret \"{namespace}/{name}\" has the type {found:?}, and volumes of Ceph need {PROVISIONER:?}"
        ));
    }
    let key = key_of(&secret.data.unwrap_or_default());
    let key = key.map_err(|why| format!("secret \"{namespace}/{name}\": {why}"))?;
    Ok(Some(key))
}

/// One attempt to prepare a volume. Its pod may be gone at any step: its record says so.
struct Attempt {
    dir: PodDir,
    volume: String,
    source: RbdSource,
    usage: Usage,
    key: Option<String>,
    /// Runs the program `rbd`.
    runtime: Handle,
    /// Cancelled when nobody waits for the attempt any more.
    abandoned: CancellationToken,
}

impl Attempt {
    fn run(&self) -> Result<PathBuf, String> {
        let bus = Bus::open().map_err(|error| error.to_string())?;
        let monitors = monitor_addresses(&self.source.monitors);
        let image = Image {
            monitors: monitors.map_err(|error| error.to_string())?,
            pool: self.source.pool.clone(),
            name: self.source.image.clone(),
        };
        let (device, open) = self.mapped(&bus, &image)?;
        let used = self.use_device(&device, &device_path(&device));
        // Until here the device could not be unmapped, and its number not become another image's.
        drop(open);
        if used.is_err() || !record(&self.dir, &self.volume).exists() {
            self.undo(&bus, &device)?;
        }
        used
    }

    /// The device of the image, mapped if it is not, and held open.
    fn mapped(&self, bus: &Bus, image: &Image) -> Result<(Device, File), String> {
        let shown = image.full_name();
        let read = |error: io::Error| format!("find the device of {shown}: {error}");
        let is_new = exclusively(image, || {
            let device = bus.find_device(image).map_err(read)?;
            let ours = users(&self.dir, image).map_err(read)?;
            if let Some(device) = device.as_ref().filter(|_| ours.is_empty()) {
                return Err(format!(
                    "the image {shown} is mapped on this machine as {}, and not for pods of this node",
                    device_path(device).display()
                ));
            }
            write_record(&self.dir, &self.volume, image).map_err(read)?;
            Ok(device.is_none())
        })?;
        if is_new {
            let (source, key) = (&self.source, self.key.as_deref());
            let mapped = bus.map_image(image, source, key, self.access());
            mapped.map_err(|error| error.to_string())?;
        }
        let opened = exclusively(image, || {
            let device = bus.find_device(image).map_err(read)?;
            let device = device.ok_or_else(|| format!("the image {shown} has no device"))?;
            if !record(&self.dir, &self.volume).exists() {
                return Ok(None);
            }
            let path = device_path(&device);
            let open = File::open(&path);
            let open = open.map_err(|error| format!("open {}: {error}", path.display()))?;
            Ok::<_, String>(Some((device, open)))
        })?;
        if let Some(opened) = opened {
            return Ok(opened);
        }
        let unmapped = retry_while_open(image, || match users(&self.dir, image)?.is_empty() {
            true => bus.unmap(image),
            false => Ok(()),
        });
        unmapped.map_err(|error| read(error.into()))?;
        Err("the pod is gone".to_owned())
    }

    fn access(&self) -> ImageAccess {
        match (self.source.read_only, self.usage.is_shared) {
            (true, _) => ImageAccess::ReadOnly,
            (false, true) => ImageAccess::Shared,
            (false, false) => ImageAccess::Locked,
        }
    }

    fn use_device(&self, device: &Device, at: &Path) -> Result<PathBuf, String> {
        if self.access() == ImageAccess::Locked {
            self.check_alone(device)?;
        }
        if self.usage.is_block {
            block::check_device(at)?;
            return Ok(at.to_owned());
        }
        let target = self.dir.volume(&self.volume);
        let file_system = self.source.file_system.as_deref();
        let (options, read_only) = (&self.usage.options, self.source.read_only);
        local_device::mount_at(at, &target, file_system, options, read_only)?;
        if let Some((gid, on_mismatch)) = self.usage.group.filter(|_| !read_only) {
            ownership::give_to_group(&target, gid, on_mismatch)
                .map_err(|error| format!("apply fsGroup: {error}"))?;
        }
        Ok(at.to_owned())
    }

    /// Checks that no other client has the image open. It is mapped here already, so of two nodes that
    /// begin at once, each sees the other.
    fn check_alone(&self, device: &Device) -> Result<(), String> {
        let shown = device.image.full_name();
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
            None => Err("nobody waits for the volume any more".to_owned()),
            Some(Err(RbdProgramError::Missing)) if device.is_locked => Ok(()),
            Some(Err(RbdProgramError::Missing)) => Err(format!(
                "the image {shown} has no feature \"exclusive-lock\", and the program \"rbd\" \
                 (ceph-common) is not installed on the node: whether another machine writes to \
                 the image cannot be told"
            )),
            Some(Err(error)) => Err(chain(&error)),
            Some(Ok(others)) if others.is_empty() => Ok(()),
            Some(Ok(others)) => Err(format!(
                "rbd image {shown} is still being used: by {}",
                others.join(", ")
            )),
        }
    }

    /// Gives up a device that is not used, or whose pod is gone.
    fn undo(&self, bus: &Bus, device: &Device) -> Result<(), String> {
        let is_gone = !record(&self.dir, &self.volume).exists();
        if is_gone && !self.usage.is_block {
            nfs::unmount(&self.dir.volume(&self.volume))
                .map_err(|error| format!("unmount a volume whose pod is gone: {error}"))?;
        }
        let image = &device.image;
        let unmapped = retry_while_open(image, || {
            let users = users(&self.dir, image)?;
            let others = users.iter().filter(|user| **user != self.dir).count();
            match others == 0 && mounts_of_image(&self.dir, image).is_empty() {
                true => bus.unmap(image),
                false => Ok(()),
            }
        });
        match unmapped {
            Err(UnmapError::Unknown(error)) => Err(format!("find the users of an image: {error}")),
            // A device that stays is found by the next attempt, or when the pod goes.
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
    // As the mount table has them.
    Ok(targets
        .filter_map(|target| {
            fs::canonicalize(target.parent()?)
                .ok()
                .zip(target.file_name().map(ToOwned::to_owned))
        })
        .map(|(parent, name)| parent.join(name))
        .collect())
}

/// Unmaps the images of which the pod was the last user; nothing of it is mounted any more.
///
/// # Errors
/// An image is still open, or its cluster does not answer; then it can be tried again.
pub(super) fn release(dir: &PodDir) -> io::Result<()> {
    for (volume, image) in records(dir)? {
        retry_while_open(&image, || {
            let users = users(dir, &image)?;
            let others = users.iter().filter(|user| *user != dir).count();
            let again = records(dir)?;
            let own = again.iter().filter(|(_, other)| other.is(&image)).count();
            if others == 0
                && own <= 1
                && let Some(bus) = Bus::present()
            {
                bus.unmap(&image)?;
            }
            // Under the same lock: of two last users, the second one unmaps the image.
            Ok(fs::remove_file(record(dir, &volume))?)
        })?;
    }
    match fs::remove_dir(directory(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Works on an image, again while its device is open. Others work on the image during the pauses, so each try
/// begins with the users of the image.
fn retry_while_open(
    image: &Image,
    work: impl Fn() -> Result<(), UnmapError>,
) -> Result<(), UnmapError> {
    let mut tries = 1;
    loop {
        match exclusively(image, &work) {
            Err(UnmapError::IsOpen { .. }) if tries < BUSY_TRIES => {
                tries += 1;
                thread::sleep(BUSY_PAUSE);
            }
            other => return other,
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
    // A loss of power unmaps the image.
    replace(&record(dir, volume), &text, 0o600, Durability::PageCache)
}

/// The images that a pod may have mapped, by its volumes.
fn records(dir: &PodDir) -> io::Result<Vec<(String, Image)>> {
    let entries = match fs::read_dir(directory(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        match serde_json::from_slice(&fs::read(entry.path())?) {
            Ok(image) => found.push((name, image)),
            // Half a file of a writer that was killed, before it mapped anything.
            Err(_) => fs::remove_file(entry.path())?,
        }
    }
    Ok(found)
}

/// The pods of the node with a record of an image.
fn users(dir: &PodDir, image: &Image) -> io::Result<Vec<PodDir>> {
    let Some(pods) = dir.root().parent() else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let pod = PodDir::at(entry?.path());
        if records(&pod)?.iter().any(|(_, used)| used.is(image)) {
            found.push(pod);
        }
    }
    Ok(found)
}

/// The mounts of an image in a pod.
fn mounts_of_image(dir: &PodDir, image: &Image) -> Vec<PathBuf> {
    let of_image = records(dir).unwrap_or_default();
    let of_image = of_image.into_iter().filter(|(_, used)| used.is(image));
    of_image
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
    fn the_users_of_an_image_are_known_by_their_records() {
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
