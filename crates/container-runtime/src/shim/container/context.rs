//! The context of a container: the paths and namespaces of its sandbox, and properties of the machine.

use std::fs::{self, File};
use std::path::PathBuf;
use std::rc::Rc;

use super::user_namespace::UserNamespace;
use crate::cgroup::{Hierarchies, container_trees};

/// The inputs of a container from its sandbox and its node.
#[derive(Debug)]
pub(crate) struct ContainerContext {
    /// Absolute path of the mounted root.
    pub root: PathBuf,
    /// Control group of the container.
    pub cgroup: String,
    /// Path of the pod's shared memory, which is mounted at `/dev/shm`.
    pub shm: PathBuf,
    /// The process namespace that the container shares, or below which it gets a separate one.
    pub pid_namespace: PidNamespace,
    /// Directory of bind mounts that were prepared on the node, named by the index of the mount.
    pub staged: PathBuf,
    /// The pod's user namespace; `None` if the pod has none.
    pub users: Option<Rc<UserNamespace>>,
    /// Whether the machine has control groups of version 2.
    pub unified: bool,
    /// Roots of the version 1 hierarchies in which the container has a group.
    pub cgroup_trees: Vec<PathBuf>,
    /// Whether this process may create device nodes. If not, the device nodes of the node are mounted.
    pub can_make_nodes: bool,
}

/// The process namespace of a container.
#[derive(Debug)]
pub(crate) enum PidNamespace {
    Private,
    /// A new namespace below the open namespace. The new namespace ends with its parent.
    Nested(File),
    Node,
    /// The open namespace. It is open because users of a pod could not open its path.
    Shared(File),
}

/// Roots of the version 1 hierarchies in which containers have groups.
pub(crate) fn cgroup_trees() -> Vec<PathBuf> {
    let hierarchies = Hierarchies::mounted().ok();
    let trees = hierarchies.map(container_trees).unwrap_or_default();
    trees.into_iter().map(Into::into).collect()
}

/// Whether this process is in the first user namespace of the machine, so that it may create device nodes.
pub(crate) fn has_users_of_the_machine() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_whole(&map))
}

/// Whether an id map maps all ids to themselves.
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
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
