//! What `up` needs to know of the machine it runs on.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::net::if_::InterfaceFlags;
use sha2::{Digest, Sha256};

/// The machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name in lower case: the node's name.
    pub name: String,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
    /// The first address of a link to others, if there is one.
    reachable: Option<Ipv4Addr>,
}

impl Host {
    /// Asks the kernel.
    pub fn inspect() -> Result<Self> {
        let name = nix::unistd::gethostname().context("the host's name")?;
        let name = name.to_string_lossy().to_ascii_lowercase();
        let mut addresses = Vec::new();
        let mut reachable = None;
        for interface in nix::ifaddrs::getifaddrs().context("the host's addresses")? {
            let Some(address) = interface.address else {
                continue;
            };
            let v4 = address.as_sockaddr_in().map(|address| address.ip());
            let v6 = address.as_sockaddr_in6().map(|address| address.ip());
            let Some(address) = v4.map(IpAddr::V4).or(v6.map(IpAddr::V6)) else {
                continue;
            };
            if is_link_local(address) {
                continue;
            }
            addresses.push(address);
            // Other instances keep addresses of their own on `lo`.
            let outward = !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            reachable = reachable.or(v4.filter(|_| outward));
        }
        Ok(Self {
            name,
            addresses,
            reachable,
        })
    }

    /// The address by which the node is known: one that others can reach, else the given one.
    pub fn node_address(&self, otherwise: Ipv4Addr) -> IpAddr {
        IpAddr::V4(self.reachable.unwrap_or(otherwise))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Refuses to go on without root, and says why and how.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "`mainstay up` must run as root: it makes namespaces, mounts, control groups and network \
         rules for the pods. Start it with sudo; kubectl then needs no root, only a copy of the \
         kubeconfig that `sudo mainstay kubeconfig` prints"
    )
}

/// Six hexadecimal digits that tell the instances of one machine apart: one per data directory.
pub fn instance_id(data_dir: &Path) -> String {
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    digest
        .iter()
        .take(3)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_told_apart_by_their_directory() {
        let id = instance_id(Path::new("/var/lib/mainstay"));
        assert_eq!(id.len(), 6);
        assert_eq!(id, instance_id(Path::new("/var/lib/mainstay")));
        assert_ne!(id, instance_id(Path::new("/srv/mainstay")));
    }

    #[test]
    fn the_node_s_address_is_one_that_others_can_reach() {
        let alone = Host {
            name: "h".to_owned(),
            addresses: Vec::new(),
            reachable: None,
        };
        let fallback = Ipv4Addr::new(10, 244, 0, 1);
        assert_eq!(alone.node_address(fallback), IpAddr::from(fallback));
        let linked = Host {
            reachable: Some([192, 0, 2, 7].into()),
            ..alone
        };
        assert_eq!(linked.node_address(fallback), IpAddr::from([192, 0, 2, 7]));
    }

    #[test]
    fn this_machine_can_be_inspected() {
        let host = Host::inspect().unwrap();
        assert!(!host.name.is_empty());
        assert!(
            host.addresses.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)),
            "{host:?}"
        );
    }
}
