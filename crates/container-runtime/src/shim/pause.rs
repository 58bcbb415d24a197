//! The first process of a process namespace that a pod's containers share.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::unistd::{ForkResult, fork};

use crate::cgroup;

/// Holds a process namespace open for a pod: reaps whatever is left to it, does nothing else.
pub(crate) fn start(group: &str) -> io::Result<i32> {
    let (ready, ready_writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // The namespace is for children; this process itself stays where it is.
    nix::sched::unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread.
    let pid = match unsafe { fork()? } {
        ForkResult::Parent { child } => child,
        ForkResult::Child => pause(group, ready_writer),
    };
    drop(ready_writer);
    // Back to the own namespace, or every later child would land in the pod's.
    let own = File::open("/proc/self/ns/pid")?;
    setns(own.as_fd(), CloneFlags::CLONE_NEWPID)?;
    let mut byte = [0];
    match File::from(ready).read(&mut byte)? {
        1 => Ok(pid.as_raw()),
        _ => Err(io::Error::other("the pod's first process ended")),
    }
}

fn pause(group: &str, ready: OwnedFd) -> ! {
    let joined = cgroup::join_self(group).is_ok();
    nix::sys::prctl::set_name(c"pause").ok();
    if joined {
        File::from(ready).write_all(b"r").ok();
        // Nothing of the shim's may be held: neither its lock nor its socket.
        // SAFETY: this process uses no descriptor after this.
        unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
        loop {
            // SAFETY: plain system calls; SIGCHLD interrupts the wait by being blocked and
            // taken synchronously.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, libc::SIGCHLD);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
                libc::sigwaitinfo(&raw const set, std::ptr::null_mut());
                while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            }
        }
    }
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(1) }
}
