//! `rbd` volumes: images of a Ceph cluster that the kernel maps as block devices of this node.
//!
//! Each pod that uses an image has a record beside its volumes, which is written before the image is
//! mapped and goes after it is unmapped. So a new agent knows the devices of the former one, and the device
//! goes with the last pod of the node that uses it. A record without a device is no error: a reboot
//! unmaps all.
//!
//! Only one node writes to an image, unless its volume allows more: it is mapped with its lock, where it
//! can have one, and `rbd status` must name no other client.

mod bus;
mod growth;
mod image;

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use host_kernel::blocking;
use host_kernel::durable_file::{Durability, replace};
use host_kernel::{TimedCallError, call_with_timeout, call_with_timeout_blocking};
use resource_kinds::storage::rbd::{PROVISIONER, key_of};

use self::bus::{Bus, path};
pub use self::growth::keep_growing;
use self::image::{Device, Image, ImageMapping, MONITOR_PORT};
pub(super) use self::image::{SecretName, Source};
use super::mount_points::mounts_below;
use super::{BlockVolume, Prepared, VolumeSetupError, block, local_device, nfs, ownership};
use crate::api::objects::ApiObjects;
use crate::paths::PodDir;

/// Until an image is mapped, formatted and mounted.
const PREPARE_MAX: Duration = Duration::from_secs(180);

/// Until an image is unmapped.
const UNMAP_MAX: Duration = Duration::from_secs(10);

