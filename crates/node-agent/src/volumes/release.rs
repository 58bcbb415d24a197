//! Unmount of a pod's volumes, and deletion of their files.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use host_kernel::{mount_table, tree};
use nix::mount::{MntFlags, umount2};

use super::mount_points::{mounts_below, mounts_in};
use super::{block, nfs, one_pod, rbd};
use crate::paths::PodDir;

/// Reverts [`prepare`](super::prepare): unmounts and detaches everything in the pod's directory, and
/// deletes the files of all volumes except `retained`.
pub fn release(dir: &PodDir, retained: &BTreeSet<String>) -> io::Result<()> {
    block::release(dir)?;
    let root = dir.volumes();
    let table = mount_table::read()?;
    let mounted = mounts_in(&table, &root)?;
    let mut remote: Vec<PathBuf> = table
        .into_iter()
        .filter(nfs::is_remote)
        .map(|mount| mount.path)
        .collect();
    remote.extend(rbd::targets(dir)?);
    for target in mounted.iter().rev() {
        if remote.contains(target) {
            nfs::unmount(target)?;
            continue;
        }
        match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(_) => umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?,
        }
    }
    if !mounted.is_empty()
        && let Some(path) = mounts_below(&root)?.first()
    {
        let message = format!("{} is still mounted", path.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
    }
    rbd::release(dir)?;
    one_pod::release(dir)?;
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| retained.contains(name)) {
            continue;
        }
        tree::remove(&entry.path())?;
    }
    match retained.is_empty() {
        true => fs::remove_dir(&root),
        false => Ok(()),
    }
}
