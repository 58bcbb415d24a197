//! The plan of a container's root: its file systems, devices and links, and the covered and read-only
//! paths; pure.

use std::path::{Path, PathBuf};

use host_kernel::mounts::{NO_DEVICES, NO_EXECUTION, NO_SETUID, READ_ONLY, STRICT_ACCESS_TIME};

use super::context::ContainerContext;
use super::devices::DeviceNode;
use super::mapped_mounts::MountDepth;
use crate::spec::{ContainerSpec, Mount, MountSource, Propagation};

/// Attributes of kernel file systems.
const STRICT: u64 = NO_SETUID | NO_DEVICES | NO_EXECUTION;

/// Paths of `/proc` and `/sys` that reveal or change more than a container needs.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths of `/proc` that change more than the container.
const WRITE_PROTECTED: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The directory of control groups.
const CGROUP: &str = "/sys/fs/cgroup";

/// Links in every container's `/dev`: their targets and their paths.
const LINKS: [(&str, &str); 6] = [
    ("/proc/kcore", "/dev/kcore"),
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// The steps that build a container's root, in the order of the fields.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RootPlan {
    /// The mount point of the root on the node.
    pub root: PathBuf,
    /// Kernel file systems, file systems in memory, and mounts that the pod shares.
    pub system: Vec<RootMount>,
    /// Device nodes to create; other devices are mounted.
    pub devices: Vec<DeviceNode>,
    /// Symbolic links: their targets and their paths.
    pub links: &'static [(&'static str, &'static str)],
    /// Mounts of the pod's volumes, in the order of the specification.
    pub volumes: Vec<RootMount>,
    /// Paths that are mounted over themselves, read-only.
    pub write_protected: Vec<&'static str>,
    /// Paths that are covered by an empty file or directory.
    pub masked: &'static [&'static str],
    /// Whether the root file system itself is read-only.
    pub read_only: bool,
    /// Whether later mounts in the root propagate to other mount namespaces.
    pub shared: bool,
}

/// One mount in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RootMount {
    pub to: PathBuf,
    pub source: RootSource,
    /// Attributes of the top mount.
    pub attributes: u64,
    /// Attributes of all mounts below the top mount.
    pub attributes_below: u64,
}

/// The source of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RootSource {
    /// A new file system.
    New {
        kind: &'static str,
        options: Vec<(&'static str, String)>,
        /// The path to bind-mount if the kernel rejects the new file system.
        or_else: Option<PathBuf>,
    },
    /// A file or directory of the node, with the mounts below it.
    Tree {
        path: PathBuf,
        depth: MountDepth,
        propagation: Propagation,
    },
}

/// Paths of `/proc` and `/sys` that the runtime covers in a container.
pub(crate) fn masked(container: &ContainerSpec) -> &'static [&'static str] {
    match shows_all(container) {
        true => &[],
        false => MASKED,
    }
}

fn shows_all(container: &ContainerSpec) -> bool {
    container.security.privileged || container.security.unmasked_proc
}

fn write_protected(container: &ContainerSpec, around: &ContainerContext) -> Vec<&'static str> {
    if shows_all(container) {
        return Vec::new();
    }
    let mut paths = WRITE_PROTECTED.to_vec();
    if !around.cgroup_trees.is_empty() {
        // The directory in which the mount points of the hierarchies are created.
        paths.push(CGROUP);
    }
    paths
}

/// Plans the root of a container with the devices `devices`.
pub(crate) fn plan(
    container: &ContainerSpec,
    around: &ContainerContext,
    devices: Vec<DeviceNode>,
) -> RootPlan {
    let mut system = system_mounts(container, around);
    let devices = match around.can_make_nodes {
        true => devices,
        false => {
            let mounts = devices.iter();
            system.extend(mounts.map(|node| tree(&node.path, &node.on_node, MountDepth::One, 0)));
            Vec::new()
        }
    };
    let volumes = container.mounts.iter().enumerate().map(|(index, mount)| {
        let staged = around.staged.join(index.to_string());
        volume(mount, &staged, around.users.is_some())
    });
    let is_bidirectional = |mount: &RootMount| {
        matches!(
            mount.source,
            RootSource::Tree {
                propagation: Propagation::Bidirectional,
                ..
            }
        )
    };
    let volumes: Vec<_> = volumes.collect();
    RootPlan {
        root: around.root.clone(),
        system,
        devices,
        links: &LINKS,
        shared: volumes.iter().any(is_bidirectional),
        volumes,
        write_protected: write_protected(container, around),
        masked: masked(container),
        read_only: container.rootfs.read_only,
    }
}

