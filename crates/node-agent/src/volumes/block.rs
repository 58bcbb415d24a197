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
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that a path is a block device of the node.
///
/// # Errors
/// The text is kubelet's.
pub fn check_device(path: &Path) -> Result<(), String> {
    let failed = |why: String| {
        Err(format!(
            "failed to map devicePath: {}: {why}",
            path.display()
        ))
    };
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => Ok(()),
        Ok(_) => failed("is not a block device".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            failed("does not exist".to_owned())
        }
        Err(error) => failed(error.to_string()),
    }
}

/// Attaches an image to a loop device for the pod's volume `volume`.
///
/// # Errors
/// An error of the disk, or no loop device is available.
pub fn attach(dir: &PodDir, volume: &str, image: &Path) -> io::Result<()> {
    let _turn = turn();
    let link = dir.volume(volume);
    fs::create_dir_all(dir.volumes())?;
    match fs::read_link(&link) {
        Ok(known) if known == image => {}
        Ok(_) => fs::remove_file(&link).and_then(|()| symlink(image, &link))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => symlink(image, &link)?,
        Err(error) => return Err(error),
    }
    device_over(image).map(drop)
}

/// The device of an image. The image is attached again if it is not attached.
///
/// # Errors
/// Like [`attach`].
pub fn device(image: &Path) -> io::Result<PathBuf> {
    let _turn = turn();
    device_over(image)
}

fn device_over(image: &Path) -> io::Result<PathBuf> {
    // A symbolic link could select any file of the node.
    if !fs::symlink_metadata(image)?.is_file() {
        let what = format!("{} is not an image of a volume", image.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(LoopDevice::kept_over(image)?.path().to_owned())
}

/// Detaches the devices whose last user was the pod.
///
/// # Errors
/// An error of the disk or the kernel. The links of the failed devices stay, and the caller can retry.
pub fn release(dir: &PodDir) -> io::Result<()> {
    let _turn = turn();
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
        let other = PodDir::at(entry?.path());
        let same = |(_, used): &(PathBuf, PathBuf)| used == image;
        if other != *dir && links(&other.volumes())?.iter().any(same) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The links in a directory, with their targets.
fn links(dir: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            found.push((entry.path(), fs::read_link(entry.path())?));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until no loop device is attached to a file: tests of other processes open every device for a
    /// short time, and the kernel detaches a device after its last user.
    fn no_device_over(file: &Path) -> bool {
        (0..100).any(|_| {
            let is_gone = LoopDevice::find(file).unwrap().is_none();
            if !is_gone {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            is_gone
        })
    }

    #[test]
    fn only_a_block_device_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let text = |path: &Path| check_device(path).unwrap_err();
        assert!(text(dir.path()).ends_with("is not a block device"));
        assert!(text(Path::new("/dev/null")).ends_with("is not a block device"));
        assert!(text(&dir.path().join("none")).ends_with("does not exist"));
    }

    #[test]
    fn an_image_has_a_device_until_its_last_pod_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("image");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let pod = |name: &str| PodDir::at(root.path().join("pods").join(name));
        let (first, second) = (pod("first"), pod("second"));
        attach(&first, "data", &image).unwrap();
        attach(&second, "data", &image).unwrap();
        attach(&second, "data", &image).unwrap();
        let found = device(&image).unwrap();
        assert!(check_device(&found).is_ok());
        release(&first).unwrap();
        assert_eq!(device(&image).unwrap(), found);
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
    fn a_link_in_the_place_of_an_image_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let (secret, image) = (root.path().join("secret"), root.path().join("image"));
        fs::write(&secret, "x").unwrap();
        symlink(&secret, &image).unwrap();
        let pod = PodDir::at(root.path().join("pods/p"));
        assert!(attach(&pod, "data", &image).is_err());
        assert!(LoopDevice::find(&secret).unwrap().is_none());
    }
}
