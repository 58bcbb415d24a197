//! The mounts in the directories of a pod's volumes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mount_table::MountPoint;

/// Mount points at or below `root`, outermost first.
pub(super) fn mounts_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    match real(root)? {
        Some(root) => Ok(mount_table::at_or_below(&mount_table::read()?, &root)),
        None => Ok(Vec::new()),
    }
}

/// Mount points at or below `root` in a table that was read, outermost first.
pub(super) fn mounts_in(table: &[MountPoint], root: &Path) -> io::Result<Vec<PathBuf>> {
    let root = real(root)?;
    Ok(root.map_or_else(Vec::new, |root| mount_table::at_or_below(table, &root)))
}

/// The path without symbolic links, as the mount table has it; none if there is nothing.
fn real(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::canonicalize(path) {
        Ok(real) => Ok(Some(real)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
