//! The OCI runtime specification of a [`ContainerSpec`], for libcontainer.
//!
//! User, capabilities, filter, terminal and working directory are not in it: they are set by
//! [`Launch`](super::launch::Launch) after libcontainer has made the container, because
//! libcontainer drops capabilities before its executor could install a filter.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxCpuBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
    LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, Mount as OciMount, MountBuilder, ProcessBuilder, RootBuilder, Spec,
    SpecBuilder, UserBuilder,
};

use super::user_namespace::UserNamespace;
use crate::spec::{ContainerSpec, Device, Mount, MountSource, Propagation, Resources};

/// What the sandbox adds to the container's own specification.
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
    /// What was bound to be mounted, by index of the mount.
    pub staged: PathBuf,
    /// The pod's users, where they are not the node's.
    pub users: Option<Rc<UserNamespace>>,
    /// The machine has control groups version 2.
    pub unified: bool,
    /// Roots of the version 1 trees that have the container's group.
    pub cgroup_trees: Vec<PathBuf>,
}

/// Which process namespace a container gets.
#[derive(Debug)]
pub(crate) enum PidNamespace {
    Own,
    Node,
    /// The one that is held open: its path could not be opened by the users of a pod.
    Shared(File),
}

/// Why no specification came out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    #[error(transparent)]
    Spec(#[from] OciSpecError),
    #[error("examine device {}", path.display())]
    Device {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Directories and files of `/proc` and `/sys` that tell or do more than a container needs.
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

const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

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

/// Builds the specification.
pub(crate) fn spec(container: &ContainerSpec, around: &Surroundings) -> Result<Spec, OciError> {
    let unmasked = shows_all(container);
    let devices = devices(container)?;
    let bidirectional = container.mounts.iter().any(|mount| {
        matches!(
            mount.source,
            MountSource::Bind {
                propagation: Propagation::Bidirectional,
                ..
            }
        )
    });
    let paths = |list: &[&str]| match unmasked {
        true => Vec::new(),
        false => list
            .iter()
            .map(|path| (*path).to_owned())
            .collect::<Vec<_>>(),
    };
    let mut read_only = paths(READ_ONLY);
    if !unmasked && !around.cgroup_trees.is_empty() {
        // The directory of the trees' mount points; the trees themselves are already.
        read_only.push("/sys/fs/cgroup".to_owned());
    }
    let linux = LinuxBuilder::default()
        .namespaces(namespaces(around)?)
        .cgroups_path(around.cgroup.as_str())
        .resources(resources(&container.resources, device_rules(container)?)?)
        .devices(devices)
        .rootfs_propagation(if bidirectional { "shared" } else { "slave" })
        .masked_paths(paths(MASKED))
        .readonly_paths(read_only)
        .build()?;
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0u32).gid(0u32).build()?)
        .args(container.args.clone())
        // libcontainer would look for a home in the image with the C library's own means.
        .env(vec!["HOME=/".to_owned()])
        .cwd("/")
        .no_new_privileges(false)
        .build();
    let mut process = process?;
    process
        .set_capabilities(None)
        .set_rlimits(None)
        .set_no_new_privileges(None);
    let root = RootBuilder::default()
        .path(&around.root)
        .readonly(container.rootfs.read_only)
        .build()?;
    let mut spec = SpecBuilder::default()
        .root(root)
        .mounts(mounts(container, around)?)
        .process(process)
        .linux(linux)
        .build()?;
    spec.set_hostname(None);
    Ok(spec)
}

