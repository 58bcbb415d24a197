//! Volumes that are block devices.
//!
//! A block device of the node is passed to containers unchanged. The provisioner's volumes are image files,
//! which are attached to loop devices when a pod needs them. The directory of each pod that uses the image
//! has a link to the image. So a new agent can list the users of a device. The device is detached when the
//! last link is removed. After a reboot, there are links without a device. The start of a container
//! attaches the device again.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use host_kernel::loop_device::LoopDevice;

use crate::paths::PodDir;

/// Serialises attach and detach, because no user may be added between the search for users and the detach.
static ATTACHMENTS: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    ATTACHMENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reason why a path is no block device of the node. The texts are kubelet's.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("failed to map devicePath: {}: is not a block device", .0.display())]
    NotBlockDevice(PathBuf),
    #[error("failed to map devicePath: {}: does not exist", .0.display())]
    NotFound(PathBuf),
    #[error("failed to map devicePath: {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

/// Checks that a path is a block device of the node.
pub fn check_device(path: &Path) -> Result<(), DeviceError> {
    let path = path.to_owned();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(()),
        Ok(_) => Err(DeviceError::NotBlockDevice(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DeviceError::NotFound(path)),
        Err(source) => Err(DeviceError::Unreadable { path, source }),
    }
}

/// Attaches an image to a loop device for the pod's volume `volume`.
///
/// # Errors
/// An error of the disk, or no loop device is available.
pub fn attach(dir: &PodDir, volume: &str, image: &Path) -> io::Result<()> {
    let _guard = lock();
    let link = dir.volume(volume);
    fs::create_dir_all(dir.volumes())?;
    match fs::read_link(&link) {
        Ok(target) if target == image => {}
        Ok(_) => fs::remove_file(&link).and_then(|()| symlink(image, &link))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => symlink(image, &link)?,
        Err(error) => return Err(error),
    }
    attached_device(image).map(drop)
}

/// The device of an image. The image is attached again if it is not attached.
///
/// # Errors
/// Like [`attach`].
pub fn device(image: &Path) -> io::Result<PathBuf> {
    let _guard = lock();
    attached_device(image)
}

fn attached_device(image: &Path) -> io::Result<PathBuf> {
    // A symbolic link could select any file of the node.
    if !fs::symlink_metadata(image)?.is_file() {
        let message = format!("{} is not an image of a volume", image.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(LoopDevice::persistent_over(image)?.path().to_owned())
}

/// Detaches the devices whose last user was the pod.
///
/// # Errors
/// An error of the disk or the kernel. The links of the failed devices stay, and the caller can retry.
pub fn release(dir: &PodDir) -> io::Result<()> {
    let _guard = lock();
    for (link, image) in links(&dir.volumes())? {
        if !is_used_elsewhere(dir, &image)? {
            LoopDevice::detach_from(&image)?;
        }
        fs::remove_file(link)?;
    }
    Ok(())
}

fn is_used_elsewhere(dir: &PodDir, image: &Path) -> io::Result<bool> {
    let Some(pods) = dir.root().parent() else {
        return Ok(false);
    };
    for entry in fs::read_dir(pods)? {
        let pod = PodDir::at(entry?.path());
        let has_image = |(_, target): &(PathBuf, PathBuf)| target == image;
        if pod != *dir && links(&pod.volumes())?.iter().any(has_image) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The links in a directory, with their targets.
fn links(dir: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut links = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            links.push((entry.path(), fs::read_link(entry.path())?));
        }
    }
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until no loop device is attached to a file: tests of other processes open every device for a
    /// short time, and the kernel detaches a device after its last user.
    fn no_device_over(file: &Path) -> bool {
        (0..100).any(|_| {
            let is_detached = LoopDevice::find(file).unwrap().is_none();
            if !is_detached {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            is_detached
        })
    }

    #[test]
    fn only_a_block_device_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let error_text = |path: &Path| check_device(path).unwrap_err().to_string();
        assert!(error_text(dir.path()).ends_with("is not a block device"));
        assert!(error_text(Path::new("/dev/null")).ends_with("is not a block device"));
        assert!(error_text(&dir.path().join("none")).ends_with("does not exist"));
    }

    #[test]
    fn an_image_has_a_device_until_its_last_pod_is_released() {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("image");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let pod = |name: &str| PodDir::at(root.path().join("pods").join(name));
        let (first, second) = (pod("first"), pod("second"));
        attach(&first, "data", &image).unwrap();
        attach(&second, "data", &image).unwrap();
        attach(&second, "data", &image).unwrap();
        let path = device(&image).unwrap();
        assert!(check_device(&path).is_ok());
        release(&first).unwrap();
        assert_eq!(device(&image).unwrap(), path);
        // As after a reboot: the link exists, the device does not.
        LoopDevice::detach_from(&image).unwrap();
        assert!(no_device_over(&image));
        device(&image).unwrap();
        release(&second).unwrap();
        assert!(no_device_over(&image));
        assert!(links(&second.volumes()).unwrap().is_empty());
        release(&second).unwrap();
    }

    #[test]
    fn a_link_instead_of_an_image_is_rejected() {
        let root = tempfile::tempdir().unwrap();
        let (secret, image) = (root.path().join("secret"), root.path().join("image"));
        fs::write(&secret, "x").unwrap();
        symlink(&secret, &image).unwrap();
        let pod = PodDir::at(root.path().join("pods/p"));
        assert!(attach(&pod, "data", &image).is_err());
        assert!(LoopDevice::find(&secret).unwrap().is_none());
    }
}
