//! The start of a container's first process: from the fork in a worker of the shim to the command.
//!
//! ```text
//! worker   creates the control group, enters the user namespace, enters or creates the process namespace
//!   └─ first process   joins the group, leaves the node's mounts and groups, makes the root by its
//!                      plan and enters it, then the last steps of `LaunchInput`, which end in `execve`
//! ```
//!
//! In a pod that stops with the shim, the process namespace is below the pod's process namespace, and a
//! child of the worker creates it there.
//!
//! The worker is a fork of the shim, and both have one thread. So the worker may fork, and both processes
//! may allocate memory. The worker waits until `execve` closes the status pipe, and exits. Then the first
//! process is a child of the shim.

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

/// Starts the first process of a container from a worker, which must do nothing else afterwards. Returns
/// the id of the process; the status pipe reports the result of the start.
///
/// # Errors
/// The process could not be created.
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
    // SAFETY: this process has one thread, so the child may call any function.
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
    // SAFETY: exits at once; no code or buffer of the parent is run or flushed.
    unsafe { libc::_exit(128) }
}

/// Creates a process in a new process namespace below an outer one. Returns the process id, or `None` in
/// the new process.
///
/// Only a process of the outer namespace can create a namespace below it. So a child enters the outer
/// namespace. The child creates the new process as its sibling, because the orphan of a child would be
/// adopted by the first process of the outer namespace.
fn nested(around: &ContainerContext, outer: &File) -> io::Result<Option<i32>> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    setns(outer.as_fd(), CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread, so the child may call any function.
    if let ForkResult::Parent { child } = unsafe { fork()? } {
        drop(writer);
        let mut report = String::new();
        File::from(reader).read_to_string(&mut report)?;
        waitpid(child, None)?;
        return report
            .parse()
            .map(Some)
            .map_err(|_| io::Error::other(report));
    }
    drop(reader);
    let report = match enter_namespaces(around).and_then(|()| siblings::fork()) {
        Ok(None) => return Ok(None),
        Ok(Some(pid)) => siblings::id_on_node(pid).map(|pid| pid.to_string()),
        Err(error) => Err(error),
    };
    let report = report.unwrap_or_else(|error| error.to_string());
    // No process can receive a failure; the end of the pipe is sufficient.
    File::from(writer).write_all(report.as_bytes()).ok();
    // SAFETY: exits at once; the new process is a child of the shim.
    unsafe { libc::_exit(0) }
}

/// Enters the process namespace, which applies to later children, and the user namespace that owns it.
fn enter_namespaces(around: &ContainerContext) -> io::Result<()> {
    if let Some(users) = &around.users {
        users.enter()?;
    }
    match &around.pid_namespace {
        PidNamespace::Private | PidNamespace::Nested(_) => unshare(CloneFlags::CLONE_NEWPID)?,
        PidNamespace::Shared(namespace) => setns(namespace.as_fd(), CloneFlags::CLONE_NEWPID)?,
        PidNamespace::Node => {}
    }
    Ok(())
}

/// The part of the first process until its root is complete.
fn begin(plan: &RootPlan, mut group: ContainerGroup, unified: bool) -> Result<(), StartError> {
    nix::unistd::setsid().map_err(|errno| failed("begin a session")(errno.into()))?;
    group
        .join()
        .map_err(failed("join the container's control group"))?;
    let mut kinds = CloneFlags::CLONE_NEWNS;
    // The root of the new control group namespace is the group that was just joined.
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
