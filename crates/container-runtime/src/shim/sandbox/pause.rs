//! The pause process: the first process of a process namespace that the pod's containers share, or below
//! which their namespaces are. If the pod has to stop with the shim, the pause process exits with the shim,
//! too. Then the kernel kills all processes of the namespace, and of the namespaces below.
//!
//! Such a pause process also exits when the node's Lease expires. The shim exits then, too, but the shim
//! writes logs and may be waiting for a disk that does not respond. The pause process writes nothing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use host_kernel::deadline::DeadlinePage;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, chdir, fork, getpid, getppid, pivot_root, setresgid, setresuid,
};

use super::lease::{LeasePhase, LeaseWatch};
use crate::cgroup;
use crate::shim::confinement::capabilities::{self, Capabilities};
use crate::shim::container::mapped_mounts;
use crate::shim::container::siblings;
use crate::shim::container::user_namespace::UserNamespace;
use crate::state_dir::SandboxFile;

/// The user of the pause process, as in other runtimes.
const NOBODY: u32 = 65_535;

/// The first processes of a pod's process namespaces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NamespaceInits {
    /// The first process of the process namespace that all containers of the pod share.
    pub pause: Option<i32>,
    /// The first process of the process namespace that contains the namespaces of the containers.
    pub warden: Option<i32>,
}

impl NamespaceInits {
    /// Starts the pause processes that a pod needs. `page` is the deadline page of a pod that stops with
    /// its node's Lease.
    pub fn start(
        file: &SandboxFile,
        users: Option<&UserNamespace>,
        page: Option<&Rc<DeadlinePage>>,
    ) -> io::Result<NamespaceInits> {
        let spec = &file.spec;
        let start = |name: &str, users: Option<&UserNamespace>| {
            let group = format!("{}/{name}", file.cgroup);
            cgroup::create_leaf(&group)?;
            start(&group, users, page).map(Some)
        };
        let mut firsts = NamespaceInits::default();
        if spec.host_pid {
            return Ok(firsts);
        }
        if spec.share_process_namespace {
            firsts.pause = start("pause", users)?;
        } else if page.is_some() {
            firsts.warden = start("warden", None)?;
        }
        Ok(firsts)
    }
}

/// Starts a process that holds a process namespace of the pod open and reaps orphaned processes.
///
/// A child creates the namespace, so that the shim and its later children stay in their namespaces. With
/// `users`, the user namespace owns the new namespace. With `page`, the process exits with the shim and at
/// the deadline.
fn start(
    group: &str,
    users: Option<&UserNamespace>,
    page: Option<&Rc<DeadlinePage>>,
) -> io::Result<i32> {
    let shim = getpid();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // SAFETY: this process has one thread, so the child may call any function.
    let child = match unsafe { fork()? } {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(reader);
            let message = match make(group, users, page.map(|page| (shim, page))) {
                Ok(pid) => pid.to_string(),
                Err(error) => error.to_string(),
            };
            send(writer, &message);
            // SAFETY: exits at once; the new process is a child of the shim.
            unsafe { libc::_exit(0) }
        }
    };
    drop(writer);
    let mut message = String::new();
    let read = File::from(reader).read_to_string(&mut message);
    waitpid(child, None)?;
    read?;
    message.parse().map_err(|_| io::Error::other(message))
}

fn send(writer: OwnedFd, message: &str) {
    // No process can receive a failure; the end of the pipe is sufficient.
    File::from(writer).write_all(message.as_bytes()).ok();
}

fn make(
    group: &str,
    users: Option<&UserNamespace>,
    ends: Option<(Pid, &Rc<DeadlinePage>)>,
) -> io::Result<i32> {
    cgroup::join_self(group)?;
    leave_the_nodes_files()?;
    if let Some(users) = users {
        users.enter()?;
    }
    unshare(CloneFlags::CLONE_NEWPID)?;
    give_up_rights()?;
    let Some((shim, page)) = ends else {
        // SAFETY: this process has one thread.
        return match unsafe { fork()? } {
            ForkResult::Parent { child } => Ok(child.as_raw()),
            ForkResult::Child => pause(None),
        };
    };
    // The parent of the new process is the shim from the start, so the signal is sent when the shim exits.
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(child) = siblings::fork()? else {
        if nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).is_err() {
            // SAFETY: exits at once.
            unsafe { libc::_exit(1) }
        }
        pause(Some(page))
    };
    drop(writer);
    // The child closes its end after the signal is set, or when it exits.
    File::from(reader).read_to_end(&mut Vec::new())?;
    if getppid() != shim {
        kill(Pid::from_raw(child), Signal::SIGKILL)?;
        return Err(io::Error::other("the shim has ended"));
    }
    Ok(child)
}

/// Makes an empty directory the root of this process. A container that can inspect other processes then
/// finds no file of the node in `/proc/1/root`.
fn leave_the_nodes_files() -> io::Result<()> {
    mapped_mounts::leave_the_nodes()?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Any directory is suitable, because its content is not needed any more.
    let root = "/proc";
    let kind = Some("tmpfs");
    mount(kind, root, kind, flags, Some("size=4k"))?;
    chdir(root)?;
    // The old root is mounted over the new one, and unmounted.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    Ok(())
}

/// Drops all permissions, so that an attacker gains nothing from controlling this process.
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

fn pause(page: Option<&Rc<DeadlinePage>>) -> ! {
    nix::sys::prctl::set_name(c"pause").ok();
    // The process must not hold the lock or the socket of the shim. SAFETY: this process uses no descriptor
    // from before this call.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    // If the Lease cannot be watched, the process exits, so that no process of the pod runs.
    reap_until_lapse(page).ok();
    // SAFETY: exits at once.
    unsafe { libc::_exit(0) }
}

/// Reaps orphaned processes until the Lease has expired.
fn reap_until_lapse(page: Option<&Rc<DeadlinePage>>) -> io::Result<()> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&children, flags)?;
    let watch = |page: &Rc<DeadlinePage>| LeaseWatch::new(Rc::clone(page), Duration::ZERO);
    let mut lease = page.map(watch).transpose()?;
    loop {
        while let Ok(Some(_)) = signals.read_signal() {}
        // SAFETY: a plain system call that writes nothing.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        if let Some(lease) = &mut lease
            && lease.check()? == LeasePhase::Lapsed
        {
            return Ok(());
        }
        let signalled = signals.as_fd();
        let due = lease.as_ref().map_or(signalled, LeaseWatch::timer);
        let mut polled = [signalled, due].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