fn system_mounts(container: &ContainerSpec, around: &ContainerContext) -> Vec<RootMount> {
    let access = match container.security.privileged {
        true => 0,
        false => READ_ONLY,
    };
    let dev = [("mode", "755"), ("size", "65536k")];
    let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let mut list = vec![
        new("/proc", "proc", &[], STRICT),
        new("/dev", "tmpfs", &dev, NO_SETUID | STRICT_ACCESS_TIME),
        new("/dev/pts", "devpts", &pts, NO_SETUID | NO_EXECUTION),
        new("/dev/mqueue", "mqueue", &[], STRICT),
        new("/sys", "sysfs", &[], STRICT | access),
    ];
    if around.cgroup_trees.is_empty() {
        let mut unified = new(CGROUP, "cgroup2", &[], STRICT | access);
        if let RootSource::New { or_else, .. } = &mut unified.source {
            let root = Path::new(CGROUP);
            *or_else = Some(crate::cgroup::join(root, &around.cgroup));
        }
        list.push(unified);
    } else {
        let mode = [("mode", "755")];
        list.push(new(CGROUP, "tmpfs", &mode, STRICT));
        for root in &around.cgroup_trees {
            let to = Path::new(CGROUP).join(root.file_name().unwrap_or_default());
            let group = crate::cgroup::join(root, &around.cgroup);
            list.push(tree(&to, &group, MountDepth::One, STRICT | access));
        }
    }
    list.push(match container.shm_bytes {
        Some(bytes) => {
            let options = [("mode", "1777"), ("size", &bytes.to_string())];
            new("/dev/shm", "tmpfs", &options, STRICT)
        }
        None => tree(Path::new("/dev/shm"), &around.shm, MountDepth::One, STRICT),
    });
    list
}

fn volume(mount: &Mount, staged: &Path, mapped: bool) -> RootMount {
    let access = match mount.read_only {
        true => READ_ONLY,
        false => 0,
    };
    let to = &mount.destination;
    match &mount.source {
        MountSource::Bind {
            path,
            sub_path,
            recursive_read_only,
            propagation,
        } => {
            let is_staged = sub_path.is_some() || mapped;
            RootMount {
                to: to.clone(),
                source: RootSource::Tree {
                    path: if is_staged { staged } else { path }.to_owned(),
                    depth: MountDepth::All,
                    propagation: *propagation,
                },
                attributes: access,
                attributes_below: if *recursive_read_only { access } else { 0 },
            }
        }
        MountSource::Layers { .. } => tree(to, staged, MountDepth::All, STRICT | READ_ONLY),
        MountSource::Tmpfs { size_bytes, mode } => {
            let mut options = vec![("mode", format!("{mode:o}"))];
            options.extend(size_bytes.map(|bytes| ("size", bytes.to_string())));
            RootMount {
                to: to.clone(),
                source: RootSource::New {
                    kind: "tmpfs",
                    options,
                    or_else: None,
                },
                attributes: NO_SETUID | NO_DEVICES | access,
                attributes_below: 0,
            }
        }
    }
}

