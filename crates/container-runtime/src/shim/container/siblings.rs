//! Processes whose parent is the parent of the process that creates them (`CLONE_PARENT`).

use std::fs;
use std::io;
use std::os::fd::AsRawFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Forks a sibling of this process. Returns the id of the sibling, or `None` in the sibling. The caller
/// must have one thread, as every process of the shim has.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without a new stack, the child continues here with a copy of all memory, as after `fork`. The
    // process has one thread, so no lock is held.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(i32::try_from(pid).ok()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The id on the node of the process that has the id `pid` in the namespace of this process.
pub(crate) fn id_on_node(pid: i32) -> io::Result<i32> {
    let process = Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process"))?;
    let pidfd = pidfd_open(process, PidfdFlags::empty())?;
    // This process still has the node's `/proc`.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let id = line.and_then(|id| id.trim().parse().ok());
    id.filter(|id| *id > 0)
        .ok_or_else(|| io::Error::other("the process has no id on the node"))
}
