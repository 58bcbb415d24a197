//! The sparse image file of a block device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host_kernel::copy_on_write;
use host_kernel::loop_device::LoopDevice;

const NAME: &str = "device.img";

/// The path of the image in a volume's directory.
pub(crate) fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// Whether the path of a volume is the path of an image.
pub(crate) fn is_path(path: &Path) -> bool {
    path.ends_with(NAME)
}

/// Creates an image, or completes an existing image. The image is durable when the call returns.
pub(crate) fn make(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).mode(0o600);
    match open(&mut options, path) {
        Ok(file) => {
            // A file system that copies on write would do so below each write to the device.
            copy_on_write::disable(&file);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    grow(path, bytes)
}

/// Grows an image to this size if it is smaller, and its device with it.
pub(crate) fn grow(path: &Path, bytes: u64) -> io::Result<()> {
    let file = open(&mut OpenOptions::new(), path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    if metadata.len() < bytes {
        file.set_len(bytes)?;
        file.sync_all()?;
    }
    match LoopDevice::find(path)? {
        Some(device) => device.update_size(),
        None => Ok(()),
    }
}

/// Removes an image that was never written to.
pub(crate) fn remove_unused(path: &Path) {
    let metadata = std::fs::symlink_metadata(path);
    if metadata.is_ok_and(|metadata| metadata.is_file() && metadata.blocks() == 0)
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), %error, "image without a volume is kept");
    }
}

/// Opens an image for writing. A symbolic link at the path is an error.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options
        .write(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
}
