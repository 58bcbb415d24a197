//! Control groups by plain files, for version 1 (one tree per controller) and version 2.
//!
//! The module creates the groups of pods and, below them, of containers. It sets limits, reads usage, and
//! kills and removes whole trees. The name of a group is its path below the root of a hierarchy, and is
//! equal in all hierarchies.

use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use host_kernel::mount_table::{self, MountPoint};

use crate::spec::{Resources, Usage};

mod accounting;
mod container;
mod creation;
mod delegation;
mod devices;
mod killing;
mod listing;

pub(crate) use accounting::accounting;
pub(crate) use container::{ContainerGroup, container_trees};
use creation::{create_dir, lacking};
pub(crate) use devices::{DeviceKind, DeviceRule, DeviceRules};
pub(crate) use killing::{kill, kill_once};
pub(crate) use listing::{children, processes};

/// Maximum time until killed processes have left a group.
const KILL_MAX: Duration = Duration::from_secs(20);

/// The hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// Version 2: one hierarchy for all controllers.
    Unified(PathBuf),
    /// Version 1: the controllers and the root of each hierarchy. There may also be a version 2 hierarchy.
    Split {
        trees: Vec<(Vec<String>, PathBuf)>,
        unified: Option<PathBuf>,
    },
}

impl Hierarchies {
    /// The hierarchies of this machine. They are detected once per process, because the mount table has
    /// several lines for each container and many functions need the hierarchies.
    pub fn mounted() -> io::Result<&'static Hierarchies> {
        static MOUNTED: OnceLock<Hierarchies> = OnceLock::new();
        match MOUNTED.get() {
            Some(hierarchies) => Ok(hierarchies),
            None => {
                let hierarchies = Hierarchies::detect()?;
                Ok(MOUNTED.get_or_init(|| hierarchies))
            }
        }
    }

    /// Detects the hierarchies from the mount table.
    fn detect() -> io::Result<Hierarchies> {
        Hierarchies::from_mounts(mount_table::read()?)
    }

    fn from_mounts(mounts: Vec<MountPoint>) -> io::Result<Hierarchies> {
        let below_root = Path::new("/sys/fs/cgroup");
        let (mut trees, mut unified): (Vec<(Vec<String>, PathBuf)>, _) = (Vec::new(), None);
        for mount in mounts {
            if !mount.path.starts_with(below_root) {
                continue;
            }
            match mount.file_system.as_str() {
                "cgroup2" if mount.path == below_root => {
                    return Ok(Hierarchies::Unified(mount.path));
                }
                "cgroup2" => unified = unified.or(Some(mount.path)),
                // A mount inside a hierarchy is a part of that hierarchy, not another one.
                "cgroup" if trees.iter().any(|(_, tree)| mount.path.starts_with(tree)) => {}
                "cgroup" => {
                    let options = mount.super_options.split(',').map(str::to_owned);
                    trees.push((options.filter(|o| o != "rw").collect(), mount.path));
                }
                _ => {}
            }
        }
        if trees.is_empty() && unified.is_none() {
            let message = "no control groups are mounted at /sys/fs/cgroup";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(Hierarchies::Split { trees, unified })
    }

    /// The mount points of all hierarchies; with version 2, exactly one.
    pub fn roots(&self) -> Vec<&Path> {
        match self {
            Hierarchies::Unified(root) => vec![root],
            Hierarchies::Split { trees, unified } => trees
                .iter()
                .map(|(_, root)| root)
                .chain(unified)
                .map(PathBuf::as_path)
                .collect(),
        }
    }

    /// Directory of a group in the hierarchy of a version 1 controller.
    pub fn v1_dir(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let Hierarchies::Split { trees, .. } = self else {
            return None;
        };
        let has = |names: &[String]| names.iter().any(|name| name == controller);
        let (_, root) = trees.iter().find(|(names, _)| has(names))?;
        Some(join(root, group))
    }
}

pub(crate) fn join(root: &Path, group: &str) -> PathBuf {
    root.join(group.trim_start_matches('/'))
}

/// Ensures that groups can be created on this machine.
///
/// # Errors
/// Groups cannot be created; the error names the missing controller.
pub(crate) fn prepare() -> io::Result<()> {
    match Hierarchies::mounted()? {
        Hierarchies::Unified(root) => delegation::prepare(root),
        Hierarchies::Split { trees, .. } => {
            let controllers: Vec<_> = trees.iter().flat_map(|(names, _)| names).collect();
            let has = |needed: &str| controllers.iter().any(|name| *name == needed);
            lacking(has, Path::new("/sys/fs/cgroup"))
        }
    }
}

