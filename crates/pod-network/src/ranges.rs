//! The address ranges of an instance for its pods and Services.
//!
//! The configured ranges are used if no address, route, name server or other instance of the machine uses
//! them; even stopped instances count. Otherwise the next free ranges are used. The choice is stored on
//! disk, because Services keep their addresses for the lifetime of the data. A lock is held until the
//! choice is visible in the kernel as addresses on `lo`, so that two instances that start concurrently
//! choose different ranges.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use host_kernel::blocking_value;
use host_kernel::durable_file::{self, Durability};
use object_model::cidr::Cidr;
use serde::{Deserialize, Serialize};

use crate::addresses::create_private;
use crate::error::{Error, NoFreeRange, file};
use crate::host::Host;
use crate::neighbours::Neighbours;

/// The pools for another range if the pool of the configured range has no free range: the private ranges,
/// then the shared range of carriers.
const POOLS: [&str; 4] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
];

/// A route with fewer leading bits is a default route, or a half of it as some VPNs add, and does not mean
/// that its addresses are in use.
const ROUTE_PREFIX_MIN: u8 = 8;

/// A range in use on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedRange {
    pub range: Cidr,
    /// The user of the range, for messages: `route via eth0`, `address of docker0`.
    pub by: String,
}

/// The configured ranges, or the defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedRanges {
    /// Range of the pods of this node.
    pub pod: Cidr,
    /// Range of Services (`clusterIP`).
    pub service: Cidr,
    /// Whether the user configured the pod range: if so, a range in use is an error and is not replaced.
    pub pod_fixed: bool,
    /// Whether the user configured the Service range: if so, a range in use is an error and is not
    /// replaced.
    pub service_fixed: bool,
}

impl Default for RequestedRanges {
    fn default() -> RequestedRanges {
        RequestedRanges {
            pod: Cidr::new([10, 244, 0, 0].into(), 24),
            service: Cidr::new([10, 96, 0, 0].into(), 16),
            pod_fixed: false,
            service_fixed: false,
        }
    }
}

/// The ranges that an instance uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// Range of the pods of this node; its first address is the node's.
    pub pod: Cidr,
    /// Range of Services (`clusterIP`).
    pub service: Cidr,
}

impl Ranges {
    /// The node's address for its pods: the first address of the pod range.
    ///
    /// # Errors
    /// The range has fewer than eight addresses.
    pub fn node_address(&self) -> Result<Ipv4Addr, Error> {
        let first = self.pod.nth(1).filter(|_| self.pod.size() >= 8);
        first.ok_or(Error::RangeTooSmall { range: self.pod })
    }
}

/// The address of the cluster's DNS server: the tenth address of the Service range, by convention of
/// Kubernetes. `None` if the range is smaller.
pub fn dns_address(service_range: Cidr) -> Option<Ipv4Addr> {
    service_range.nth(10)
}

/// Chooses the ranges: the configured ranges, or the next ranges that do not overlap `taken`. The ranges in
/// `kept` belong to stopped instances. They are avoided while other ranges are free, unless the user has
/// configured them.
///
/// # Errors
/// A range that the user has configured is in use, or no range of its size is free.
pub fn choose_ranges(
    used: &[UsedRange],
    recorded: &[UsedRange],
    desired: &RequestedRanges,
) -> Result<Ranges, NoFreeRange> {
    let mut used = used.to_vec();
    let service = choose(
        "service",
        &used,
        recorded,
        desired.service,
        desired.service_fixed,
    )?;
    used.push(UsedRange {
        range: service,
        by: "this instance's Services".to_owned(),
    });
    let pod = choose("pod", &used, recorded, desired.pod, desired.pod_fixed)?;
    Ok(Ranges { pod, service })
}

pub(crate) fn choose(
    purpose: &'static str,
    used: &[UsedRange],
    recorded: &[UsedRange],
    desired: Cidr,
    fixed: bool,
) -> Result<Cidr, NoFreeRange> {
    let is_free = |range: &Cidr| user_of(used, *range).is_none();
    let is_recorded = |range: &Cidr| user_of(recorded, *range).is_some();
    let mut all = std::iter::once(desired).chain(candidates(desired));
    let chosen = if fixed {
        Some(desired).filter(is_free)
    } else {
        all.clone()
            .find(|range| is_free(range) && !is_recorded(range))
            .or_else(|| all.find(is_free))
    };
    chosen.ok_or_else(|| NoFreeRange {
        purpose,
        range: desired,
        by: user_of(used, desired).unwrap_or_default().to_owned(),
    })
}

