//! The address and the host ports of each pod, stored on disk. Each pod has a small file, whose name is the
//! pod's UID. The first line has the address, and each further line has a port.
//!
//! A file is written under a temporary name and renamed, so that a crash leaves the old or the new state.
//! The file is not synced, because pods do not outlive a power failure, only a crash of the process. A file
//! that has no address of the range is discarded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use host_kernel::durable_file::{self, Durability};
use object_model::cidr::Cidr;
use service_routing::{HostPort, PublishedPort};

use crate::error::{Error, file};

/// The first index in the range that a pod may have: 0 is the network, 1 the node.
const FIRST_POD_INDEX: u32 = 2;

/// The addresses in use, and the start of the search for the next address.
#[derive(Debug)]
pub(crate) struct Addresses {
    dir: PathBuf,
    range: Cidr,
    by_uid: BTreeMap<String, AssignedAddress>,
    next_index: u32,
}

/// The address and host ports of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AssignedAddress {
    ip: Ipv4Addr,
    ports: Vec<HostPort>,
}

impl AssignedAddress {
    /// Parses the output of [`AssignedAddress::text`]. Malformed lines are skipped.
    fn read(text: &str) -> Option<AssignedAddress> {
        let mut lines = text.lines();
        let ip = lines.next()?.trim().parse().ok()?;
        let ports = lines.filter_map(|line| line.parse().ok()).collect();
        Some(AssignedAddress { ip, ports })
    }

    fn text(&self) -> String {
        let ports = self.ports.iter().map(|port| format!("\n{port}"));
        format!("{}{}", self.ip, ports.collect::<String>())
    }
}

/// Creates a directory and its parents, with a mode that denies access to users of the host.
pub(crate) fn create_private(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut private = std::fs::DirBuilder::new();
    private.recursive(true).mode(0o700).create(dir)
}

impl Addresses {
    /// Reads the files; creates the directory if it is missing.
    pub(crate) fn open(dir: &Path, range: Cidr) -> Result<Addresses, Error> {
        create_private(dir).map_err(file("create directory", dir))?;
        let mut by_uid = BTreeMap::new();
        let mut newest = None;
        for entry in std::fs::read_dir(dir).map_err(file("read directory", dir))? {
            let entry = entry.map_err(file("read directory", dir))?;
            let path = entry.path();
            let assigned = std::fs::read_to_string(&path)
                .ok()
                .and_then(|text| AssignedAddress::read(&text))
                .filter(|assigned| range.contains(assigned.ip));
            let name = entry
                .file_name()
                .into_string()
                .ok()
                .filter(|name| valid_uid(name));
            match (name, assigned) {
                (Some(uid), Some(assigned)) => {
                    let written = entry.metadata().and_then(|data| data.modified()).ok();
                    newest = newest.max(written.map(|at| (at, assigned.ip)));
                    by_uid.insert(uid, assigned);
                }
                _ => std::fs::remove_file(&path).map_err(file("remove", &path))?,
            }
        }
        let newest = newest.map_or(0, |(_, address)| index_of(range, address));
        Ok(Addresses {
            dir: dir.to_owned(),
            range,
            by_uid,
            next_index: newest + 1,
        })
    }

    /// Returns the pod's address, and assigns an address if the pod has none. The search for a free address
    /// starts after the last assigned one, so that a released address is not reused at once.
    pub(crate) fn assign(&mut self, uid: &str) -> Result<Ipv4Addr, Error> {
        if let Some(assigned) = self.by_uid.get(uid) {
            return Ok(assigned.ip);
        }
        if !valid_uid(uid) {
            return Err(Error::InvalidUid {
                uid: uid.to_owned(),
            });
        }
        let address = self
            .free_address()
            .ok_or(Error::AddressesExhausted { range: self.range })?;
        let ports = Vec::new();
        self.store(uid, AssignedAddress { ip: address, ports })?;
        self.next_index = index_of(self.range, address) + 1;
        Ok(address)
    }

    fn store(&mut self, uid: &str, assigned: AssignedAddress) -> Result<(), Error> {
        let path = self.dir.join(uid);
        let text = assigned.text();
        durable_file::replace(&path, text.as_bytes(), 0o644, Durability::PageCache)
            .map_err(file("write", &path))?;
        self.by_uid.insert(uid.to_owned(), assigned);
        Ok(())
    }

    /// Replaces the host ports of a pod that has an address.
    pub(crate) fn publish(&mut self, uid: &str, ports: Vec<HostPort>) -> Result<(), Error> {
        match self.by_uid.get(uid) {
            Some(assigned) if assigned.ports != ports => {
                let ip = assigned.ip;
                self.store(uid, AssignedAddress { ip, ports })
            }
            _ => Ok(()),
        }
    }

    /// All host ports of pods, sorted by the UIDs of the pods.
    pub(crate) fn published(&self) -> Vec<PublishedPort> {
        let of = |assigned: &AssignedAddress| {
            let pod = assigned.ip;
            let ports = assigned.ports.clone().into_iter();
            ports.map(move |port| PublishedPort { pod, port })
        };
        self.by_uid.values().flat_map(of).collect()
    }

