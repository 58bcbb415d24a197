//! The first process of a process namespace that a pod's containers share.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::user_namespace::UserNamespace;
use crate::cgroup;

/// Holds a process namespace open for a pod: reaps whatever is left to it, does nothing else.
///
/// A child makes it, so that this process and its later children stay where they are; with
/// `users` it is theirs.
pub(crate) fn start(group: &str, users: Option<&UserNamespace>) -> io::Result<i32> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    let child = match unsafe { fork()? } {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(reader);
            let said = match make(group, users) {
                Ok(pid) => pid.to_string(),
                Err(error) => error.to_string(),
            };
            tell(writer, &said);
            // SAFETY: ends the child at once; its own child becomes the shim's.
            unsafe { libc::_exit(0) }
        }
    };
    drop(writer);
    let mut said = String::new();
    let read = File::from(reader).read_to_string(&mut said);
    waitpid(child, None)?;
    read?;
    said.parse().map_err(|_| io::Error::other(said))
}

fn tell(writer: OwnedFd, said: &str) {
    // Nobody is left to tell when this fails; the end of the pipe says enough.
    File::from(writer).write_all(said.as_bytes()).ok();
}

fn make(group: &str, users: Option<&UserNamespace>) -> io::Result<i32> {
    cgroup::join_self(group)?;
    if let Some(users) = users {
        users.enter()?;
    }
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => pause(),
    }
}

fn pause() -> ! {
    nix::sys::prctl::set_name(c"pause").ok();
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
