//! ID-mapped mounts for pods with a user namespace.
//!
//! Owners on disk do not change: in the pod, root's files belong to the pod's root; files that the pod's root
//! creates belong to root on disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::user_namespace::UserNamespace;
use crate::mounts::{self, Attributes};

/// The extent of a copied mount tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountDepth {
    /// The mount alone.
    One,
    /// The mount and all mounts below it.
    All,
}

/// Finds a file or directory of the node.
pub(crate) fn find(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Bind-mounts the found file to `target`, which is created; with `users`, the ids are mapped.
pub(crate) fn bind(
    found: &OwnedFd,
    target: &Path,
    depth: MountDepth,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    make_target(found, target)?;
    let tree = copy(found, depth)?;
    if let Some(users) = users {
        map_ids(&tree, depth, users)?;
    }
    attach(&tree, target)
}

fn make_target(found: &OwnedFd, target: &Path) -> io::Result<()> {
    if File::from(found.try_clone()?).metadata()?.is_dir() {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(target).map(drop)
}

/// A copy of the mounts at a place, attached nowhere yet.
pub(crate) fn copy(found: &OwnedFd, depth: MountDepth) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, depth == MountDepth::All);
    Ok(open_tree(found, "", flags)?)
}

fn attach(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", CWD, target, flags)?)
}

fn map_ids(tree: &OwnedFd, depth: MountDepth, users: &UserNamespace) -> io::Result<()> {
    let attributes = Attributes {
        set: mounts::IDS_MAPPED,
        user_namespace: users.handle().as_raw_fd() as u64,
        ..Attributes::default()
    };
    let below = match depth {
        MountDepth::One => 0,
        MountDepth::All => libc::AT_RECURSIVE,
    };
    let Err(error) = mounts::set_attributes(tree, &attributes, below) else {
        return Ok(());
    };
    Err(match error.raw_os_error() {
        // Each file system has to say that it can; one that is mapped already cannot again.
        Some(libc::EINVAL | libc::EPERM) => io::Error::new(
            io::ErrorKind::Unsupported,
            "its file system, or one that is mounted below it, cannot show the ids of the pod's \
             user namespace (hostUsers: false)",
        ),
        _ => error,
    })
}

/// Layers of an overlay with ids mapped to the pod's user namespace. They are mounted until this is dropped;
/// the overlay keeps its own references.
pub(crate) struct MappedLayers {
    dir: PathBuf,
    /// Where they are mounted, in their order.
    pub lowerdirs: Vec<PathBuf>,
}

impl MappedLayers {
    /// Mounts the layers below `dir`, which is made.
    pub fn mount(lowerdirs: &[PathBuf], dir: &Path, users: &UserNamespace) -> io::Result<Self> {
        let mut layers = MappedLayers {
            dir: dir.to_owned(),
            lowerdirs: Vec::new(),
        };
        for (index, layer) in lowerdirs.iter().enumerate() {
            let target = dir.join(staged_name(index, layer));
            find(layer)
                .and_then(|found| bind(&found, &target, MountDepth::One, Some(users)))
                .map_err(|error| {
                    let layer = layer.display();
                    io::Error::new(error.kind(), format!("mount {layer}: {error}"))
                })?;
            layers.lowerdirs.push(target);
        }
        Ok(layers)
    }
}

/// Where a layer is mounted for a moment. The overlay's options continue to name it, and by them others
/// see that the layer is in use: so it has the names that it has in its store.
fn staged_name(index: usize, layer: &Path) -> String {
    let names: Vec<_> = layer.iter().map(|name| name.to_string_lossy()).collect();
    let last = names.len().saturating_sub(2);
    format!("{index}-{}", names[last..].join("-"))
}

impl Drop for MappedLayers {
    fn drop(&mut self) {
        // What stays is in the container's directory, and goes with it.
        for target in &self.lowerdirs {
            umount2(target, MntFlags::MNT_DETACH).ok();
            fs::remove_dir(target).ok();
        }
        fs::remove_dir(&self.dir).ok();
    }
}

/// Gives this process its own mount namespace: later mounts are visible to no other process.
pub(crate) fn leave_the_nodes() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    cut_off()
}

/// Stops the propagation of this process's mounts to the mount namespace that it was copied from.
pub(crate) fn cut_off() -> io::Result<()> {
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// Makes `dir` reachable for all users, in the mount namespace of this process.
///
/// Root of a user namespace has no rights in the directories above the container's root. A directory without
/// access for others, such as `/root`, is covered by one that contains only the next directory of the path.
pub(crate) fn open_the_way_to(dir: &Path) -> io::Result<()> {
    let Some(closed) = outermost_closed(dir)? else {
        return Ok(());
    };
    let tree = copy(&find(dir)?, MountDepth::All)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let kind = Some("tmpfs");
    mount(kind, &closed, kind, flags, Some("mode=755,size=64k"))?;
    fs::create_dir_all(dir)?;
    attach(&tree, dir)
}

/// The outermost directory above `dir` that others may not search.
fn outermost_closed(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut closed = None;
    for above in dir.ancestors().skip(1) {
        if fs::metadata(above)?.permissions().mode() & 0o001 == 0 {
            closed = Some(above.to_owned());
        }
    }
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_layer_keeps_its_name() {
        let layer = Path::new("/data/images/layers/0a1b/fs");
        assert_eq!(staged_name(3, layer), "3-0a1b-fs");
        assert_eq!(staged_name(0, Path::new("x")), "0-x");
    }
}