/// A device may be open for a moment: udev reads new ones.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// Serialises the search for users of an image and its unmapping with new users.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    source: Source,
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
    source.check().map_err(failed)?;
    let key = key(objects, &source).await.map_err(failed)?;
    let attempt = Attempt {
        dir: dir.clone(),
        volume: volume.to_owned(),
        source,
        usage,
        key,
    };
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
async fn key(objects: &ApiObjects, source: &Source) -> Result<Option<String>, String> {
    let Some(SecretName {
        namespace,
        name,
        is_typed,
    }) = &source.secret
    else {
        let (path, user) = (source.keyring.clone(), source.user.clone());
        return blocking(move || match fs::read_to_string(&path) {
            Ok(text) => Ok(image::key_in(&text, &user)),
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
    source: Source,
    usage: Usage,
    key: Option<String>,
}

impl Attempt {
    fn run(&self) -> Result<PathBuf, String> {
        let bus = Bus::open()?;
        let image = Image {
            monitors: monitors(&self.source.monitors)?,
            pool: self.source.pool.clone(),
            name: self.source.image.clone(),
        };
        let (device, open) = self.mapped(&bus, &image)?;
        let used = self.use_device(&device, &path(&device));
        // Until here the device could not be unmapped, and its number not become another image's.
        drop(open);
        if used.is_err() || !record(&self.dir, &self.volume).exists() {
            self.undo(&bus, &device)?;
        }
        used
    }

    /// The device of the image, mapped if it is not, and held open.
    fn mapped(&self, bus: &Bus, image: &Image) -> Result<(Device, File), String> {
        let shown = image.shown();
        let read = |error: io::Error| format!("find the device of {shown}: {error}");
        let is_new = {
            let _turn = turn();
            let found = bus.find(image).map_err(read)?;
            let ours = users(&self.dir, image).map_err(read)?;
            if let Some(device) = found.as_ref().filter(|_| ours.is_empty()) {
                return Err(format!(
                    "the image {shown} is mapped on this machine as {}, and not for pods of this node",
                    path(device).display()
                ));
            }
            write_record(&self.dir, &self.volume, image).map_err(read)?;
            found.is_none()
        };
        if is_new {
            self.map(bus, image)?;
        }
        let _turn = turn();
        let device = bus.find(image).map_err(read)?;
        let device = device.ok_or_else(|| format!("the image {shown} has no device"))?;
        if !record(&self.dir, &self.volume).exists() {
            let ours = users(&self.dir, image).map_err(read)?;
            if ours.is_empty() {
                unmap(bus, &device).map_err(read)?;
            }
            return Err("the pod is gone".to_owned());
        }
        let open = File::open(path(&device));
        let open = open.map_err(|error| format!("open {}: {error}", path(&device).display()))?;
        Ok((device, open))
    }

    fn map(&self, bus: &Bus, image: &Image) -> Result<(), String> {
        let add = |access| {
            let line = image::line(image, &self.source.user, self.key.as_deref(), access);
            bus.add(&line)
        };
        let done = match self.access() {
            // An image without the feature `exclusive-lock` is refused so.
            ImageMapping::Locked => match add(ImageMapping::Locked) {
                Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
                    add(ImageMapping::Shared)
                }
                other => other,
            },
            other => add(other),
        };
        done.map_err(|error| refused(image, &self.source, self.key.is_some(), &error))
    }

    fn access(&self) -> ImageMapping {
        match (self.source.read_only, self.usage.is_shared) {
            (true, _) => ImageMapping::ReadOnly,
            (false, true) => ImageMapping::Shared,
            (false, false) => ImageMapping::Locked,
        }
    }

    fn use_device(&self, device: &Device, at: &Path) -> Result<PathBuf, String> {
        if self.access() == ImageMapping::Locked {
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
        let shown = device.image.shown();
        let status = match self.ask_status(&device.image) {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound && device.is_locked => {
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!(
                    "the image {shown} has no feature \"exclusive-lock\", and the program \"rbd\" \
                     (ceph-common) is not installed on the node: whether another machine writes to \
                     the image cannot be told"
                ));
            }
            Err(error) => return Err(format!("run rbd status {shown}: {error}")),
        };
        if !status.status.success() {
            let said = String::from_utf8_lossy(&status.stderr);
            let last = said.lines().last().unwrap_or_default();
            return Err(format!("rbd status {shown}: {}: {last}", status.status));
        }
        let text = String::from_utf8_lossy(&status.stdout);
        match image::other_watchers(&text, &device.client)?.as_slice() {
            [] => Ok(()),
            others => Err(format!(
                "rbd image {shown} is still being used: by {}",
                others.join(", ")
            )),
        }
    }

    /// The key is given to `rbd` by a pipe: the arguments of a process are read by every user.
    fn ask_status(&self, image: &Image) -> io::Result<Output> {
        let mut rbd = Command::new("rbd");
        rbd.args(["status", &image.name, "--pool", &image.pool])
            .args(["--id", &self.source.user, "-m", &image.monitors.join(",")])
            .args(["--format", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.key.is_some() {
            rbd.args(["--keyfile", "/dev/stdin"]);
        }
        let mut rbd = rbd.spawn()?;
        if let (Some(mut input), Some(key)) = (rbd.stdin.take(), &self.key) {
            // One that has ended says why.
            input.write_all(key.as_bytes()).ok();
        }
        rbd.wait_with_output()
    }

    /// Gives up a device that is not used, or whose pod is gone.
    fn undo(&self, bus: &Bus, device: &Device) -> Result<(), String> {
        let is_gone = !record(&self.dir, &self.volume).exists();
        if is_gone && !self.usage.is_block {
            nfs::unmount(&self.dir.volume(&self.volume))
                .map_err(|error| format!("unmount a volume whose pod is gone: {error}"))?;
        }
        let _turn = turn();
        let users = users(&self.dir, &device.image);
        let users = users.map_err(|error| format!("find the users of an image: {error}"))?;
        let others = users.iter().filter(|user| **user != self.dir).count();
        if others == 0 && mounts_of_image(&self.dir, &device.image).is_empty() {
            // A device that stays is found by the next attempt, or when the pod goes.
            if let Err(error) = unmap(bus, device) {
                tracing::debug!(image = device.image.shown(), %error, "an image stays mapped");
            }
        }
        Ok(())
    }
}

/// The error of the kernel, as the user reads it.
fn refused(image: &Image, source: &Source, has_key: bool, error: &io::Error) -> String {
    use nix::libc::{EACCES, EEXIST, EINVAL, EIO, ENOENT, ENXIO, EPERM, EROFS, ETIMEDOUT};
    let no_key = match (has_key, &source.keyring) {
        (true, _) => String::new(),
        (false, keyring) => format!(
            "; there is no secretRef, and no key of client.{} in {keyring}",
            source.user
        ),
    };
    let why = match error.raw_os_error() {
        Some(ENOENT) => "the cluster has no such pool or image".to_owned(),
        Some(EACCES | EPERM | EINVAL) => {
            format!("the cluster refuses the user {:?}{no_key}", source.user)
        }
        Some(ETIMEDOUT | EIO) => {
            let monitors = image.monitors.join(", ");
            format!("no monitor answers at {monitors}")
        }
        Some(ENXIO) => "the image has features that the kernel of this node lacks".to_owned(),
        Some(EROFS | EEXIST) => "another machine has the lock of the image".to_owned(),
        _ => "the kernel refuses".to_owned(),
    };
    format!("map {}: {why}: {error}", image.shown())
}

/// The addresses of monitors. Names are resolved by the node, and those without an address are left out.
fn monitors(named: &[String]) -> Result<Vec<String>, String> {
    let mut found: Vec<SocketAddr> = Vec::new();
    let mut last = "the volume names no monitor".to_owned();
    for monitor in named {
        if let Some(address) = image::address(monitor) {
            found.push(address);
            continue;
        }
        let resolved = match monitor.contains(':') {
            true => monitor.to_socket_addrs(),
            false => (monitor.as_str(), MONITOR_PORT).to_socket_addrs(),
        };
        match resolved {
            Ok(addresses) => found.extend(addresses),
            Err(error) => {
                last = format!("the node cannot resolve the monitor {monitor:?}: {error}")
            }
        }
    }
    match found.is_empty() {
        true => Err(last),
        false => Ok(found.iter().map(SocketAddr::to_string).collect()),
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
        let _turn = turn();
        let users = users(dir, &image)?;
        let others = users.iter().filter(|user| *user != dir).count();
        let again = records(dir)?;
        let own = again.iter().filter(|(_, other)| other.is(&image)).count();
        if others == 0
            && own <= 1
            && let Some(bus) = Bus::present()
            && let Some(device) = bus.find(&image)?
        {
            unmap(&bus, &device)?;
        }
        fs::remove_file(record(dir, &volume))?;
    }
    match fs::remove_dir(directory(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn unmap(bus: &Bus, device: &Device) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let (bus, id) = (bus.clone(), device.id);
        let done =
            call_with_timeout_blocking(format!("unmap {id}"), UNMAP_MAX, move || bus.remove(id));
        let done = done.unwrap_or_else(|error| match error {
            TimedCallError::TimedOut => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the cluster does not answer",
            )),
            TimedCallError::Failed(error) => Err(error),
        });
        let error = match done {
            // It was unmapped meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        tries += 1;
        if error.raw_os_error() != Some(nix::libc::EBUSY) || tries == BUSY_TRIES {
            let (shown, at) = (device.image.shown(), path(device));
            let text = format!("unmap {shown}, {}: {error}", at.display());
            return Err(io::Error::new(error.kind(), text));
        }
        thread::sleep(BUSY_PAUSE);
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

    #[test]
    fn monitors_are_addresses_or_names() {
        let named = |monitors: &[&str]| {
            let named: Vec<String> = monitors.iter().map(|one| (*one).to_owned()).collect();
            super::monitors(&named)
        };
        assert_eq!(
            named(&["10.0.0.1", "[::1]:1"]).unwrap(),
            ["10.0.0.1:6789", "[::1]:1"]
        );
        assert!(named(&["localhost"]).unwrap()[0].ends_with(":6789"));
        assert!(named(&[]).is_err());
    }

    #[test]
    fn the_kernels_errors_are_told_in_terms_of_the_cluster() {
        let source = k8s_openapi::api::core::v1::RBDVolumeSource {
            image: "foo".to_owned(),
            ..Default::default()
        };
        let source = Source::inline(&source, "shop");
        let text = |code, has_key| {
            let error = io::Error::from_raw_os_error(code);
            refused(&image("foo", "10.0.0.1:6789"), &source, has_key, &error)
        };
        assert!(text(nix::libc::ENOENT, true).contains("no such pool or image"));
        assert!(text(nix::libc::ETIMEDOUT, true).contains("10.0.0.1:6789"));
        assert!(
            text(nix::libc::EACCES, false).contains("no key of client.admin in /etc/ceph/keyring")
        );
    }
}
