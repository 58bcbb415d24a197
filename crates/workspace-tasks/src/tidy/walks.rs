//! Walks and changes by path in the folders whose code changes directories of containers.
//!
//! A container can replace the target of a path between two calls, so recursive walks, and changes
//! of owners and modes, use `host_kernel::tree`, which works on descriptors. Other calls need
//! a reason why no container can write there.

use std::collections::BTreeSet;

use super::checkout::{Finding, SourceFile, crate_names};
use super::exceptions::{Exceptions, without_files};

const FOLDERS: &[&str] = &[
    "crates/node-agent/src/",
    "crates/container-runtime/src/",
    "crates/host-kernel/src/",
    "crates/volume-storage/src/",
    "crates/file-archive/src/",
    "crates/instance-backup/src/",
    "crates/volume-transfer/src/",
];

/// The calls, each with its alternative.
const CALLS: &[(&str, &str)] = &[
    ("read_dir(", "tree::walk"),
    ("remove_dir_all(", "tree::remove"),
    ("WalkDir", "tree::walk"),
    ("fs::set_permissions(", "tree::Handle::set_mode"),
    ("::chown(", "tree::Handle::set_group"),
    ("lchown(", "tree::Handle::set_group"),
    ("chownat(", "tree::Handle::set_group"),
    ("fs::copy(", "an open file"),
];

/// This list's file.
const LIST: &str = "walks.rs";

/// Files that use a call, each with its reason.
const ALLOWED: &[(&str, &str, &str)] = &[
    (
        "crates/instance-backup/src/backup.rs",
        "read_dir(",
        "directories of the data directory itself, one level",
    ),
    (
        "crates/instance-backup/src/lib.rs",
        "read_dir(",
        "the directory that is restored into, one level",
    ),
    (
        "crates/instance-backup/src/store/into_directory.rs",
        "remove_dir_all(",
        "the store of an interrupted copy, which no container reaches",
    ),
    (
        "crates/file-archive/src/placing.rs",
        "lchown(",
        "no container reaches what is being restored, or arrives with a move",
    ),
    (
        "crates/file-archive/src/placing.rs",
        "fs::set_permissions(",
        "no container reaches what is being restored, or arrives with a move",
    ),
    (
        "crates/volume-storage/src/volume_move/directories.rs",
        "read_dir(",
        "the processes, and the directories of all volumes, one level each",
    ),
    (
        "crates/volume-storage/src/volume_replication/directories.rs",
        "read_dir(",
        "the directories of all volumes and of all snapshots, one level each",
    ),
    (
        "crates/volume-storage/src/volume_move/first_copies.rs",
        "read_dir(",
        "the directory of all volumes, one level",
    ),
    (
        "crates/volume-storage/src/backup.rs",
        "read_dir(",
        "the directories of all volumes and snapshots, one level",
    ),
    (
        "crates/node-agent/src/volumes/rbd/mod.rs",
        "read_dir(",
        "the directories of pods, and records of the agent in them, one level each",
    ),
    (
        "crates/container-runtime/src/client/leased.rs",
        "read_dir(",
        "the directories of all sandboxes, one level",
    ),
    (
        "crates/node-agent/src/csi_volumes/directory.rs",
        "read_dir(",
        "directories that the agent makes, one level each; only drivers, which are trusted, write there",
    ),
    (
        "crates/node-agent/src/devices/cdi/files.rs",
        "read_dir(",
        "directories of the administrator, one level",
    ),
    (
        "crates/node-agent/src/devices/claims/records.rs",
        "read_dir(",
        "a directory of the agent's own, one level",
    ),
    (
        "crates/node-agent/src/devices/plugins/registration.rs",
        "read_dir(",
        "the directory of device plugins, which are trusted, one level",
    ),
    (
        "crates/node-agent/src/csi_volumes/registration.rs",
        "read_dir(",
        "the directory of drivers, which are trusted, one level",
    ),
    (
        "crates/node-agent/src/csi_volumes/volumes.rs",
        "read_dir(",
        "the names of the pods' directories, one level",
    ),
    (
        "crates/node-agent/src/node/lease.rs",
        "read_dir(",
        "a directory of the agent's own, one level",
    ),
    (
        "crates/node-agent/src/machine/machine_info.rs",
        "read_dir(",
        "the kernel's own directory",
    ),
    (
        "crates/node-agent/src/pods/recovery.rs",
        "read_dir(",
        "the directory of all pods, one level",
    ),
    (
        "crates/node-agent/src/volumes/one_pod.rs",
        "read_dir(",
        "the directory of all pods, not below a volume",
    ),
    (
        "crates/node-agent/src/volumes/block.rs",
        "read_dir(",
        "directories of pods and of their volumes, one level",
    ),
    (
        "crates/node-agent/src/volumes/atomic.rs",
        "read_dir(",
        "containers have these volumes read-only",
    ),
    (
        "crates/node-agent/src/volumes/atomic.rs",
        "fs::set_permissions(",
        "containers have these volumes read-only",
    ),
    (
        "crates/node-agent/src/volumes/atomic.rs",
        "::chown(",
        "containers have these volumes read-only",
    ),
    (
        "crates/node-agent/src/volumes/release.rs",
        "read_dir(",
        "the directory of a pod's volumes, one level",
    ),
    (
        "crates/node-agent/src/volumes/empty_dir.rs",
        "fs::set_permissions(",
        "the root of the volume, in the pod's directory",
    ),
    (
        "crates/node-agent/src/containers/instance.rs",
        "fs::set_permissions(",
        "a file of the agent in the pod's directory",
    ),
    (
        "crates/volume-storage/src/subvolumes.rs",
        "read_dir(",
        "the directory of all volumes, one level",
    ),
    (
        "crates/volume-storage/src/directories.rs",
        "read_dir(",
        "the directory of all volumes, one level",
    ),
    (
        "crates/volume-storage/src/directories.rs",
        "fs::set_permissions(",
        "the root of a volume, in the directory of all",
    ),
    (
        "crates/container-runtime/src/cgroup/mod.rs",
        "read_dir(",
        "the kernel's own directory",
    ),
    (
        "crates/container-runtime/src/cgroup/listing.rs",
        "read_dir(",
        "the kernel's own directory",
    ),
    (
        "crates/host-kernel/src/loop_device.rs",
        "read_dir(",
        "the kernel's own directory",
    ),
    (
        "crates/container-runtime/src/state_dir.rs",
        "read_dir(",
        "the runtime's own records, one level",
    ),
    (
        "crates/container-runtime/src/client/runtime.rs",
        "read_dir(",
        "the directory of all sandboxes, one level",
    ),
    (
        "crates/container-runtime/src/client/cleanup.rs",
        "read_dir(",
        "the runtime's own records, one level",
    ),
    (
        "crates/host-kernel/src/tree.rs",
        "chownat(",
        "the walk itself",
    ),
    (
        "crates/host-kernel/src/tree.rs",
        "fs::set_permissions(",
        "directories that no container has",
    ),
    (
        "crates/container-runtime/src/shim/container/devices.rs",
        "read_dir(",
        "devices of the node",
    ),
    (
        "crates/container-runtime/src/shim/container/rootfs.rs",
        "fs::set_permissions(",
        "before the container has its root",
    ),
    (
        "crates/container-runtime/src/shim/container/rootfs.rs",
        "::chown(",
        "before the container has its root",
    ),
    (
        "crates/container-runtime/src/shim/container/rootfs.rs",
        "chownat(",
        "a node by its name in an open directory, no link followed",
    ),
];