fn namespaces(around: &Surroundings) -> Result<Vec<LinuxNamespace>, OciError> {
    // Network, IPC and host name are the shim's own and inherited.
    let mut list = vec![namespace(LinuxNamespaceType::Mount, None)?];
    if around.unified {
        list.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    match &around.pid_namespace {
        PidNamespace::Own => list.push(namespace(LinuxNamespaceType::Pid, None)?),
        PidNamespace::Shared(held) => {
            list.push(namespace(LinuxNamespaceType::Pid, Some(held))?);
        }
        PidNamespace::Node => {}
    }
    if let Some(users) = &around.users {
        list.push(namespace(LinuxNamespaceType::User, Some(users.handle()))?);
    }
    Ok(list)
}

fn namespace(
    kind: LinuxNamespaceType,
    held: Option<&File>,
) -> Result<LinuxNamespace, OciSpecError> {
    let builder = LinuxNamespaceBuilder::default().typ(kind);
    match held {
        // libcontainer's processes are copies of this one, and have the same descriptors.
        Some(held) => builder
            .path(format!("/proc/self/fd/{}", held.as_raw_fd()))
            .build(),
        None => builder.build(),
    }
}

/// Which devices may be used: none but those given, or all.
pub(crate) fn device_rules(container: &ContainerSpec) -> Result<Vec<LinuxDeviceCgroup>, OciError> {
    let all = LinuxDeviceCgroupBuilder::default().access("rwm");
    let mut rules = vec![all.allow(container.security.privileged).build()?];
    for device in &container.devices {
        let node = device_node(device)?;
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(node.typ())
            .major(node.major())
            .minor(node.minor())
            .access(device.access.as_str());
        rules.push(rule.build()?);
    }
    Ok(rules)
}

/// The container's limits.
fn resources(
    wanted: &Resources,
    device_rules: Vec<LinuxDeviceCgroup>,
) -> Result<LinuxResources, OciSpecError> {
    let mut builder = LinuxResourcesBuilder::default().devices(device_rules);
    if wanted.cpu_shares.is_some() || wanted.cpu_quota_us.is_some() {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(shares) = wanted.cpu_shares {
            cpu = cpu.shares(shares.max(2));
        }
        if let Some(quota) = wanted.cpu_quota_us {
            cpu = cpu
                .quota(quota)
                .period(wanted.cpu_period_us.unwrap_or(100_000));
        }
        builder = builder.cpu(cpu.build()?);
    }
    if let Some(bytes) = wanted.memory_bytes {
        builder = builder.memory(LinuxMemoryBuilder::default().limit(bytes).build()?);
    }
    if let Some(limit) = wanted.pids {
        builder = builder.pids(LinuxPidsBuilder::default().limit(limit).build()?);
    }
    builder.build()
}

fn devices(container: &ContainerSpec) -> Result<Vec<LinuxDevice>, OciError> {
    let mut list = Vec::new();
    // What is elsewhere is in the root already.
    for device in container.devices.iter().filter(|device| is_in_dev(device)) {
        list.push(device_node(device)?);
    }
    if container.security.privileged {
        let mut found = Vec::new();
        collect_devices(Path::new("/dev"), &mut found);
        for path in found {
            let same = |device: &LinuxDevice| device.path() == &path;
            if !list.iter().any(same) {
                list.push(device_node(&Device {
                    host_path: path.clone(),
                    container_path: path,
                    access: "rwm".to_owned(),
                    ..Device::default()
                })?);
            }
        }
    }
    Ok(list)
}

/// The node's devices, but for what every container has of its own.
fn collect_devices(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        let own = [
            "pts", "shm", "fd", "mqueue", "ptmx", "console", "stdin", "stdout", "stderr",
        ];
        if own.iter().any(|own| name == *own) || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if kind.is_dir() {
            collect_devices(&entry.path(), found);
        } else if kind.is_char_device() || kind.is_block_device() {
            found.push(entry.path());
        }
    }
    found.sort();
}

/// Whether a device is where a container's devices are, in a file system of their own.
pub(crate) fn is_in_dev(device: &Device) -> bool {
    device.container_path.starts_with("/dev")
}

fn is_read_only(device: &Device) -> bool {
    !device.access.contains('w')
}

/// The device as it is on the node, with its place and owner in the container.
pub(crate) fn device_node(device: &Device) -> Result<LinuxDevice, OciError> {
    let failed = |source| OciError::Device {
        path: device.host_path.clone(),
        source,
    };
    let metadata = fs::metadata(&device.host_path).map_err(failed)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return Err(failed(io::Error::other("is no device"))),
    };
    let for_group = match device.gid {
        Some(_) => (metadata.mode() & 0o700) >> 3,
        None => 0,
    };
    let mut mode = metadata.mode() & 0o777 | for_group;
    if is_read_only(device) {
        mode &= 0o555;
    }
    Ok(LinuxDeviceBuilder::default()
        .path(&device.container_path)
        .typ(kind)
        .major(i64::from(libc::major(metadata.rdev())))
        .minor(i64::from(libc::minor(metadata.rdev())))
        .file_mode(mode)
        .uid(device.uid.unwrap_or(metadata.uid()))
        .gid(device.gid.unwrap_or(metadata.gid()))
        .build()?)
}

