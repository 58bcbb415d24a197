//! fsGroup: volumes that belong to a pod's group.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// Gives everything below `root` to the group: files may be read and written by it, directories
/// also hand the group on to what is made in them. With `on_mismatch_only`, a root that belongs to
/// the group already is left alone.
pub fn give_to_group(root: &Path, gid: u32, on_mismatch_only: bool) -> io::Result<()> {
    let found = fs::symlink_metadata(root)?;
    if on_mismatch_only && found.gid() == gid && found.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    give(root, gid)
}

fn give(path: &Path, gid: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(gid));
    }
    chown(path, None, Some(gid))?;
    let more = if found.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(
        path,
        fs::Permissions::from_mode((found.mode() & 0o7777) | more),
    )?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), gid)?;
        }
    }
    Ok(())
}