/// Checks that groups of pods and of their containers can be created below a group: creates and removes a
/// group.
pub(crate) fn probe(parent: &str) -> io::Result<()> {
    let hierarchies = Hierarchies::mounted()?;
    let group = format!("{parent}/probe");
    match hierarchies {
        Hierarchies::Unified(root) => delegation::make(root, &group)?,
        Hierarchies::Split { .. } => {
            for root in container_trees(hierarchies) {
                create_dir(&join(root, &group))?;
            }
        }
    }
    for root in hierarchies.roots() {
        remove_tree(&join(root, &group))?;
    }
    Ok(())
}

/// Creates the group of a pod and its parents. The group contains only child groups with limits. The group of all pods, which
/// is its parent, gets its weight with each pod: it may be new.
pub(crate) fn create(group: &str, resources: &Resources) -> io::Result<()> {
    let hierarchies = Hierarchies::mounted()?;
    match hierarchies {
        Hierarchies::Unified(root) => delegation::make_parent(root, group)?,
        Hierarchies::Split { .. } => make_split(hierarchies, group)?,
    }
    let of_all_pods = Path::new(group).parent().and_then(Path::to_str);
    let of_all_pods = of_all_pods
        .into_iter()
        .flat_map(|parent| limits(hierarchies, parent, &of_all_processors(), Holder::AllPods));
    let of_pod = limits(hierarchies, group, resources, Holder::Pod);
    for (path, value) in of_all_pods.chain(of_pod) {
        write(&path, &value)?;
    }
    write_known(huge_pages(hierarchies, group, resources))
}

/// The weight of the group of all pods: that of one process for each processor, as of kubelet's group of all pods. With the
/// default, the weight of one process, all pods together would get less than a container requests on a busy machine.
fn of_all_processors() -> Resources {
    let processors = available_parallelism().map_or(1, NonZero::get);
    Resources {
        cpu_shares: u64::try_from(processors).ok().map(|n| n * 1024),
        ..Resources::default()
    }
}

/// Creates a group that contains processes.
pub(crate) fn create_leaf(group: &str) -> io::Result<()> {
    let hierarchies = Hierarchies::mounted()?;
    match hierarchies {
        Hierarchies::Unified(root) => delegation::make(root, group),
        Hierarchies::Split { .. } => make_split(hierarchies, group),
    }
}

fn make_split(hierarchies: &Hierarchies, group: &str) -> io::Result<()> {
    for controller in ["cpu", "memory", "pids", "hugetlb"] {
        if let Some(dir) = hierarchies.v1_dir(controller, group) {
            create_dir(&dir)?;
        }
    }
    Ok(())
}

/// Writes the settings whose files exist on this kernel.
fn write_known(settings: Vec<(PathBuf, String)>) -> io::Result<()> {
    for (path, value) in settings {
        if path.exists() {
            write(&path, &value)?;
        }
    }
    Ok(())
}

fn huge_pages(
    hierarchies: &Hierarchies,
    group: &str,
    resources: &Resources,
) -> Vec<(PathBuf, String)> {
    let (dir, suffix) = match hierarchies {
        Hierarchies::Unified(root) => (Some(join(root, group)), "max"),
        Hierarchies::Split { .. } => (hierarchies.v1_dir("hugetlb", group), "limit_in_bytes"),
    };
    let file = |(size, bytes): (&String, &i64)| {
        let name = format!("hugetlb.{size}.{suffix}");
        Some((dir.as_ref()?.join(name), bytes.to_string()))
    };
    resources.huge_pages.iter().filter_map(file).collect()
}

/// The owner of the limits: the weights of pods and of containers are computed differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    AllPods,
    Pod,
    Container,
}

/// Files and values that set `resources`; pure.
pub(crate) fn limits(
    hierarchies: &Hierarchies,
    group: &str,
    resources: &Resources,
    holder: Holder,
) -> Vec<(PathBuf, String)> {
    let period = resources.cpu_period_us.unwrap_or(100_000);
    let mut out = Vec::new();
    match hierarchies {
        Hierarchies::Unified(root) => {
            let dir = join(root, group);
            let mut set = |file: &str, value: Option<String>| {
                out.extend(value.map(|value| (dir.join(file), value)));
            };
            set(
                "cpu.weight",
                resources.cpu_shares.map(|n| weight(n, holder).to_string()),
            );
            set(
                "cpu.max",
                resources
                    .cpu_quota_us
                    .map(|n| format!("{} {period}", or_max(n))),
            );
            set("memory.max", resources.memory_bytes.map(or_max));
            set("pids.max", resources.pids.map(or_max));
        }
        Hierarchies::Split { .. } => {
            let mut set = |controller: &str, file: &str, value: Option<String>| {
                let dir = hierarchies.v1_dir(controller, group);
                out.extend(dir.zip(value).map(|(dir, value)| (dir.join(file), value)));
            };
            set(
                "cpu",
                "cpu.shares",
                resources.cpu_shares.map(|n| n.max(2).to_string()),
            );
            if let Some(quota) = resources.cpu_quota_us {
                set("cpu", "cpu.cfs_period_us", Some(period.to_string()));
                set("cpu", "cpu.cfs_quota_us", Some(quota.to_string()));
            }
            let memory = resources.memory_bytes.map(|n| n.to_string());
            set("memory", "memory.limit_in_bytes", memory);
            set("pids", "pids.max", resources.pids.map(or_max));
        }
    }
    out
}

