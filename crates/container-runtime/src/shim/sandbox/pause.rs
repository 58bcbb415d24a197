//! The pause process: the first process of a process namespace that a pod's containers share.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Uid, chdir, fork, pivot_root, setresgid, setresuid};

use crate::cgroup;
use crate::shim::confinement::capabilities::{self, Capabilities};
use crate::shim::container::mapped_mounts;
use crate::shim::container::user_namespace::UserNamespace;

/// The user of the process, as in other runtimes.
const NOBODY: u32 = 65_535;

/// Keeps a process namespace open for a pod: reaps orphaned processes, and does nothing else.
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
    // No process can receive a failure; the end of the pipe is sufficient.
    File::from(writer).write_all(said.as_bytes()).ok();
}

fn make(group: &str, users: Option<&UserNamespace>) -> io::Result<i32> {
    cgroup::join_self(group)?;
    leave_the_nodes_files()?;
    if let Some(users) = users {
        users.enter()?;
    }
    unshare(CloneFlags::CLONE_NEWPID)?;
    give_up_rights()?;
    // SAFETY: this process has one thread.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => pause(),
    }
}

/// Makes an empty directory this process's root. A container with access to others' processes finds
/// none of the node's files behind `/proc/1/root`.
fn leave_the_nodes_files() -> io::Result<()> {
    mapped_mounts::leave_the_nodes()?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Any directory is suitable: its contents are not needed any more.
    let place = "/proc";
    let kind = Some("tmpfs");
    mount(kind, place, kind, flags, Some("size=4k"))?;
    chdir(place)?;
    // The old root is mounted over the new one, and unmounted.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

/// Drops all permissions, so that control of this process has no value.
fn give_up_rights() -> io::Result<()> {
    let none = Capabilities::default();
    nix::sys::prctl::set_no_new_privs()?;
    capabilities::limit_bounding(none)?;
    nix::unistd::setgroups(&[])?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    capabilities::set_effective(none)
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