    fn free_address(&self) -> Option<Ipv4Addr> {
        let used: BTreeSet<Ipv4Addr> = self.by_uid.values().map(|assigned| assigned.ip).collect();
        let end = u32::try_from(self.range.size() - 1).unwrap_or(u32::MAX);
        let start = self.next_index.clamp(FIRST_POD_INDEX, end);
        (start..end)
            .chain(FIRST_POD_INDEX..start)
            .filter_map(|index| self.range.nth(index))
            .find(|address| !used.contains(address))
    }

    /// The pod's address; `None` if the pod has none.
    pub(crate) fn assigned_to(&self, uid: &str) -> Option<Ipv4Addr> {
        self.by_uid.get(uid).map(|assigned| assigned.ip)
    }

    /// Releases the pod's address, which may then be assigned to another pod.
    pub(crate) fn release(&mut self, uid: &str) -> Result<(), Error> {
        if self.by_uid.contains_key(uid) {
            let path = self.dir.join(uid);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file("remove", &path)(error));
                }
                _ => self.by_uid.remove(uid),
            };
        }
        Ok(())
    }

    /// The addresses of all pods, by the UIDs of the pods.
    pub(crate) fn by_uid(&self) -> BTreeMap<String, Ipv4Addr> {
        let assigned = self.by_uid.iter();
        assigned
            .map(|(uid, assigned)| (uid.clone(), assigned.ip))
            .collect()
    }

    /// The UIDs of all pods with an address.
    pub(crate) fn uids(&self) -> BTreeSet<String> {
        self.by_uid.keys().cloned().collect()
    }
}

fn index_of(range: Cidr, address: Ipv4Addr) -> u32 {
    address.to_bits() - range.network().to_bits()
}

/// Whether a UID may be a file name: it must not leave the directory, and the file must not be hidden.
fn valid_uid(uid: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !uid.is_empty() && uid.len() <= 128 && !uid.starts_with('.') && uid.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::Addresses;
    use crate::error::Error;

    fn range() -> object_model::cidr::Cidr {
        "10.244.0.0/29".parse().unwrap()
    }

    #[test]
    fn the_same_uid_gets_the_same_address_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::open(dir.path(), range()).unwrap();
        let first = addresses.assign("a").unwrap();
        let second = addresses.assign("b").unwrap();
        assert_eq!(first.to_string(), "10.244.0.2");
        assert_eq!(addresses.assign("a").unwrap(), first);
        let mut again = Addresses::open(dir.path(), range()).unwrap();
        assert_eq!(again.assigned_to("b"), Some(second));
        assert_eq!(again.assign("a").unwrap(), first);
        assert_eq!(again.assign("c").unwrap().to_string(), "10.244.0.4");
    }

    #[test]
    fn ports_of_the_node_are_kept_with_the_address_and_go_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::open(dir.path(), range()).unwrap();
        addresses.assign("a").unwrap();
        addresses.assign("b").unwrap();
        let ports = ["tcp *:8080 80", "udp 127.0.0.1:53 53"].map(|port| port.parse().unwrap());
        addresses.publish("b", ports.to_vec()).unwrap();
        addresses.publish("unknown", ports.to_vec()).unwrap();
        let mut again = Addresses::open(dir.path(), range()).unwrap();
        let published = again.published();
        assert_eq!(published.len(), 2);
        assert_eq!(addresses.published(), published);
        let pod = again.assigned_to("b").unwrap();
        assert!(published.iter().all(|port| port.pod == pod));
        assert_eq!([published[0].port, published[1].port], ports);
        again.release("b").unwrap();
        assert!(again.published().is_empty());
    }

    #[test]
    fn a_freed_address_is_used_last_and_a_full_range_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::open(dir.path(), range()).unwrap();
        for uid in ["a", "b", "c", "d", "e"] {
            addresses.assign(uid).unwrap();
        }
        assert!(matches!(
            addresses.assign("f"),
            Err(Error::AddressesExhausted { .. })
        ));
        addresses.release("b").unwrap();
        addresses.release("unknown").unwrap();
        assert_eq!(addresses.assign("f").unwrap().to_string(), "10.244.0.3");
        addresses.release("a").unwrap();
        addresses.release("e").unwrap();
        assert_eq!(addresses.assign("g").unwrap().to_string(), "10.244.0.6");
    }

    #[test]
    fn broken_files_and_addresses_of_another_range_are_discarded() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        std::fs::write(dir.path().join("b"), "10.9.0.2").unwrap();
        std::fs::write(dir.path().join(".c"), "10.244.0.3").unwrap();
        let addresses = Addresses::open(dir.path(), range()).unwrap();
        assert!(addresses.uids().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_uid_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::open(dir.path(), range()).unwrap();
        for uid in ["", "../x", ".x", "a/b", "a b"] {
            assert!(
                matches!(addresses.assign(uid), Err(Error::InvalidUid { .. })),
                "{uid}"
            );
        }
    }
}
