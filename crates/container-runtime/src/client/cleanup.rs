//! Removal of a sandbox's kernel objects and files, in any state of the sandbox.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host_kernel::{mount_table, tree};
use nix::fcntl::{FcntlArg, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::orphans;
use crate::cgroup;
use crate::error::{Result, RuntimeError};
use crate::state_dir::{self, CONTAINERS, LOCK};

/// Maximum time until a shim exits after its announcement, and then until a killed shim has exited.
pub(crate) const SHIM_END_MAX: Duration = Duration::from_secs(10);

/// Process id of the running shim of a sandbox directory, found by the shim's record lock. The lock is
/// released when its process exits, so the process id is never a reused id.
pub(crate) fn shim_of(dir: &Path) -> Result<Option<i32>> {
    let path = dir.join(LOCK);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RuntimeError::io("open", path)(error)),
    };
    let mut lock = whole_file_lock();
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))
        .map_err(|errno| RuntimeError::io("examine", path)(errno.into()))?;
    Ok((lock.l_type != libc::F_UNLCK as i16).then_some(lock.l_pid))
}

/// Acquires the record lock of a sandbox directory for this process; `None` if another process has it.
pub(crate) fn lock(dir: &Path) -> io::Result<Option<File>> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole_file_lock())) {
        Ok(_) => Ok(Some(file)),
        Err(nix::Error::EACCES | nix::Error::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn whole_file_lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Kills the shim unless it exits within `patience`. Then kills every process of the pod, unmounts
/// everything, and removes the files. Blocks.
pub(crate) fn destroy(dir: &Path, group: &str, patience: Duration) -> Result<()> {
    end_shim(dir, patience)?;
    // Kills the shims of a sandbox with this id and another directory, for instance from before a backup
    // was restored.
    if let (Some((parent, _)), Some(id)) = (group.rsplit_once('/'), dir.file_name()) {
        orphans::end_shims(parent, &id.to_string_lossy())?;
    }
    clear(dir, group)?;
    remove_dir(dir)
}

/// Kills every process of the pod, unmounts everything, and removes the files except the sandbox's
/// directory. Blocks.
pub(crate) fn clear(dir: &Path, group: &str) -> Result<()> {
    cgroup::kill(group).map_err(RuntimeError::io("kill control group", group))?;
    let writable = writable_dirs(dir);
    unmount_below(dir)?;
    cgroup::remove(group).map_err(RuntimeError::io("remove control group", group))?;
    writable.iter().try_for_each(|path| remove_dir(path))
}

/// Kills the shim and every process of the pod. Blocks.
pub(crate) fn kill(dir: &Path, group: &str) -> Result<()> {
    end_shim(dir, Duration::ZERO)?;
    cgroup::kill(group).map_err(RuntimeError::io("kill control group", group))
}

fn end_shim(dir: &Path, patience: Duration) -> Result<()> {
    let mut killed = false;
    let mut until = Instant::now() + patience;
    while let Some(pid) = shim_of(dir)? {
        if Instant::now() > until {
            if killed {
                return Err(RuntimeError::Shim(format!("shim {pid} cannot be killed")));
            }
            killed = true;
            until = Instant::now() + SHIM_END_MAX;
            // The shim may just have exited, so there is no process to kill.
            if let Err(error) = signal::kill(Pid::from_raw(pid), Signal::SIGKILL) {
                tracing::debug!(pid, %error, "shim has ended");
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Writable layers of the containers, which may be in any directory.
fn writable_dirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join(CONTAINERS)) else {
        return Vec::new();
    };
    let mut paths = Vec::new();
    for entry in entries.flatten() {
        let spec = entry.path().join(state_dir::SPEC_FILE);
        if let Ok(spec) = state_dir::read_json::<crate::spec::ContainerSpec>(&spec) {
            paths.extend([spec.rootfs.upper_dir, spec.rootfs.work_dir]);
        }
    }
    paths.retain(|path| path.is_absolute());
    paths
}

/// Unmounts everything at or below a directory, the innermost mount first.
///
/// A mount may be a peer of a mount of the node, as a bind-mounted volume is. So the mount is made private
/// first, because unmounts below it would propagate to the node.
pub(crate) fn unmount_below(dir: &Path) -> Result<()> {
    let table = mount_table::read().map_err(RuntimeError::io("list mounts below", dir))?;
    let mounted = mount_table::at_or_below(&table, dir);
    for path in &mounted {
        let none = None::<&str>;
        match mount(none, path, none, MsFlags::MS_PRIVATE, none) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => return Err(RuntimeError::io("cut off", path)(errno.into())),
        }
    }
    for path in mounted.iter().rev() {
        // The unmount is lazy, because another process that uses the root must not prevent it.
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(errno) => return Err(RuntimeError::io("unmount", path)(errno.into())),
        }
    }
    Ok(())
}

/// Removes a directory with its content. A missing directory is no error. Never enters a mount, because the
/// caller has unmounted before.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match tree::remove(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RuntimeError::io("remove", dir)(error)),
    }
}
