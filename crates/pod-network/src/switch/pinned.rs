//! Network namespaces that stay without a process: each is mounted on a file.

use std::fs::{File, OpenOptions};
use std::io::Error as IoError;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, statfs};

/// The file system of namespaces (`NSFS_MAGIC` in `linux/magic.h`).
const NSFS: FsType = FsType(0x6e73_6673);

/// A network namespace with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PinnedNamespace {
    path: PathBuf,
}

impl PinnedNamespace {
    /// Finds the namespace of this path, or makes it. The calling thread may wait for the kernel.
    pub(super) fn open_or_create(path: &Path) -> Result<Self, IoError> {
        if !is_namespace(path) {
            create(path)?;
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread in the namespace.
    pub(super) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, IoError> + Send,
    ) -> Result<T, IoError> {
        let namespace = File::open(&self.path)?;
        on_thread(|| {
            nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }
}

/// Removes the mount and the file. The kernel removes the namespace when its last process has ended.
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
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS)
}

/// A thread makes the namespace and mounts it, because a thread of the pool must not change its own.
fn create(path: &Path) -> Result<(), IoError> {
    let mut file = OpenOptions::new();
    file.create(true).append(true).open(path)?;
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
        let none: Option<&Path> = None;
        mount(Some(Path::new(&own)), path, none, MsFlags::MS_BIND, none)?;
        Ok(())
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, IoError> + Send) -> Result<T, IoError> {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("netns".to_owned());
        let worker = worker.spawn_scoped(scope, work)?;
        worker
            .join()
            .unwrap_or_else(|_| Err(IoError::other("the thread in the namespace died")))
    })
}