fn or_max(limit: i64) -> String {
    if limit < 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// The weight of version 2 (1 to 10000) for shares of version 1 (2 to 262144). For a pod, the result is
/// proportional, as in kubelet. For a container, the default 1024 becomes the default 100, as in runc from
/// 1.3.2 on; also for all pods, whose group competes with groups that have the default.
fn weight(shares: u64, holder: Holder) -> u64 {
    let shares = shares.clamp(2, 262_144);
    match holder {
        Holder::Pod => 1 + (shares - 2) * 9999 / 262_142,
        Holder::AllPods | Holder::Container => {
            let magnitude = (shares as f64).log2();
            let exponent = (magnitude * magnitude + 125.0 * magnitude) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

/// Sets the limits of an existing group.
pub(crate) fn update(group: &str, resources: &Resources, holder: Holder) -> io::Result<()> {
    let hierarchies = Hierarchies::mounted()?;
    for (path, value) in limits(hierarchies, group, resources, holder) {
        write(&path, &value)?;
    }
    Ok(())
}

/// Moves the calling process out of its group into `group`, in every hierarchy in which the process is not
/// in the root group. So the removal or the limits of the old group do not affect the process.
pub(crate) fn move_self(group: &str) -> io::Result<()> {
    let hierarchies = Hierarchies::mounted()?;
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if path == "/" {
            continue;
        }
        let root = match hierarchies {
            Hierarchies::Unified(root) => Some(root),
            Hierarchies::Split { unified, .. } if names.is_empty() => unified.as_ref(),
            Hierarchies::Split { trees, .. } => {
                let mut controllers = names.split(',');
                let first = controllers.next().unwrap_or_default();
                trees
                    .iter()
                    .find(|(n, _)| n.iter().any(|n| n == first))
                    .map(|(_, root)| root)
            }
        };
        let Some(root) = root else { continue };
        let dir = join(root, group);
        create_dir(&dir)?;
        // A group with an empty cpuset accepts no process. A shim needs no cpuset limit.
        if !names.split(',').any(|name| name == "cpuset") {
            write(&dir.join("cgroup.procs"), "0")?;
        }
    }
    Ok(())
}

/// Moves the calling process into `group`, in every hierarchy that has the group.
pub(crate) fn join_self(group: &str) -> io::Result<()> {
    for root in Hierarchies::mounted()?.roots() {
        let procs = join(root, group).join("cgroup.procs");
        match fs::OpenOptions::new().write(true).open(&procs) {
            Ok(mut file) => file.write_all(b"0").map_err(|error| {
                io::Error::new(error.kind(), format!("join {}: {error}", procs.display()))
            })?,
            // Containers have no group in hierarchies without a controller.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Moves the calling process to the process `first` of a container with `group`.
///
/// A privileged container may have created child groups, for containers or services inside it. With version
/// 2, the container's group then accepts no more processes, so the group of `first` is joined.
pub(crate) fn join_container(group: &str, first: i32) -> io::Result<()> {
    match join_self(group) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let membership = fs::read_to_string(format!("/proc/{first}/cgroup"))?;
            let unified = membership.lines().find_map(|line| line.strip_prefix("0::"));
            match unified.filter(|of_first| Path::new(of_first).starts_with(group)) {
                Some(of_first) => join_self(of_first),
                None => Err(error),
            }
        }
        other => other,
    }
}

/// Removes a group and its child groups from every hierarchy. A missing group is no error.
pub(crate) fn remove(group: &str) -> io::Result<()> {
    let until = Instant::now() + KILL_MAX;
    for root in Hierarchies::mounted()?.roots() {
        let dir = join(root, group);
        // The kernel releases exited processes shortly after they are reaped. A shim that starts late may
        // create a group in the meantime.
        while let Err(error) = remove_tree(&dir) {
            let is_busy = [
                io::ErrorKind::ResourceBusy,
                io::ErrorKind::DirectoryNotEmpty,
            ]
            .contains(&error.kind());
            if !is_busy || Instant::now() >= until {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Removes a directory and its child directories once, the innermost first.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for dir in tree(dir)?.iter().rev() {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let text = format!("remove {}: {error}", dir.display());
                return Err(io::Error::new(error.kind(), text));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A directory and all directories below it, the outermost first.
fn tree(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut dirs = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
        dirs.push(dir);
    }
    Ok(dirs)
}

/// Reads the resource usage of a group.
pub(crate) fn usage(group: &str) -> io::Result<Usage> {
    let hierarchies = Hierarchies::mounted()?;
    if let Hierarchies::Unified(root) = hierarchies {
        let dir = join(root, group);
        let used = number(&dir.join("memory.current"))?;
        let idle = field(&dir.join("memory.stat"), "inactive_file")?;
        return Ok(Usage {
            cpu_ns: field(&dir.join("cpu.stat"), "usage_usec")? * 1000,
            working_set_bytes: used.saturating_sub(idle),
            memory_bytes: used,
            rss_bytes: field(&dir.join("memory.stat"), "anon")?,
            pids: number(&dir.join("pids.current"))?,
        });
    }
    let read = |controller: &str, file: &str| match hierarchies.v1_dir(controller, group) {
        Some(dir) => number(&dir.join(file)),
        None => Ok(0),
    };
    let of_memory = |name: &str| match hierarchies.v1_dir("memory", group) {
        Some(dir) => field(&dir.join("memory.stat"), name),
        None => Ok(0),
    };
    let idle = of_memory("total_inactive_file")?;
    let used = read("memory", "memory.usage_in_bytes")?;
    Ok(Usage {
        cpu_ns: read("cpuacct", "cpuacct.usage").unwrap_or(0),
        working_set_bytes: used.saturating_sub(idle),
        memory_bytes: used,
        rss_bytes: of_memory("total_rss")?,
        pids: read("pids", "pids.current")?,
    })
}

/// Number of kills by the kernel because memory ran out (OOM kills), in a group and its child groups.
pub(crate) fn oom_kills(group: &str) -> u64 {
    let Ok(hierarchies) = Hierarchies::mounted() else {
        return 0;
    };
    let file = match hierarchies {
        Hierarchies::Unified(root) => join(root, group).join("memory.events"),
        Hierarchies::Split { .. } => match hierarchies.v1_dir("memory", group) {
            Some(dir) => dir.join("memory.oom_control"),
            None => return 0,
        },
    };
    field(&file, "oom_kill").unwrap_or(0)
}

fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}

/// The number after a name in a file with lines of the form `name number`; 0 if the name is missing.
fn field(path: &Path, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::write(path, value).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("set {} to {value}: {error}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> Resources {
        Resources {
            memory_bytes: Some(1 << 20),
            pids: Some(-1),
            huge_pages: [("2MB".to_owned(), 4 << 20)].into(),
            ..Resources::default()
        }
    }

    fn set(list: Vec<(PathBuf, String)>) -> Vec<String> {
        list.into_iter()
            .map(|(path, value)| format!("{} {value}", path.display()))
            .collect()
    }

    #[test]
    fn limits_are_set_in_the_files_of_either_version() {
        // statefulset.md 12.16
        let two = Hierarchies::Unified(PathBuf::from("/c"));
        assert_eq!(
            set(limits(&two, "/g", &resources(), Holder::Pod)),
            ["/c/g/memory.max 1048576", "/c/g/pids.max max"]
        );
        assert_eq!(
            set(container::completion(&two, "/g", &resources())),
            [
                "/c/g/hugetlb.2MB.max 4194304",
                "/c/g/memory.swap.max 0",
                "/c/g/memory.oom.group 1"
            ]
        );
        let tree = |name: &str| (vec![name.to_owned()], PathBuf::from("/c").join(name));
        let one = Hierarchies::Split {
            trees: vec![tree("memory"), tree("hugetlb")],
            unified: None,
        };
        assert_eq!(
            set(limits(&one, "/g", &resources(), Holder::Pod)),
            ["/c/memory/g/memory.limit_in_bytes 1048576"]
        );
        assert_eq!(
            set(container::completion(&one, "/g", &resources())),
            ["/c/hugetlb/g/hugetlb.2MB.limit_in_bytes 4194304"]
        );
    }

    // findings-2 S36
    #[test]
    fn a_mount_in_a_tree_is_no_tree() {
        let lines = "1 0 0:9 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             2 1 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             3 1 0:31 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
             4 2 0:30 /pods /sys/fs/cgroup/memory/pods ro - cgroup cgroup rw,memory\n";
        let hierarchies = Hierarchies::from_mounts(mount_table::parse(lines.as_bytes())).unwrap();
        let roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"];
        assert_eq!(hierarchies.roots(), roots.map(Path::new));
    }

    #[test]
    fn weights_are_those_of_kubelet_and_of_runtimes() {
        let of = |holder| [2, 102, 512, 1024, 262_144].map(|shares| weight(shares, holder));
        assert_eq!(of(Holder::Pod), [1, 4, 20, 39, 10_000]);
        assert_eq!(of(Holder::Container), [1, 17, 59, 100, 10_000]);
        assert_eq!(of(Holder::AllPods), of(Holder::Container));
    }
}