fn mounts(container: &ContainerSpec, around: &Surroundings) -> Result<Vec<OciMount>, OciError> {
    let sys = if container.security.privileged {
        "rw"
    } else {
        "ro"
    };
    let strict = ["nosuid", "noexec", "nodev"];
    let strict_and = |more: &[&'static str]| [&strict, more].concat();
    let mut list = vec![
        mount("/proc", "proc", "proc", &strict)?,
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        mount("/dev/mqueue", "mqueue", "mqueue", &strict)?,
        mount("/sys", "sysfs", "sysfs", &strict_and(&[sys]))?,
    ];
    if around.cgroup_trees.is_empty() {
        let options = strict_and(&["relatime", sys]);
        list.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &options)?);
    } else {
        // libcontainer would mount the version 1 trees writable, whatever is asked for.
        let options = strict_and(&["mode=755"]);
        list.push(mount("/sys/fs/cgroup", "tmpfs", "tmpfs", &options)?);
        for tree in &around.cgroup_trees {
            let name = tree.file_name().unwrap_or_default();
            let source = crate::cgroup::join(tree, &around.cgroup);
            let to = Path::new("/sys/fs/cgroup").join(name);
            list.push(bind(&to, &source, &strict_and(&["bind", sys]))?);
        }
    }
    list.push(match container.shm_bytes {
        Some(bytes) => {
            let size = format!("size={bytes}");
            mount("/dev/shm", "tmpfs", "shm", &strict_and(&["mode=1777"]))
                .map(|mut mount| add_option(&mut mount, size))?
        }
        None => bind(
            Path::new("/dev/shm"),
            &around.shm,
            &["bind", "nosuid", "nodev", "noexec"],
        )?,
    });
    for (index, wanted) in container.mounts.iter().enumerate() {
        let staged = around.staged.join(index.to_string());
        list.push(pod_mount(wanted, &staged, around.users.is_some())?);
    }
    Ok(list)
}

fn pod_mount(wanted: &Mount, staged: &Path, mapped: bool) -> Result<OciMount, OciError> {
    match &wanted.source {
        MountSource::Bind {
            path,
            sub_path,
            recursive_read_only,
            propagation,
        } => {
            let source = if sub_path.is_some() || mapped {
                staged
            } else {
                path
            };
            let mut options = vec!["rbind"];
            options.push(match propagation {
                Propagation::Private => "rprivate",
                Propagation::HostToContainer => "rslave",
                Propagation::Bidirectional => "rshared",
            });
            match (wanted.read_only, recursive_read_only) {
                (true, true) => options.extend(["ro", "rro"]),
                (true, false) => options.push("ro"),
                (false, _) => options.push("rw"),
            }
            bind(&wanted.destination, source, &options)
        }
        MountSource::Layers { .. } => {
            let options = ["rbind", "ro", "nosuid", "nodev", "noexec"];
            bind(&wanted.destination, staged, &options)
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            let access = if wanted.read_only { "ro" } else { "rw" };
            let mut made = MountBuilder::default()
                .destination(&wanted.destination)
                .typ("tmpfs")
                .source("tmpfs")
                .options(["nosuid".to_owned(), "nodev".to_owned(), access.to_owned()])
                .build()?;
            made = add_option(&mut made, format!("mode={mode:o}"));
            if let Some(bytes) = size_bytes {
                made = add_option(&mut made, format!("size={bytes}"));
            }
            Ok(made)
        }
    }
}

fn add_option(mount: &mut OciMount, option: String) -> OciMount {
    let mut options = mount.options().clone().unwrap_or_default();
    options.push(option);
    mount.set_options(Some(options));
    mount.clone()
}

fn mount(to: &str, kind: &str, source: &str, options: &[&str]) -> Result<OciMount, OciError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let builder = MountBuilder::default()
        .destination(to)
        .typ(kind)
        .source(source);
    Ok(builder.options(options).build()?)
}

fn bind(to: &Path, source: &Path, options: &[&str]) -> Result<OciMount, OciError> {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let builder = MountBuilder::default()
        .destination(to)
        .typ("bind")
        .source(source);
    Ok(builder.options(options).build()?)
}
