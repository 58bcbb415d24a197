//! Network namespaces that exist without a process: each is mounted on a file.

use std::fs::OpenOptions;
use std::io::Error as IoError;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, statfs};

/// The file system of namespaces (`NSFS_MAGIC` in `linux/magic.h`).
const NSFS: FsType = FsType(0x6e73_6673);

/// Creates a namespace at this path, unless it exists. Blocks the calling thread.
pub(super) fn pin(path: &Path) -> Result<(), IoError> {
    if is_namespace(path) {
        return Ok(());
    }
    create(path)
}

/// Removes the mount and the file. The kernel removes the namespace when its last process has exited.
pub(super) fn unpin(path: &Path) -> Result<(), IoError> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == NSFS)
}

/// Creates the namespace and mounts it on a new thread, because a thread of the pool must not change its
/// namespace.
fn create(path: &Path) -> Result<(), IoError> {
    let mut file = OpenOptions::new();
    file.create(true).append(true).open(path)?;
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("netns".to_owned());
        let worker = worker.spawn_scoped(scope, || mount_new(path))?;
        worker
            .join()
            .unwrap_or_else(|_| Err(IoError::other("the thread in the namespace died")))
    })
}

/// Moves this thread to a new namespace, and mounts the namespace.
fn mount_new(path: &Path) -> Result<(), IoError> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let source = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
    let none: Option<&Path> = None;
    mount(Some(Path::new(&source)), path, none, MsFlags::MS_BIND, none)?;
    Ok(())
}