/// The user of a range that overlaps `range`; `None` if there is none.
pub(crate) fn user_of(used_ranges: &[UsedRange], range: Cidr) -> Option<&str> {
    let overlaps =
        |used: &&UsedRange| used.range.prefix() >= ROUTE_PREFIX_MIN && used.range.overlaps(&range);
    used_ranges
        .iter()
        .find(overlaps)
        .map(|used| used.by.as_str())
}

/// Ranges of the size of `desired`: first the later ranges in its pool, then the earlier ranges of its pool, then the
/// ranges of other pools.
fn candidates(desired: Cidr) -> impl Iterator<Item = Cidr> + Clone {
    let pools = || POOLS.iter().filter_map(|text| text.parse::<Cidr>().ok());
    let inside = move |pool: Cidr| {
        let first = Some(Cidr::new(pool.network(), desired.prefix()));
        std::iter::successors(first, Cidr::next)
            .take_while(move |range| pool.contains(range.network()) && pool.contains(range.last()))
    };
    let home: Vec<Cidr> = pools()
        .filter(|pool| pool.contains(desired.network()))
        .collect();
    let after = home
        .clone()
        .into_iter()
        .flat_map(inside)
        .filter(move |range| *range > desired);
    let before = home
        .into_iter()
        .flat_map(inside)
        .filter(move |range| *range < desired);
    let others = pools()
        .filter(move |pool| !pool.contains(desired.network()))
        .flat_map(inside);
    after.chain(before).chain(others)
}

/// Chooses the ranges of an instance, or reads the stored ones, and makes them visible in the kernel (the
/// node's address and the DNS address on `lo`, and the Service route).
///
/// `instances` is the file that lists all instances of the machine, by default
/// [`INSTANCES`](crate::INSTANCES).
///
/// # Errors
/// Another program uses the stored Service range now, a range that the user has configured is in use, or an
/// operation on a file or in the kernel fails.
pub async fn reserve_ranges(
    instance_id: &str,
    state_dir: &Path,
    desired: &RequestedRanges,
    instances: &Path,
) -> Result<Ranges, Error> {
    let _lock = lock().await?;
    let host = Host::connect(instance_id)?;
    let used = host.used_ranges().await?;
    let path = state_dir.join("ranges.json");
    let before = read(&path)?;
    let neighbours = Neighbours::read(instances, &path);
    let recorded = neighbours.ranges();
    let ranges = match before {
        Some(before) => {
            if let Some(by) = user_of(&used, before.service) {
                let by = by.to_owned();
                return Err(Error::ServiceRangeTaken {
                    range: before.service,
                    by,
                });
            }
            let desired = RequestedRanges {
                pod: before.pod,
                service: before.service,
                ..*desired
            };
            // The instance keeps its stored ranges, even if other instances have recorded them, too.
            if choose_ranges(&used, &[], &desired)? == before {
                before
            } else {
                choose_ranges(&used, &recorded, &desired)?
            }
        }
        None => choose_ranges(&used, &recorded, desired)?,
    };
    if before != Some(ranges) {
        write(&path, &ranges)?;
    }
    neighbours.write();
    host.claim(&ranges).await?;
    tracing::info!(pod = %ranges.pod, service = %ranges.service, "ranges reserved");
    Ok(ranges)
}

/// Chooses the ranges of a cluster with several nodes on this machine, or reads the stored ones. They are
/// stored in the file `path`, in the directory of the machine's own range file. The ranges are not visible
/// in the kernel: each node claims its part.
///
/// # Errors
/// A range that the user has configured is in use, or an operation on a file or in the kernel fails.
pub async fn reserve_cluster_ranges(
    instance_id: &str,
    path: &Path,
    desired: &RequestedRanges,
    instances: &Path,
) -> Result<Ranges, Error> {
    let _lock = lock().await?;
    if let Some(before) = read(path)? {
        return Ok(before);
    }
    let used = Host::connect(instance_id)?.used_ranges().await?;
    let neighbours = Neighbours::read(instances, path);
    let ranges = choose_ranges(&used, &neighbours.ranges(), desired)?;
    write(path, &ranges)?;
    neighbours.write();
    Ok(ranges)
}

/// Reads stored ranges; `None` if there are none.
///
/// # Errors
/// The file is damaged or cannot be read.
pub fn read(path: &Path) -> Result<Option<Ranges>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| file("read ranges from", path)(error.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file("read", path)(error)),
    }
}

fn write(path: &Path, ranges: &Ranges) -> Result<(), Error> {
    let dir = path.parent().unwrap_or(Path::new("."));
    create_private(dir).map_err(file("create directory", dir))?;
    let text = serde_json::to_vec(ranges).map_err(|error| file("write", path)(error.into()))?;
    durable_file::replace(path, &text, 0o644, Durability::Name).map_err(file("write", path))
}

