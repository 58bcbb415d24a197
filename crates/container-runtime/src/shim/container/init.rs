//! The way of a container's first process, from a worker of the shim to the command.
//!
//! ```text
//! worker   makes the control group, enters the pod's users, enters or makes the process namespace
//!   └─ first process   joins the group, leaves the node's mounts and groups, makes the root by its
//!                      plan and enters it, then the last steps of `Launch`, which end in `execve`
//! ```
//!
//! The worker is a copy of the shim, and both have one thread: so it forks without further ado, and
//! either process may allocate. It waits for the end of the status pipe, which `execve` closes, and
//! ends; the first process then is the shim's child.

use std::io;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, fork};

use super::launch::Launch;
use super::root;
use super::root_plan::RootPlan;
use super::surroundings::{PidNamespace, Surroundings};
use crate::cgroup::ContainerGroup;
use crate::spec::{StartError, StartErrorKind};

/// Starts the first process of a container from a worker, which is not to be used for anything else
/// afterwards. Returns the process's id; how the start goes on, its status pipe says.
///
/// # Errors
/// The process could not be made.
pub(crate) fn start(
    around: &Surroundings,
    plan: &RootPlan,
    group: ContainerGroup,
    launch: Launch,
) -> Result<i32, StartError> {
    enter_namespaces(around).map_err(failed("make the container's namespaces"))?;
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    match unsafe { fork() }.map_err(|errno| failed("fork")(errno.into()))? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            match begin(plan, group, around.unified) {
                Ok(()) => launch.run(),
                Err(error) => launch.report(&error),
            }
            // SAFETY: ends the child at once; nothing of the parent's is run or flushed.
            unsafe { libc::_exit(128) }
        }
    }
}

/// Enters what only later children are in, the process namespace, and what it must be owned by.
fn enter_namespaces(around: &Surroundings) -> io::Result<()> {
    if let Some(users) = &around.users {
        users.enter()?;
    }
    match &around.pid_namespace {
        PidNamespace::Own => unshare(CloneFlags::CLONE_NEWPID)?,
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
