//! The name and the addresses of the machine.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::net::if_::InterfaceFlags;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Interval of the checks of the machine's addresses.
const ADDRESS_CHECK: Duration = Duration::from_secs(5);

/// The name and the addresses of the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// The machine's name in lower case, which is also the node's name.
    pub name: String,
    /// The machine's addresses, without link-local addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses of links to other machines.
    outward: Vec<IpAddr>,
}

impl Host {
    /// Reads the addresses of the machine from the kernel.
    pub fn inspect() -> Result<Self> {
        let name = nix::unistd::gethostname().context("read the host's name")?;
        let name = name.to_string_lossy().to_ascii_lowercase();
        let mut addresses = Vec::new();
        let mut outward = Vec::new();
        for interface in nix::ifaddrs::getifaddrs().context("read the host's addresses")? {
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
            // Addresses on `lo` may be those of instances.
            if !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                outward.push(address);
            }
        }
        Ok(Self {
            name,
            addresses,
            outward,
        })
    }

    /// The first IPv4 address that other machines can reach.
    pub fn reachable_v4(&self) -> Option<Ipv4Addr> {
        self.outward.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// The node's address: an address that other machines can reach, else `otherwise`.
    pub fn node_address(&self, otherwise: Ipv4Addr) -> IpAddr {
        self.reachable_v4().unwrap_or(otherwise).into()
    }
}

/// The address of the node on this machine; it may change.
pub struct NodeAddress {
    now: watch::Sender<IpAddr>,
    otherwise: Ipv4Addr,
}

impl NodeAddress {
    /// The address of the node: an address that other machines can reach, else `otherwise`.
    pub fn of(host: &Host, otherwise: Ipv4Addr) -> Self {
        Self {
            now: watch::Sender::new(host.node_address(otherwise)),
            otherwise,
        }
    }

    /// An address that never changes.
    pub fn fixed(address: IpAddr) -> Self {
        Self {
            now: watch::Sender::new(address),
            otherwise: Ipv4Addr::LOCALHOST,
        }
    }

    /// A receiver of the address and of its changes.
    pub fn subscribe(&self) -> watch::Receiver<IpAddr> {
        self.now.subscribe()
    }

    /// Updates the address after a change of the machine. Returns whether the node's address has changed.
    pub fn follow(&self, host: &Host) -> bool {
        let now = host.node_address(self.otherwise);
        self.now
            .send_if_modified(|address| std::mem::replace(address, now) != now)
    }
}

/// Checks the machine's addresses periodically until `stop`, and reports changes.
pub async fn follow(current: Host, stop: CancellationToken, mut report: impl FnMut(&Host)) {
    let mut watched = Watched::new(current);
    let mut tick = interval(ADDRESS_CHECK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        match Host::inspect() {
            Ok(observed) => {
                if let Some(host) = watched.observe(observed) {
                    report(host);
                }
            }
            Err(error) => tracing::warn!("the machine's addresses are not known: {error:#}"),
        }
    }
}

/// The machine's addresses. New addresses are accepted at the second check: during a change the machine may
/// have no address, or only that of a link that is not reachable from outside.
struct Watched {
    current: Host,
    last: Host,
}

impl Watched {
    fn new(current: Host) -> Self {
        Self {
            last: current.clone(),
            current,
        }
    }

    /// Compares the stored addresses with those of a check; returns the machine if a change is accepted.
    fn observe(&mut self, observed: Host) -> Option<&Host> {
        let settled = observed.outward == self.last.outward;
        self.last = observed;
        if !settled || self.last.outward == self.current.outward {
            return None;
        }
        self.current = self.last.clone();
        Some(&self.current)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Fails without the rights of root; the error names the command to use.
pub fn require_root(command: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "`mainstay {command}` must run as root: it makes namespaces, mounts, control groups and network \
         rules for the pods. Start it with sudo; kubectl then needs no root, only a copy of the \
         kubeconfig that `sudo mainstay kubeconfig` prints"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_s_address_is_one_that_others_can_reach() {
        let alone = Host {
            name: "h".to_owned(),
            addresses: Vec::new(),
            outward: Vec::new(),
        };
        let fallback = Ipv4Addr::new(10, 244, 0, 1);
        assert_eq!(alone.node_address(fallback), IpAddr::from(fallback));
        let linked = Host {
            outward: vec![
                "2001:db8::7".parse().unwrap(),
                [192, 0, 2, 7].into(),
                [192, 0, 2, 8].into(),
            ],
            ..alone
        };
        assert_eq!(linked.node_address(fallback), IpAddr::from([192, 0, 2, 7]));
    }

    #[test]
    fn other_addresses_count_when_they_stay() {
        let with = |last: &[u8]| Host {
            name: "h".to_owned(),
            addresses: Vec::new(),
            outward: last.iter().map(|last| [192, 0, 2, *last].into()).collect(),
        };
        let mut watched = Watched::new(with(&[7]));
        for (observed, reported) in [
            (with(&[7]), false),
            (with(&[]), false),
            (with(&[7]), false),
            (with(&[]), false),
            (with(&[8]), false),
            (with(&[8]), true),
            (with(&[8]), false),
            (with(&[]), false),
            (with(&[]), true),
        ] {
            let host = watched.observe(observed.clone());
            assert_eq!(host, reported.then_some(&observed), "{observed:?}");
        }
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
