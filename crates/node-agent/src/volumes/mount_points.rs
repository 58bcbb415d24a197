//! The mounts in the directories of a pod's volumes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use host_kernel::mount_table::{self, MountPoint};

/// Mount points at or below `root`, the outermost first.
pub(super) fn mounts_below(root: &Path) -> io::Result<Vec<PathBuf>> {
    mounts_in(&mount_table::read()?, root)
}

/// Mount points of `table` at or below `root`, the outermost first.
pub(super) fn mounts_in(table: &[MountPoint], root: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::canonicalize(root) {
        Ok(root) => Ok(mount_table::at_or_below(table, &root)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