/// The crates that the rule is about.
pub fn walking_crates() -> BTreeSet<String> {
    crate_names(FOLDERS)
}

/// Checks the source files of the node.
pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = without_files(LIST, FOLDERS.iter().copied(), files);
    let keys = ALLOWED.iter().map(|(path, call, _)| key(path, call));
    let mut exceptions = Exceptions::new(LIST, keys);
    for file in files {
        let is_concerned = FOLDERS.iter().any(|start| file.path.starts_with(start));
        if !is_concerned {
            continue;
        }
        for (call, instead) in CALLS {
            if file.code.contains(call) && !exceptions.allow(&key(&file.path, call)) {
                findings.push(Finding {
                    file: file.path.clone(),
                    text: format!(
                        "{call}…) goes by path: use {instead}, or say in \
                         crates/workspace-tasks/src/tidy/walks.rs why no container can write there"
                    ),
                });
            }
        }
    }
    findings.extend(exceptions.unneeded(files));
    findings
}

fn key(path: &str, call: &str) -> String {
    format!("{path}: {call}…)")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S5
    #[test]
    fn a_walk_by_path_is_found() {
        let findings = |path: &str, text: &str| check(&[SourceFile::new(path, text)]).len();
        let walk = "for entry in fs::read_dir(path)? {}";
        assert_eq!(findings("crates/node-agent/src/x.rs", walk), 1);
        assert_eq!(
            findings("crates/node-agent/src/machine/machine_info.rs", walk),
            0
        );
        assert_eq!(findings("crates/cluster-dns/src/x.rs", walk), 0);
        let in_tests = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{ {walk} }}");
        assert_eq!(findings("crates/node-agent/src/x.rs", &in_tests), 0);
    }
}
