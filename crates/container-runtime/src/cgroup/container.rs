//! The control group of one container.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::devices::DeviceRules;
use super::{
    Hierarchies, Holder, create_dir, delegation, devices, huge_pages, join, limits, write,
    write_known,
};
use crate::spec::Resources;

/// Controllers of version 1 in whose hierarchies a container has a group.
const CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

/// Files of a `cpuset` group that must have a value before a process can join the group.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// The control group of a container with its limits, opened for the container's first process.
///
/// The process joins through the open descriptors after it has entered its user namespace. The kernel then
/// checks the rights of the process that opened the descriptors (Linux 5.16).
#[derive(Debug)]
pub(crate) struct ContainerGroup(Vec<(PathBuf, File)>);

impl ContainerGroup {
    /// Creates the group and sets its limits.
    pub fn create(
        group: &str,
        resources: &Resources,
        devices: &DeviceRules,
    ) -> io::Result<ContainerGroup> {
        let hierarchies = Hierarchies::mounted()?;
        let dirs = match hierarchies {
            Hierarchies::Unified(root) => {
                delegation::make(root, group)?;
                vec![join(root, group)]
            }
            Hierarchies::Split { .. } => make_split(hierarchies, group)?,
        };
        for (path, value) in limits(hierarchies, group, resources, Holder::Container) {
            write(&path, &value)?;
        }
        write_known(completion(hierarchies, group, resources))?;
        if let Hierarchies::Unified(root) = hierarchies {
            devices::guard(&join(root, group), devices)?;
        } else if let Some(dir) = hierarchies.v1_dir("devices", group) {
            for (file, line) in devices::list(devices) {
                write(&dir.join(file), &line)?;
            }
        }
        let open = |dir: PathBuf| {
            let procs = dir.join("cgroup.procs");
            let file = OpenOptions::new().write(true).open(&procs);
            file.map(|file| (procs, file))
        };
        Ok(ContainerGroup(
            dirs.into_iter().map(open).collect::<io::Result<_>>()?,
        ))
    }

    /// Moves the calling process into the group.
    pub fn join(&mut self) -> io::Result<()> {
        for (path, procs) in &mut self.0 {
            procs.write_all(b"0").map_err(|error| {
                io::Error::new(error.kind(), format!("join {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }
}

/// Root directories of the version 1 hierarchies in which each container has a group: the hierarchies with
/// a controller.
pub(crate) fn container_trees(hierarchies: &Hierarchies) -> Vec<&Path> {
    match hierarchies {
        Hierarchies::Unified(_) => Vec::new(),
        Hierarchies::Split { trees, .. } => {
            let has_controller =
                |names: &[String]| names.iter().any(|n| CONTROLLERS.contains(&n.as_str()));
            let trees = trees.iter().filter(|(names, _)| has_controller(names));
            trees.map(|(_, root)| root.as_path()).collect()
        }
    }
}

fn make_split(hierarchies: &Hierarchies, group: &str) -> io::Result<Vec<PathBuf>> {
    let cpuset = hierarchies.v1_dir("cpuset", "");
    let mut dirs = Vec::new();
    for root in container_trees(hierarchies) {
        let dir = join(root, group);
        create_dir(&dir)?;
        if cpuset.as_deref() == Some(&join(root, "")) {
            inherit_cpuset(root, group)?;
        }
        dirs.push(dir);
    }
    Ok(dirs)
}

/// Copies the processors and memory nodes of the parent group to a group and its parents, if their files
/// are empty: no process can join a group with empty files.
fn inherit_cpuset(root: &Path, group: &str) -> io::Result<()> {
    for file in CPUSET_FILES {
        let mut dir = root.to_owned();
        let mut above = fs::read_to_string(dir.join(file))?;
        for part in Path::new(group.trim_start_matches('/')) {
            dir.push(part);
            let path = dir.join(file);
            let cpus = fs::read_to_string(&path)?;
            if cpus.trim().is_empty() {
                write(&path, above.trim())?;
            } else {
                above = cpus;
            }
        }
    }
    Ok(())
}

/// The settings of a container's group in addition to its limits: huge pages and, with version 2, no swap
/// (`memory.swap.max`) and a kill of all processes when memory runs out (`memory.oom.group`).
pub(super) fn completion(
    hierarchies: &Hierarchies,
    group: &str,
    resources: &Resources,
) -> Vec<(PathBuf, String)> {
    let mut limits = huge_pages(hierarchies, group, resources);
    if let Hierarchies::Unified(root) = hierarchies {
        let dir = join(root, group);
        limits.push((dir.join("memory.swap.max"), "0".to_owned()));
        limits.push((dir.join("memory.oom.group"), "1".to_owned()));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_without_processors_has_those_of_the_group_above() {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["", "pod", "pod/c"].map(|group| root.path().join(group));
        for (dir, cpus) in dirs.iter().zip(["0-3\n", "1\n", "\n"]) {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("cpuset.cpus"), cpus).unwrap();
            fs::write(
                dir.join("cpuset.mems"),
                if cpus == "0-3\n" { "0\n" } else { "" },
            )
            .unwrap();
        }
        inherit_cpuset(root.path(), "/pod/c").unwrap();
        let read = |dir: &Path, file: &str| fs::read_to_string(dir.join(file)).unwrap();
        let cpus = dirs.each_ref().map(|dir| read(dir, "cpuset.cpus"));
        assert_eq!(cpus, ["0-3\n", "1\n", "1"]);
        let memory = dirs.each_ref().map(|dir| read(dir, "cpuset.mems"));
        assert_eq!(memory, ["0\n", "0", "0"]);
    }

    #[test]
    fn a_container_has_no_group_where_there_is_no_controller() {
        let tree = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let root = PathBuf::from("/c").join(names.join(","));
            (names, root)
        };
        let split = Hierarchies::Split {
            trees: vec![tree(&["name=systemd"]), tree(&["cpu", "cpuacct"])],
            unified: Some("/c/unified".into()),
        };
        assert_eq!(container_trees(&split), [Path::new("/c/cpu,cpuacct")]);
    }
}
