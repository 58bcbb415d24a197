//! ID-mapped mounts for pods with a user namespace.
//!
//! Owners on disk do not change: files that belong to root on disk belong to the pod's root inside the pod,
//! and files that the pod's root creates belong to root on disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use host_kernel::mounts::{self, Attributes};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::user_namespace::UserNamespace;

/// The extent of a copied mount tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountDepth {
    /// The mount alone.
    One,
    /// The mount and all mounts below it.
    All,
}

/// Opens a file or directory of the node.
pub(crate) fn find(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Bind-mounts an opened file at `target`, which is created. With `users`, the ids are mapped.
pub(crate) fn bind(
    source: &OwnedFd,
    target: &Path,
    depth: MountDepth,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    make_target(source, target)?;
    let tree = copy(source, depth)?;
    if let Some(users) = users {
        map_ids(&tree, depth, users)?;
    }
    attach(&tree, target)
}

fn make_target(source: &OwnedFd, target: &Path) -> io::Result<()> {
    if File::from(source.try_clone()?).metadata()?.is_dir() {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(target).map(drop)
}

/// A detached copy of the mount at an opened path.
pub(crate) fn copy(source: &OwnedFd, depth: MountDepth) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, depth == MountDepth::All);
    Ok(open_tree(source, "", flags)?)
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
        // The file system must support mapped mounts, and a mapped mount cannot be mapped again.
        Some(libc::EINVAL | libc::EPERM) => io::Error::new(
            io::ErrorKind::Unsupported,
            "its file system, or one that is mounted below it, cannot show the ids of the pod's \
             user namespace (hostUsers: false)",
        ),
        _ => error,
    })
}

/// Gives this process a private mount namespace: other processes cannot observe later mounts.
pub(crate) fn leave_the_nodes() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    cut_off()
}

/// Stops the propagation of this process's mounts to the original mount namespace.
pub(crate) fn cut_off() -> io::Result<()> {
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// Makes `dir` reachable for all users, in the mount namespace of this process.
///
/// The root user of a user namespace has no rights in the parent directories of the container's root. A
/// parent directory without access for others, such as `/root`, is covered by a directory that contains
/// only the next component of the path.
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

/// The outermost parent directory of `dir` that other users may not search.
fn outermost_closed(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut closed = None;
    for above in dir.ancestors().skip(1) {
        if fs::metadata(above)?.permissions().mode() & 0o001 == 0 {
            closed = Some(above.to_owned());
        }
    }
    Ok(closed)
}
