//! Ways to the pods of other nodes: routes on the link that two nodes share, a VXLAN tunnel otherwise.
//!
//! The decision is [`plan()`], over plain data; `kernel` reads the machine and carries the plan out.
//! A node derives the hardware address of its tunnel from its range of pods, so nodes need to know
//! nothing of each other but their Node objects.

pub(crate) mod kernel;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use object_model::cidr::Cidr;

/// Bytes that VXLAN adds to a packet over IPv4: Ethernet, IP, UDP and its own header (RFC 7348).
const VXLAN_BYTES: u32 = 50;

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node's name.
    pub name: String,
    /// Its `InternalIP`.
    pub address: Ipv4Addr,
    /// Its range of pods (`spec.podCIDR`).
    pub range: Cidr,
}

/// The transport of packets between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerTransport {
    /// Routes to nodes on a link of this one, VXLAN to the others.
    #[default]
    Auto,
    /// Routes to nodes on a link of this one; routers of the network know the ranges of the others.
    Route,
    /// VXLAN to all nodes.
    Vxlan,
}

/// The settings of the ways to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The address of this node towards the others (`InternalIP`).
    pub node_ip: Ipv4Addr,
    /// The range of all pods; a peer with a range outside of it gets no way.
    pub cluster_range: Cidr,
    /// The transport.
    pub transport: PeerTransport,
    /// The number of the virtual network, below 2^24; the same on all nodes.
    pub vni: u32,
    /// The UDP port of tunnels, the same on all nodes.
    pub port: u16,
}

impl PeerSettings {
    /// Settings with the transport by link, and with flannel's number and port, which are Linux' own
    /// default (4789 is IANA's).
    pub fn new(node_ip: Ipv4Addr, cluster_range: Cidr) -> Self {
        Self {
            node_ip,
            cluster_range,
            transport: PeerTransport::Auto,
            vni: 1,
            port: 8472,
        }
    }
}

/// A peer without a way, or with one that is another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreachedPeer {
    /// The node's name.
    pub name: String,
    /// The cause, for instance `its range 10.244.0.0/24 is also the range of node a`.
    pub cause: String,
}

/// A link of the machine with its IPv4 addresses and their prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<(Ipv4Addr, u8)>,
}

/// The way to the pods of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The peer is the next hop on a link.
    Link { via: Ipv4Addr, index: u32 },
    /// The tunnel ends at this address.
    Tunnel { end: Ipv4Addr },
}

/// The tunnel device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) local: Ipv4Addr,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) vni: u32,
    pub(crate) port: u16,
}

/// Everything that the kernel should have for the peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ways: BTreeMap<Cidr, Way>,
    pub(crate) tunnel: Option<Tunnel>,
    /// The largest packet that passes all ways; none without ways.
    pub(crate) mtu: Option<u32>,
    pub(crate) unreached: Vec<UnreachedPeer>,
}

/// The hardware address of the tunnel of the node with this range: locally administered, unicast.
pub(crate) fn tunnel_mac(range: Cidr) -> [u8; 6] {
    let [a, b, c, d] = range.network().octets();
    [0x0a, 0x59, a, b, c, d]
}

/// Plans the ways from the node with the range `own` to its peers.
pub(crate) fn plan(own: Cidr, settings: &PeerSettings, links: &[Link], peers: &[Peer]) -> Plan {
    let mut plan = Plan {
        ways: BTreeMap::new(),
        tunnel: None,
        mtu: None,
        unreached: Vec::new(),
    };
    let mut accepted: Vec<&Peer> = Vec::new();
    let mut sorted: Vec<&Peer> = peers.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    for peer in sorted {
        match refusal(own, settings, &accepted, peer) {
            None => accepted.push(peer),
            Some(cause) => plan.unreached.push(UnreachedPeer {
                name: peer.name.clone(),
                cause,
            }),
        }
    }
    let underlay = links.iter().find(|link| {
        let mut addresses = link.addresses.iter();
        addresses.any(|(address, _)| *address == settings.node_ip)
    });
    let tunnel = underlay.map(|link| Tunnel {
        local: settings.node_ip,
        mac: tunnel_mac(own),
        mtu: link.mtu.saturating_sub(VXLAN_BYTES),
        vni: settings.vni,
        port: settings.port,
    });
    for peer in accepted {
        let shared = shared_link(links, peer.address);
        let (way, mtu) = match (settings.transport, shared, tunnel) {
            (PeerTransport::Auto | PeerTransport::Route, Some(link), _) => {
                let (via, index) = (peer.address, link.index);
                (Way::Link { via, index }, link.mtu)
            }
            // The routers of the network know the way.
            (PeerTransport::Route, None, _) => continue,
            (PeerTransport::Auto | PeerTransport::Vxlan, _, Some(tunnel)) => {
                plan.tunnel = Some(tunnel);
                (Way::Tunnel { end: peer.address }, tunnel.mtu)
            }
            (PeerTransport::Auto | PeerTransport::Vxlan, _, None) => {
                plan.unreached.push(UnreachedPeer {
                    name: peer.name.clone(),
                    cause: format!("no link of this machine has {}", settings.node_ip),
                });
                continue;
            }
        };
        plan.ways.insert(peer.range, way);
        plan.mtu = Some(plan.mtu.map_or(mtu, |least| least.min(mtu)));
    }
    plan
}