fn new(
    to: &str,
    kind: &'static str,
    options: &[(&'static str, &str)],
    attributes: u64,
) -> RootMount {
    let options = options.iter();
    RootMount {
        to: to.into(),
        source: RootSource::New {
            kind,
            options: options
                .map(|(name, value)| (*name, (*value).to_owned()))
                .collect(),
            or_else: None,
        },
        attributes,
        attributes_below: 0,
    }
}

fn tree(to: &Path, path: &Path, depth: MountDepth, attributes: u64) -> RootMount {
    RootMount {
        to: to.to_owned(),
        source: RootSource::Tree {
            path: path.to_owned(),
            depth,
            propagation: Propagation::Private,
        },
        attributes,
        attributes_below: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::PidNamespace;
    use super::*;
    use crate::cgroup::DeviceKind;

    fn around() -> ContainerContext {
        ContainerContext {
            root: "/node/root".into(),
            cgroup: "/pod/c".to_owned(),
            shm: "/node/shm".into(),
            pid_namespace: PidNamespace::Private,
            staged: "/node/staged".into(),
            users: None,
            unified: true,
            cgroup_trees: Vec::new(),
            can_make_nodes: true,
        }
    }

    fn null() -> DeviceNode {
        DeviceNode {
            path: "/dev/null".into(),
            on_node: "/dev/null".into(),
            kind: DeviceKind::Character,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }
    }

    fn at<'a>(plan: &'a RootPlan, to: &str) -> &'a RootMount {
        let mut all = plan.system.iter().chain(&plan.volumes);
        all.find(|mount| mount.to == Path::new(to)).unwrap()
    }

    fn bind(to: &str, sub_path: Option<&str>, propagation: Propagation) -> Mount {
        Mount {
            destination: to.into(),
            source: MountSource::Bind {
                path: "/node/data".into(),
                sub_path: sub_path.map(Into::into),
                recursive_read_only: false,
                propagation,
            },
            read_only: false,
        }
    }

    #[test]
    fn a_directory_is_mounted_before_what_is_in_it() {
        let mut around = around();
        around.cgroup_trees = vec!["/sys/fs/cgroup/cpu".into(), "/sys/fs/cgroup/pids".into()];
        let plan = plan(&ContainerSpec::default(), &around, vec![null()]);
        for (index, mount) in plan.system.iter().enumerate() {
            let later = &plan.system[index + 1..];
            let covered = later.iter().find(|other| mount.to.starts_with(&other.to));
            assert_eq!(covered, None, "{}", mount.to.display());
        }
        assert!(plan.write_protected.contains(&CGROUP));
        let tree = at(&plan, "/sys/fs/cgroup/pids");
        assert_eq!(tree.attributes & READ_ONLY, READ_ONLY);
        let RootSource::Tree { path, .. } = &tree.source else {
            panic!("{tree:?}")
        };
        assert_eq!(path, Path::new("/sys/fs/cgroup/pids/pod/c"));
    }

    #[test]
    fn the_kernels_files_are_guarded_unless_the_container_is_privileged() {
        // statefulset.md 12.16
        let plain = plan(&ContainerSpec::default(), &around(), vec![null()]);
        for to in ["/sys", "/sys/fs/cgroup"] {
            assert_eq!(at(&plain, to).attributes, STRICT | READ_ONLY);
        }
        assert_eq!(plain.masked, MASKED);
        assert_eq!(plain.write_protected, WRITE_PROTECTED);
        let mut spec = ContainerSpec::default();
        spec.security.unmasked_proc = true;
        let unmasked = plan(&spec, &around(), Vec::new());
        assert!(unmasked.masked.is_empty() && unmasked.write_protected.is_empty());
        assert_eq!(at(&unmasked, "/sys").attributes, STRICT | READ_ONLY);
        spec.security.privileged = true;
        let privileged = plan(&spec, &around(), Vec::new());
        assert_eq!(at(&privileged, "/sys").attributes, STRICT);
    }

    #[test]
    fn devices_are_mounted_where_nodes_cannot_be_made() {
        let mut around = around();
        let created = plan(&ContainerSpec::default(), &around, vec![null()]);
        assert_eq!(created.devices, [null()]);
        around.can_make_nodes = false;
        let mounted = plan(&ContainerSpec::default(), &around, vec![null()]);
        assert!(mounted.devices.is_empty());
        assert_eq!(at(&mounted, "/dev/null").attributes, 0);
    }

    #[test]
    fn volumes_are_as_they_are_asked_for() {
        let mut deep = bind("/deep", None, Propagation::HostToContainer);
        deep.read_only = true;
        if let MountSource::Bind {
            recursive_read_only,
            ..
        } = &mut deep.source
        {
            *recursive_read_only = true;
        }
        let spec = ContainerSpec {
            mounts: vec![
                bind("/plain", None, Propagation::Private),
                bind("/part", Some("a"), Propagation::Private),
                deep,
            ],
            ..ContainerSpec::default()
        };
        let planned = plan(&spec, &around(), Vec::new());
        let path = |to: &str| match &at(&planned, to).source {
            RootSource::Tree { path, .. } => path.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(path("/plain"), Path::new("/node/data"));
        assert_eq!(path("/part"), Path::new("/node/staged/1"));
        let deep = at(&planned, "/deep");
        assert_eq!(
            (deep.attributes, deep.attributes_below),
            (READ_ONLY, READ_ONLY)
        );
        assert!(!planned.shared);
        let spec = ContainerSpec {
            mounts: vec![bind("/both", None, Propagation::Bidirectional)],
            ..ContainerSpec::default()
        };
        assert!(plan(&spec, &around(), Vec::new()).shared);
    }
}
