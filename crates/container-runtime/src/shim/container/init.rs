//! The start of a container's first process, from a worker of the shim to the command.
//!
//! ```text
//! worker   makes the control group, enters the pod's users, enters or makes the process namespace
//!   └─ first process   joins the group, leaves the node's mounts and groups, makes the root by its
//!                      plan and enters it, then the last steps of `LaunchInput`, which end in `execve`
//! ```
//!
//! In a pod that ends with the shim, the process namespace is below the pod's, and a child of the worker
//! makes it there.
//!
//! The worker is a copy of the shim, and both have one thread: so it forks without further ado, and
//! either process may allocate. It waits for the end of the status pipe, which `execve` closes, and
//! ends; the first process then is the shim's child.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::context::{ContainerContext, PidNamespace};
use super::launch::LaunchInput;
use super::root;
use super::root_plan::RootPlan;
use super::siblings;
use crate::cgroup::ContainerGroup;
use crate::spec::{StartError, StartErrorKind};

/// Starts the first process of a container from a worker, which must not do anything else afterwards. Returns
/// the process's id; the status pipe reports the result of the start.
///
/// # Errors
/// The process could not be made.
pub(crate) fn start(
    around: &ContainerContext,
    plan: &RootPlan,
    group: ContainerGroup,
    launch: LaunchInput,
) -> Result<i32, StartError> {
    if let PidNamespace::Nested(outer) = &around.pid_namespace {
        let child = nested(around, outer).map_err(failed("make nested namespaces"))?;
        return match child {
            Some(pid) => Ok(pid),
            None => run(around, plan, group, launch),
        };
    }
    enter_namespaces(around).map_err(failed("make the container's namespaces"))?;
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    match unsafe { fork() }.map_err(|errno| failed("fork")(errno.into()))? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => run(around, plan, group, launch),
    }
}

/// The first process.
fn run(
    around: &ContainerContext,
    plan: &RootPlan,
    group: ContainerGroup,
    launch: LaunchInput,
) -> ! {
    match begin(plan, group, around.unified) {
        Ok(()) => launch.run(),
        Err(error) => launch.report(&error),
    }
    // SAFETY: ends the process at once; nothing of its parent's is run or flushed.
    unsafe { libc::_exit(128) }
}

/// Makes a process below an outer process namespace, in one of its own: its id, or `None` in that
/// process.
///
/// Only a process of the outer namespace can make one below it. So a child goes there; its own child
/// becomes its sibling, or the outer namespace's first process would be the parent in the end.
fn nested(around: &ContainerContext, outer: &File) -> io::Result<Option<i32>> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    setns(outer.as_fd(), CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    if let ForkResult::Parent { child } = unsafe { fork()? } {
        drop(writer);
        let mut said = String::new();
        File::from(reader).read_to_string(&mut said)?;
        waitpid(child, None)?;
        return said.parse().map(Some).map_err(|_| io::Error::other(said));
    }
    drop(reader);
    let said = match enter_namespaces(around).and_then(|()| siblings::fork()) {
        Ok(None) => return Ok(None),
        Ok(Some(pid)) => siblings::id_on_node(pid).map(|pid| pid.to_string()),
        Err(error) => Err(error),
    };
    let said = said.unwrap_or_else(|error| error.to_string());
    // No process can receive a failure; the end of the pipe is sufficient.
    File::from(writer).write_all(said.as_bytes()).ok();
    // SAFETY: ends the process at once; its child becomes the shim's.
    unsafe { libc::_exit(0) }
}

/// Enters the process namespace, which holds later children only, and the user namespace that owns
/// it.
fn enter_namespaces(around: &ContainerContext) -> io::Result<()> {
    if let Some(users) = &around.users {
        users.enter()?;
    }
    match &around.pid_namespace {
        PidNamespace::Own | PidNamespace::Nested(_) => unshare(CloneFlags::CLONE_NEWPID)?,
        PidNamespace::Shared(held) => setns(held.as_fd(), CloneFlags::CLONE_NEWPID)?,
        PidNamespace::Node => {}
    }
    Ok(())
}

/// The first process's part, up to the root.
fn begin(plan: &RootPlan, mut group: ContainerGroup, unified: bool) -> Result<(), StartError> {
    nix::unistd::setsid().map_err(|errno| failed("begin a session")(errno.into()))?;
    group
        .join()
        .map_err(failed("join the container's control group"))?;
    let mut kinds = CloneFlags::CLONE_NEWNS;
    // Its root is the group that was just joined.
    kinds.set(CloneFlags::CLONE_NEWCGROUP, unified);
    unshare(kinds)
        .map_err(|errno| failed("make the container's namespaces")(io::Error::from(errno)))?;
    root::enter(plan)
}

fn failed(doing: &str) -> impl FnOnce(io::Error) -> StartError {
    let doing = doing.to_owned();
    move |error| StartError {
        kind: StartErrorKind::Other,
        message: format!("{doing}: {error}"),
    }
}
