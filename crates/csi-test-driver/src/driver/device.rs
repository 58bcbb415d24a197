//! Loop devices: files as block devices, with the program losetup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Maximum number of attempts: another process may use the free device first.
const TRIES: usize = 20;

fn losetup(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("losetup").args(arguments).output()?;
    let trimmed = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(trimmed(&output.stdout)),
        false => Err(io::Error::other(format!(
            "losetup {arguments:?}: {}",
            trimmed(&output.stderr)
        ))),
    }
}

/// Whether a loop device has this file.
pub(crate) fn is_of(device: &str, file: &Path) -> bool {
    let name = device.rsplit('/').next().unwrap_or_default();
    let backing = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file"));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    backing.is_ok_and(|backing| backing.trim().ends_with(&*name))
}

/// Creates a loop device for a file.
pub(crate) fn attach(file: &Path) -> io::Result<String> {
    let path = file.to_string_lossy();
    let mut last = io::Error::other("no free device");
    for _ in 0..TRIES {
        let device = losetup(&["-f"])?;
        match losetup(&[&device, &path]) {
            Ok(_) => return Ok(device),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Detaches a loop device, if it still has this file.
pub(crate) fn detach(device: &str, file: &Path) -> io::Result<()> {
    match is_of(device, file) {
        true => losetup(&["-d", device]).map(drop),
        false => Ok(()),
    }
}

/// Updates the size of a loop device after its file has grown.
pub(crate) fn grow(device: &str) -> io::Result<()> {
    losetup(&["-c", device]).map(drop)
}

/// The path of the device node.
pub(crate) fn node(device: &str) -> PathBuf {
    PathBuf::from(device)
}
