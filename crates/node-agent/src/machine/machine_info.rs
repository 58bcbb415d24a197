//! Properties of the machine: processors, memory, disk, kernel and operating system.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::resource_limits::HUGE_PAGES;

/// The properties that are read once, when the agent starts.
#[derive(Clone, Debug, Default)]
pub struct MachineInfo {
    pub cpus: usize,
    /// The memory in bytes (`MemTotal`).
    pub memory_bytes: u64,
    /// Size in bytes of the file system of the data directory.
    pub disk_bytes: u64,
    /// Bytes of memory that are reserved as huge pages, by the size of a page in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    /// The kernel's release, as `uname -r`.
    pub kernel: String,
    /// The name of the operating system (`PRETTY_NAME` of `os-release`).
    pub os_image: String,
    /// Machine id (`/etc/machine-id`).
    pub machine_id: String,
    /// The id of this boot (`boot_id` of the kernel).
    pub boot_id: String,
    /// The UUID of the hardware (`product_uuid` of DMI).
    pub system_uuid: String,
    /// Whether pods may have user namespaces.
    pub user_namespaces: bool,
}

/// The text of a file with one line; empty if it cannot be read.
fn line(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

pub fn boot_id() -> String {
    line("/proc/sys/kernel/random/boot_id")
}

impl MachineInfo {
    pub fn read(data_dir: &Path) -> Self {
        let kernel = line("/proc/sys/kernel/osrelease");
        Self {
            user_namespaces: user_namespaces(&line("/proc/sys/user/max_user_namespaces"), &kernel),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: meminfo("MemTotal").unwrap_or(0),
            disk_bytes: disk(data_dir).map_or(0, |disk| disk.total),
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            kernel,
            os_image: os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
            machine_id: line("/etc/machine-id"),
            boot_id: boot_id(),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
        }
    }

    /// The node's capacity as resources.
    pub fn capacity(&self, pods_max: u32) -> BTreeMap<String, Quantity> {
        let quantity = |text: String| Quantity(text);
        let mut capacity: BTreeMap<String, Quantity> = [
            ("cpu", quantity(self.cpus.to_string())),
            (
                "memory",
                quantity(format!("{}Ki", self.memory_bytes / 1024)),
            ),
            (
                "ephemeral-storage",
                quantity(format!("{}Ki", self.disk_bytes / 1024)),
            ),
            ("hugepages-1Gi", quantity("0".to_owned())),
            ("hugepages-2Mi", quantity("0".to_owned())),
            ("pods", quantity(pods_max.to_string())),
        ]
        .map(|(name, amount)| (name.to_owned(), amount))
        .into();
        for (page, all) in &self.huge_pages {
            let name = format!("{HUGE_PAGES}{}", bytes(*page));
            capacity.insert(name, quantity(bytes(*all).to_string()));
        }
        capacity
    }

    /// The allocatable part: memory that is reserved as huge pages is not available as memory.
    pub fn allocatable(&self, pods_max: u32) -> BTreeMap<String, Quantity> {
        let huge_page_bytes: u64 = self.huge_pages.values().sum();
        let kib = self.memory_bytes.saturating_sub(huge_page_bytes) / 1024;
        let mut allocatable = self.capacity(pods_max);
        allocatable.insert("memory".to_owned(), Quantity(format!("{kib}Ki")));
        allocatable
    }
}

fn bytes(count: u64) -> object_model::Quantity {
    object_model::Quantity::from_bytes(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Huge pages by size, as the kernel lists them: `hugepages-2048kB/nr_hugepages`.
fn huge_pages(root: &Path) -> BTreeMap<u64, u64> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            let count: u64 = count.trim().parse().ok()?;
            Some((kib * 1024, kib * 1024 * count))
        })
        .collect()
}

/// A line of `/proc/meminfo`, in bytes.
pub fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn os_release(field: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

/// The size and the inodes of a file system. The size excludes reserved blocks, so that the free share
/// equals that of `df`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The size in bytes.
    pub total: u64,
    /// The free bytes that unprivileged users can use.
    pub free: u64,
    /// The number of inodes; 0 if the file system sets no limit.
    pub files: u64,
    /// The number of free inodes.
    pub files_free: u64,
}

/// Reads the size of the file system that holds `path`.
pub fn disk(path: &Path) -> Option<Disk> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let unit = stat.fragment_size();
    let available = stat.blocks_available();
    let used = stat.blocks().saturating_sub(stat.blocks_free());
    Some(Disk {
        total: (used + available) * unit,
        free: available * unit,
        files: stat.files(),
        files_free: stat.files_available(),
    })
}

/// The architecture as container images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        architecture => architecture,
    }
}

/// Whether the kernel supports user namespaces, and overlays of layers with idmapped mounts (Linux 5.19).
fn user_namespaces(count_max: &str, kernel: &str) -> bool {
    let mut numbers = kernel
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next(), numbers.next());
    count_max.parse().is_ok_and(|count: u64| count > 0) && version >= (Some(5), Some(19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_their_own_take_a_kernel_that_can() {
        assert!(user_namespaces("96365", "6.18.44-generic"));
        assert!(user_namespaces("1", "5.19.0"));
        assert!(!user_namespaces("1", "5.15.0-91-generic"));
        assert!(!user_namespaces("0", "6.18.0"));
        assert!(!user_namespaces("", "6.18.0"));
    }

    #[test]
    fn huge_pages_are_told_and_are_no_other_memory() {
        // statefulset.md 12.16
        let temp = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "0\n")] {
            fs::create_dir(temp.path().join(name)).unwrap();
            fs::write(temp.path().join(name).join("nr_hugepages"), count).unwrap();
        }
        let machine = MachineInfo {
            memory_bytes: 64 << 20,
            huge_pages: huge_pages(temp.path()),
            ..MachineInfo::default()
        };
        let capacity = machine.capacity(1);
        let of = |list: &BTreeMap<String, Quantity>, name: &str| list[name].0.clone();
        assert_eq!(of(&capacity, "hugepages-2Mi"), "6Mi");
        assert_eq!(of(&capacity, "hugepages-1Gi"), "0");
        assert_eq!(of(&capacity, "memory"), "65536Ki");
        assert_eq!(of(&machine.allocatable(1), "memory"), "59392Ki");
    }
}
