//! The data of an instance outside of its server: the backup of a whole instance in one file, and the objects of
//! a cluster in a file, in another data directory or in etcd.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod checksum;
mod error;
mod format;
mod restore;
pub mod store;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use command_output::failed_step::StepContext;
use host_kernel::durable_file::{self, Durability};

use error::Result;

pub use backup::{BackupRequest, back_up};
pub use error::BackupError;
pub use restore::restore;

/// The distance between the resource versions of the backup and those after a restore, so that no version is
/// used twice: the original instance may have continued after the backup, and clients may remember its
/// versions.
const REVISIONS_LEFT_OUT: u64 = 1_000_000_000;

/// Refuses a directory that is not empty.
///
/// # Errors
/// The directory has entries, or cannot be read.
fn require_empty(data: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.with_context(|| format!("use {}", data.display()))?,
    };
    // ext4 creates this directory itself.
    let is_of_file_system = |name: &std::ffi::OsStr| name == "lost+found";
    if entries.any(|entry| entry.map_or(true, |entry| !is_of_file_system(&entry.file_name()))) {
        return Err(BackupError::NotEmpty(data.to_owned()));
    }
    Ok(())
}

/// Writes a private file, which gets its name when all data is on the disk.
///
/// # Errors
/// Errors of the disk, and of `fill`; the file is removed then.
fn write_whole<T>(target: &Path, fill: impl FnOnce(File) -> Result<T>) -> Result<T> {
    let write = |file: &mut File| {
        let file = file
            .try_clone()
            .context("duplicate the descriptor of the file")?;
        fill(file)
    };
    durable_file::replace_beside_others(target, 0o600, Durability::Name, write)
        .map_err(|error: BackupError| error.at(format!("write {}", target.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_is_filled() {
        let folder = tempfile::tempdir().unwrap();
        require_empty(folder.path()).unwrap();
        require_empty(&folder.path().join("absent")).unwrap();
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        require_empty(folder.path()).unwrap();
        fs::write(folder.path().join("mine"), "").unwrap();
        let error = require_empty(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is not empty"), "{error}");
    }
}