/// Waits for the lock that all instances of the machine share. The lock is released when the value is
/// dropped.
pub(crate) async fn lock() -> Result<nix::fcntl::Flock<std::fs::File>, Error> {
    let locked = blocking_value(|| {
        let path = PathBuf::from("/run/mainstay-ranges.lock");
        let lock = std::fs::File::create(&path).map_err(file("create", &path))?;
        nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, errno)| file("lock", &path)(errno.into()))
    });
    locked
        .await
        .map_err(|error| file("lock", "/run/mainstay-ranges.lock")(error.into()))?
}

#[cfg(test)]
mod tests {
    use super::{NoFreeRange, RequestedRanges, UsedRange, choose_ranges};

    fn taken(ranges: &[&str]) -> Vec<UsedRange> {
        let used = |text: &&str| UsedRange {
            range: text.parse().unwrap(),
            by: format!("{text} user"),
        };
        ranges.iter().map(used).collect()
    }

    #[track_caller]
    fn check(used: &[&str], pod: &str, service: &str) {
        let ranges = choose_ranges(&taken(used), &[], &RequestedRanges::default()).unwrap();
        assert_eq!(
            (ranges.pod.to_string(), ranges.service.to_string()),
            (pod.into(), service.into())
        );
    }

    #[test]
    fn the_wanted_ranges_are_used_when_free() {
        check(&[], "10.244.0.0/24", "10.96.0.0/16");
        check(
            &["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"],
            "10.244.0.0/24",
            "10.96.0.0/16",
        );
        check(
            &["192.168.1.0/24", "127.0.0.0/8"],
            "10.244.0.0/24",
            "10.96.0.0/16",
        );
    }

    #[test]
    fn the_next_free_range_follows() {
        check(&["10.244.0.1/32"], "10.244.1.0/24", "10.96.0.0/16");
        check(
            &["10.244.0.1/32", "10.244.1.7/32"],
            "10.244.2.0/24",
            "10.96.0.0/16",
        );
        check(
            &["10.96.0.10/32", "10.97.1.0/24"],
            "10.244.0.0/24",
            "10.98.0.0/16",
        );
        check(&["10.244.0.0/16"], "10.245.0.0/24", "10.96.0.0/16");
        check(
            &["10.240.0.0/12", "10.96.0.0/11"],
            "10.0.0.0/24",
            "10.128.0.0/16",
        );
    }

    #[test]
    fn a_machine_that_routes_all_of_ten_gets_other_private_ranges() {
        check(&["10.0.0.0/8"], "172.17.0.0/24", "172.16.0.0/16");
        check(
            &["10.0.0.0/8", "172.16.0.0/12"],
            "100.64.0.0/24",
            "192.168.0.0/16",
        );
    }

    /// A stopped instance gets its Service addresses again, because the next instance chooses another
    /// range.
    #[test]
    fn what_a_stopped_instance_had_is_left_alone() {
        let recorded = taken(&["10.96.0.0/16", "10.244.0.0/24", "10.244.1.0/24"]);
        let ranges = choose_ranges(&[], &recorded, &RequestedRanges::default()).unwrap();
        assert_eq!(ranges.service.to_string(), "10.97.0.0/16");
        assert_eq!(ranges.pod.to_string(), "10.244.2.0/24");
        let fixed = RequestedRanges {
            pod_fixed: true,
            service_fixed: true,
            ..RequestedRanges::default()
        };
        let ranges = choose_ranges(&[], &recorded, &fixed).unwrap();
        assert_eq!(ranges.service, fixed.service);
        assert_eq!(ranges.pod, fixed.pod);
        let everything = taken(&[
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
        ]);
        let ranges = choose_ranges(&[], &everything, &RequestedRanges::default()).unwrap();
        assert_eq!(ranges.service, RequestedRanges::default().service);
    }

    #[test]
    fn a_fixed_range_is_refused_with_the_name_of_its_user() {
        let desired = RequestedRanges {
            pod_fixed: true,
            ..RequestedRanges::default()
        };
        let error = choose_ranges(&taken(&["10.244.0.0/16"]), &[], &desired).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod range 10.244.0.0/24 is used by 10.244.0.0/16 user"
        );
        let all = taken(&[
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
        ]);
        let error = choose_ranges(&all, &[], &RequestedRanges::default()).unwrap_err();
        assert!(matches!(
            error,
            NoFreeRange {
                purpose: "service",
                ..
            }
        ));
    }
}
