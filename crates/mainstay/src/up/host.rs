//! What `up` needs to know of the machine it runs on.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name in lower case: the node's name.
    pub name: String,
    /// Its addresses, those that others can reach first.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// Asks the kernel.
    pub fn inspect() -> Result<Self> {
        let name = nix::unistd::gethostname().context("the host's name")?;
        let name = name.to_string_lossy().to_ascii_lowercase();
        let mut addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
            .context("the host's addresses")?
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
            })
            .filter(|address| !is_link_local(*address))
            .collect();
        addresses.sort_by_key(|address| (address.is_loopback(), address.is_ipv6()));
        addresses.dedup();
        Ok(Self { name, addresses })
    }

    /// The address by which the node is known: the first that others can reach and that is not
    /// an instance's own, else the given one.
    pub fn node_address(&self, own: &[pod_network::Cidr], otherwise: Ipv4Addr) -> IpAddr {
        let reachable = self
            .addresses
            .iter()
            .copied()
            .find(|address| match address {
                IpAddr::V4(v4) => !v4.is_loopback() && !own.iter().any(|range| range.contains(*v4)),
                IpAddr::V6(_) => false,
            });
        reachable.unwrap_or(IpAddr::V4(otherwise))
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
    fn the_node_s_address_is_not_an_instance_s_own() {
        let host = Host {
            name: "h".to_owned(),
            addresses: vec![
                [10, 244, 0, 1].into(),
                [192, 0, 2, 7].into(),
                [127, 0, 0, 1].into(),
            ],
        };
        let own = ["10.244.0.0/24".parse().unwrap()];
        let fallback = Ipv4Addr::new(10, 244, 0, 1);
        assert_eq!(
            host.node_address(&own, fallback),
            IpAddr::from([192, 0, 2, 7])
        );
        let alone = Host {
            addresses: vec![[127, 0, 0, 1].into()],
            ..host
        };
        assert_eq!(alone.node_address(&own, fallback), IpAddr::from(fallback));
    }
}