/// The cause for which a peer gets no way: a Node object must not lead other traffic to its node.
fn refusal(own: Cidr, settings: &PeerSettings, accepted: &[&Peer], peer: &Peer) -> Option<String> {
    let (range, cluster) = (peer.range, settings.cluster_range);
    let inside = cluster.contains(range.network()) && range.prefix() >= cluster.prefix();
    if !inside {
        return Some(format!(
            "its range {range} is not in the range of all pods, {cluster}"
        ));
    }
    if range.overlaps(&own) {
        return Some(format!("its range {range} is also the range of this node"));
    }
    if peer.address == settings.node_ip {
        return Some(format!(
            "its address {} is also the address of this node",
            peer.address
        ));
    }
    let other = accepted.iter().find(|other| other.range.overlaps(&range));
    other.map(|other| format!("its range {range} is also the range of node {}", other.name))
}

/// The link that has the peer's address in its narrowest subnet. An address with 32 leading bits has
/// no subnet: some clouds give these out, and deliver nothing that their router does not know.
fn shared_link(links: &[Link], address: Ipv4Addr) -> Option<&Link> {
    let subnets = links.iter().flat_map(|link| {
        let ranges = link.addresses.iter();
        ranges.map(move |(own, prefix)| (Cidr::new(*own, *prefix), link))
    });
    subnets
        .filter(|(subnet, _)| subnet.prefix() < 32 && subnet.contains(address))
        .max_by_key(|(subnet, _)| subnet.prefix())
        .map(|(_, link)| link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn settings(transport: PeerTransport) -> PeerSettings {
        PeerSettings {
            transport,
            ..PeerSettings::new(ip("192.0.2.1"), cidr("10.244.0.0/16"))
        }
    }

    fn links() -> Vec<Link> {
        let link = |index, mtu, addresses: &[(&str, u8)]| Link {
            index,
            mtu,
            addresses: addresses
                .iter()
                .map(|(text, prefix)| (ip(text), *prefix))
                .collect(),
        };
        vec![
            link(2, 1500, &[("192.0.2.1", 24)]),
            link(3, 9000, &[("203.0.113.1", 28), ("198.51.100.1", 32)]),
        ]
    }

    fn peer(name: &str, address: &str, range: &str) -> Peer {
        Peer {
            name: name.to_owned(),
            address: ip(address),
            range: cidr(range),
        }
    }

    fn planned(transport: PeerTransport, peers: &[Peer]) -> Plan {
        plan(cidr("10.244.0.0/24"), &settings(transport), &links(), peers)
    }

    #[test]
    fn neighbours_get_routes_and_the_others_the_tunnel() {
        let near = peer("near", "192.0.2.9", "10.244.1.0/24");
        let far = peer("far", "198.51.100.7", "10.244.2.0/24");
        let both = [near.clone(), far];
        let route = Way::Link {
            via: near.address,
            index: 2,
        };
        let found = planned(PeerTransport::Auto, &both);
        assert_eq!(found.ways[&near.range], route);
        let end = ip("198.51.100.7");
        assert_eq!(found.ways[&cidr("10.244.2.0/24")], Way::Tunnel { end });
        let tunnel = found.tunnel.unwrap();
        assert_eq!((tunnel.mtu, tunnel.local), (1450, ip("192.0.2.1")));
        assert_eq!((found.mtu, found.unreached), (Some(1450), Vec::new()));
        // The MTU is full without a peer behind the tunnel.
        let found = planned(PeerTransport::Auto, &both[..1]);
        assert_eq!((found.tunnel, found.mtu), (None, Some(1500)));
        let found = planned(PeerTransport::Route, &both);
        assert_eq!(found.ways, BTreeMap::from([(near.range, route)]));
        assert_eq!(found.tunnel, None);
        let found = planned(PeerTransport::Vxlan, &both);
        let ways: Vec<&Way> = found.ways.values().collect();
        assert!(ways.iter().all(|way| matches!(way, Way::Tunnel { .. })) && ways.len() == 2);
        assert_eq!(planned(PeerTransport::Auto, &[]).mtu, None);
    }

    #[test]
    fn the_narrowest_subnet_decides() {
        let mut links = links();
        links[0].addresses.push((ip("203.0.113.200"), 24));
        let near = peer("near", "203.0.113.2", "10.244.1.0/24");
        let own = cidr("10.244.0.0/24");
        let found = plan(own, &settings(PeerTransport::Auto), &links, &[near]);
        assert!(matches!(
            found.ways[&cidr("10.244.1.0/24")],
            Way::Link { index: 3, .. }
        ));
    }

    #[test]
    fn a_node_object_leads_no_other_traffic_to_its_node() {
        let peers = [
            peer("all", "192.0.2.9", "0.0.0.0/0"),
            peer("outside", "192.0.2.9", "192.168.0.0/24"),
            peer("mine", "192.0.2.9", "10.244.0.128/25"),
            peer("me", "192.0.2.1", "10.244.9.0/24"),
            peer("b", "192.0.2.3", "10.244.1.0/24"),
            peer("a", "192.0.2.2", "10.244.1.0/24"),
        ];
        let found = planned(PeerTransport::Auto, &peers);
        let route = Way::Link {
            via: ip("192.0.2.2"),
            index: 2,
        };
        assert_eq!(found.ways, BTreeMap::from([(cidr("10.244.1.0/24"), route)]));
        let names: Vec<&str> = found
            .unreached
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, ["all", "b", "me", "mine", "outside"]);
        assert_eq!(
            found.unreached[1].cause,
            "its range 10.244.1.0/24 is also the range of node a"
        );
    }

    #[test]
    fn a_tunnel_needs_the_address_of_the_node() {
        let far = [peer("far", "198.51.100.7", "10.244.2.0/24")];
        let own = cidr("10.244.0.0/24");
        let found = plan(own, &settings(PeerTransport::Auto), &[], &far);
        assert_eq!(
            found.unreached[0].cause,
            "no link of this machine has 192.0.2.1"
        );
        assert_eq!((found.ways.len(), found.tunnel), (0, None));
    }
}
