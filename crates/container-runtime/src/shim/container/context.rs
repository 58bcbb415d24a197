//! The surroundings of a container: the paths and namespaces of its sandbox, and facts of the machine.

use std::fs::{self, File};
use std::path::PathBuf;
use std::rc::Rc;

use super::user_namespace::UserNamespace;
use crate::cgroup::{Hierarchies, container_trees};

/// The inputs of a container from its sandbox and from the node.
#[derive(Debug)]
pub(crate) struct ContainerContext {
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
    /// The pod's user namespace, if it has one.
    pub users: Option<Rc<UserNamespace>>,
    /// The machine has control groups version 2.
    pub unified: bool,
    /// Roots of the version 1 trees that have the container's group.
    pub cgroup_trees: Vec<PathBuf>,
    /// Whether device nodes can be made. If not, those of the node are mounted.
    pub can_make_nodes: bool,
}

/// The process namespace of a container.
#[derive(Debug)]
pub(crate) enum PidNamespace {
    Own,
    /// One of its own below the one that is held open, with which it ends.
    Nested(File),
    Node,
    /// The one that is held open: its path could not be opened by the users of a pod.
    Shared(File),
}

/// Roots of the version 1 trees that have the groups of containers.
pub(crate) fn cgroup_trees() -> Vec<PathBuf> {
    let found = Hierarchies::known().ok();
    let trees = found.map(container_trees).unwrap_or_default();
    trees.into_iter().map(Into::into).collect()
}

/// Whether this process is in the machine's first user namespace, so that it can make device nodes.
pub(crate) fn has_users_of_the_machine() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_whole(&map))
}

/// Whether a map has all ids, each as itself.
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
