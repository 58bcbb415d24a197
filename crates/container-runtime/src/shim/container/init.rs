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

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{ForkResult, fork};

use super::launch::Launch;
use super::root;
use super::root_plan::RootPlan;
use super::user_namespace::UserNamespace;
use crate::cgroup::{ContainerGroup, Hierarchies, container_trees};
use crate::spec::{StartError, StartErrorKind};

/// The parts of a container that come from its sandbox and from the node.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Absolute path of the mounted root.
    pub root: PathBuf,
    /// Control group of the container.
    pub cgroup: String,
    /// Shared memory of the pod, bound to `/dev/shm`.
    pub shm: PathBuf,
    /// Process namespace: the pod's shared one, the node's, or one of its own.
    pub pid_namespace: PidNamespace,
    /// Directory of bind mounts that were prepared on the node, one for each index of a mount.
    pub staged: PathBuf,
    /// The pod's users, where they are not the node's.
    pub users: Option<Rc<UserNamespace>>,
    /// The machine has control groups version 2.
    pub unified: bool,
    /// Roots of the version 1 trees that have the container's group.
    pub cgroup_trees: Vec<PathBuf>,
    /// Device nodes can be made; elsewhere those of the node are mounted.
    pub can_make_nodes: bool,
}

/// Which process namespace a container gets.
#[derive(Debug)]
pub(crate) enum PidNamespace {
    Own,
    Node,
    /// The one that is held open: its path could not be opened by the users of a pod.
    Shared(File),
}

/// Roots of the version 1 trees that have the groups of containers.
pub(crate) fn cgroup_trees() -> Vec<PathBuf> {
    let found = Hierarchies::detect().ok();
    let trees = found.as_ref().map(container_trees).unwrap_or_default();
    trees.into_iter().map(Into::into).collect()
}

/// Whether this process's users are the machine's, so that it can make device nodes.
pub(crate) fn has_users_of_the_machine() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_whole(&map))
}

/// Whether a map has all ids, each as itself.
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_some_ids_is_not_the_machines() {
        assert!(is_whole("         0          0 4294967295\n"));
        assert!(!is_whole("         0     100000      65536\n"));
        assert!(!is_whole("0 0 1000\n1000 1000 4294966295\n"));
        assert!(!is_whole(""));
    }
}
