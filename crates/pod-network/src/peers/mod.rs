//! Routes to the pods of other nodes: plain routes if two nodes share a link, otherwise a VXLAN tunnel.
//!
//! [`plan()`] decides, from plain data. `kernel` reads the machine and executes the plan. The hardware
//! address of a node's tunnel is computed from the node's pod range, so nodes need only the Node objects of
//! each other.

pub(crate) mod kernel;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use object_model::cidr::Cidr;
use object_model::dialling::special;
use service_routing::TunnelGuard;

use crate::wireguard::{PeerEncryption, PublicKey, TunnelEnd, TunnelPeer, WIREGUARD_BYTES};

/// Bytes that VXLAN adds to a packet over IPv4: the headers of Ethernet, IP, UDP and VXLAN (RFC 7348).
const VXLAN_BYTES: u32 = 50;

/// The MTU of Ethernet, for an unknown link to other nodes.
const ETHERNET_MTU: u32 = 1500;

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    pub address: Ipv4Addr,
    /// The node's pod range (`spec.podCIDR`).
    pub range: Cidr,
    /// Whether and how traffic to the node is encrypted.
    pub encryption: PeerEncryption,
}

/// The encryption of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encrypting {
    pub(crate) end: TunnelEnd,
    pub(crate) cluster_range: Cidr,
}

/// The transport of packets between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerTransport {
    /// Plain routes to nodes on a shared link, VXLAN to other nodes.
    #[default]
    Auto,
    /// Plain routes to nodes on a shared link. The routers of the network have the ranges of other nodes.
    Route,
    /// VXLAN to all nodes.
    Vxlan,
}

/// The settings of the routes to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The address of this node for other nodes (`InternalIP`).
    pub node_ip: Ipv4Addr,
    /// The range of all pods. A peer with a range outside of it gets no route.
    pub cluster_range: Cidr,
    pub transport: PeerTransport,
    /// The number of the virtual network, below 2^24; equal on all nodes.
    pub vni: u32,
    /// The UDP port of tunnels, equal on all nodes.
    pub port: u16,
}

impl PeerSettings {
    /// Settings with the transport `Auto`, and with the number and port of flannel, which are the defaults
    /// of Linux (IANA's port is 4789).
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

/// A peer without a route, or with a route of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreachedPeer {
    pub name: String,
    /// The cause, for instance `its range 10.244.0.0/24 is also the range of node a`.
    pub cause: String,
}

/// A link of the machine with its IPv4 addresses and their prefix lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<(Ipv4Addr, u8)>,
}

/// The route to the pods of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerRoute {
    /// The peer is the next hop on a shared link.
    Link { via: Ipv4Addr, index: u32 },
    /// The tunnel ends at this address.
    Tunnel { end: Ipv4Addr },
    /// The encrypted tunnel, whose device has the peer's key.
    Encrypted,
    /// Senders get the error that the pods are unreachable.
    Unreachable,
}

/// The WireGuard tunnel to all encrypted peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncryptedTunnel {
    pub(crate) mtu: u32,
    pub(crate) peers: BTreeMap<PublicKey, TunnelPeer>,
}

/// The VXLAN device of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) local: Ipv4Addr,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) vni: u32,
    pub(crate) port: u16,
}

/// The desired state of the kernel for the peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeersPlan {
    pub(crate) routes: BTreeMap<Cidr, PeerRoute>,
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) encrypted: Option<EncryptedTunnel>,
    /// The largest packet that all paths support; `None` if there are no paths.
    pub(crate) mtu: Option<u32>,
    pub(crate) unreached: Vec<UnreachedPeer>,
}

/// The hardware address of the tunnel of the node with this range: locally administered, unicast.
pub(crate) fn tunnel_mac(range: Cidr) -> [u8; 6] {
    let [a, b, c, d] = range.network().octets();
    [0x0a, 0x59, a, b, c, d]
}

/// Plans the routes to peers, for the node with the range `local_range`. A node that encrypts has only encrypted
/// routes, and no packet to another pod takes a route outside of the plan. A node that does not encrypt has
/// no route to nodes that encrypt.
pub(crate) fn plan(
    local_range: Cidr,
    encrypting: Option<Encrypting>,
    settings: &PeerSettings,
    links: &[Link],
    peers: &[Peer],
) -> PeersPlan {
    let mut plan = PeersPlan {
        routes: BTreeMap::new(),
        tunnel: None,
        encrypted: None,
        mtu: None,
        unreached: Vec::new(),
    };
    let mut accepted: Vec<&Peer> = Vec::new();
    let mut sorted: Vec<&Peer> = peers.iter().collect();
    sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for peer in sorted {
        match refusal(local_range, settings, &accepted, peer) {
            None => accepted.push(peer),
            Some(cause) => plan.refuse(peer, cause),
        }
    }
    let underlay = links.iter().find(|link| {
        let mut addresses = link.addresses.iter();
        addresses.any(|(address, _)| *address == settings.node_ip)
    });
    if let Some(encrypting) = encrypting {
        plan.encrypt(encrypting, underlay, links, &accepted);
        return plan;
    }
    let tunnel = underlay.map(|link| Tunnel {
        local: settings.node_ip,
        mac: tunnel_mac(local_range),
        mtu: link.mtu.saturating_sub(VXLAN_BYTES),
        vni: settings.vni,
        port: settings.port,
    });
    for peer in accepted {
        if peer.encryption != PeerEncryption::Off {
            let cause = "it encrypts the traffic of pods, and this node does not: start this node with \
                         --encrypt-pod-traffic";
            plan.refuse(peer, cause.to_owned());
            plan.routes.insert(peer.range, PeerRoute::Unreachable);
            continue;
        }
        let shared = shared_link(links, peer.address);
        let (route, mtu) = match (settings.transport, shared, tunnel) {
            (PeerTransport::Auto | PeerTransport::Route, Some(link), _) => {
                let (via, index) = (peer.address, link.index);
                (PeerRoute::Link { via, index }, link.mtu)
            }
            // The routers of the network have the route.
            (PeerTransport::Route, None, _) => continue,
            (PeerTransport::Auto | PeerTransport::Vxlan, _, Some(tunnel)) => {
                plan.tunnel = Some(tunnel);
                (PeerRoute::Tunnel { end: peer.address }, tunnel.mtu)
            }
            (PeerTransport::Auto | PeerTransport::Vxlan, _, None) => {
                let cause = format!("no link of this machine has {}", settings.node_ip);
                plan.refuse(peer, cause);
                continue;
            }
        };
        plan.routes.insert(peer.range, route);
        plan.mtu = Some(plan.mtu.map_or(mtu, |least| least.min(mtu)));
    }
    plan
}

impl PeersPlan {
    /// The tunnel and the addresses of its other ends; `None` if there is no tunnel.
    pub(crate) fn guard(&self) -> Option<TunnelGuard> {
        let tunnel = self.tunnel?;
        Some(TunnelGuard {
            port: tunnel.port,
            number: tunnel.vni,
            ends: self.tunnelled().map(|(_, end)| end).collect(),
        })
    }

    /// The ranges behind the tunnel, with the addresses of their ends.
    pub(crate) fn tunnelled(&self) -> impl Iterator<Item = (Cidr, Ipv4Addr)> + '_ {
        self.routes.iter().filter_map(|(range, route)| match route {
            PeerRoute::Tunnel { end } => Some((*range, *end)),
            PeerRoute::Link { .. } | PeerRoute::Encrypted | PeerRoute::Unreachable => None,
        })
    }

    fn refuse(&mut self, peer: &Peer, cause: String) {
        let name = peer.name.clone();
        self.unreached.push(UnreachedPeer { name, cause });
    }

    /// Adds encrypted routes to the peers with keys, and unreachable routes for all other pod addresses.
    fn encrypt(
        &mut self,
        local: Encrypting,
        underlay: Option<&Link>,
        links: &[Link],
        accepted: &[&Peer],
    ) {
        let mut link_mtu = underlay.map_or(ETHERNET_MTU, |link| link.mtu);
        let mut peers: BTreeMap<PublicKey, TunnelPeer> = BTreeMap::new();
        let mut owners = BTreeMap::from([(local.end.key, "this node".to_owned())]);
        self.routes
            .insert(local.cluster_range, PeerRoute::Unreachable);
        for peer in accepted {
            let end = match &peer.encryption {
                PeerEncryption::On(end) => *end,
                PeerEncryption::Off => {
                    let cause = "this node encrypts the traffic of pods, and that one does not: start it \
                                 with --encrypt-pod-traffic";
                    self.refuse(peer, cause.to_owned());
                    continue;
                }
                PeerEncryption::Unreadable(cause) => {
                    self.refuse(peer, cause.clone());
                    continue;
                }
            };
            // The device would treat two peers with one key as one peer.
            if let Some(owner) = owners.get(&end.key) {
                self.refuse(peer, format!("its public key is also that of {owner}"));
                continue;
            }
            owners.insert(end.key, format!("node {}", peer.name));
            let tunnel_peer = TunnelPeer {
                endpoint: SocketAddrV4::new(peer.address, end.port),
                allowed: [peer.range].into(),
            };
            peers.insert(end.key, tunnel_peer);
            self.routes.insert(peer.range, PeerRoute::Encrypted);
            let shared = shared_link(links, peer.address);
            link_mtu = shared.map_or(link_mtu, |link| link_mtu.min(link.mtu));
        }
        let mtu = link_mtu.saturating_sub(WIREGUARD_BYTES);
        self.encrypted = Some(EncryptedTunnel { mtu, peers });
        self.mtu = Some(mtu);
    }
}

/// The reason why a peer gets no route; `None` if it may have one. A Node object must not redirect other
/// traffic to its node.
fn refusal(
    local_range: Cidr,
    settings: &PeerSettings,
    accepted: &[&Peer],
    peer: &Peer,
) -> Option<String> {
    let (range, cluster) = (peer.range, settings.cluster_range);
    let inside = cluster.contains(range.network()) && range.prefix() >= cluster.prefix();
    if !inside {
        return Some(format!(
            "its range {range} is not in the range of all pods, {cluster}"
        ));
    }
    if range.overlaps(&local_range) {
        return Some(format!("its range {range} is also the range of this node"));
    }
    if cluster.contains(peer.address) || special(peer.address.into()).is_some() {
        return Some(format!(
            "its address {} is that of a pod, or of no host",
            peer.address
        ));
    }
    if peer.address == settings.node_ip {
        return Some(format!(
            "its address {} is also the address of this node",
            peer.address
        ));
    }
    let neighbour = accepted
        .iter()
        .find(|neighbour| neighbour.range.overlaps(&range));
    neighbour.map(|neighbour| {
        format!(
            "its range {range} is also the range of node {}",
            neighbour.name
        )
    })
}

/// The link whose smallest subnet contains the peer's address. An address with 32 leading bits has no
/// subnet: some clouds assign such addresses, and deliver only packets that their router can route.
fn shared_link(links: &[Link], address: Ipv4Addr) -> Option<&Link> {
    let subnets = links.iter().flat_map(|link| {
        let ranges = link.addresses.iter();
        ranges.map(move |(address, prefix)| (Cidr::new(*address, *prefix), link))
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
            encryption: PeerEncryption::Off,
        }
    }

    fn planned(transport: PeerTransport, peers: &[Peer]) -> PeersPlan {
        let local_range = cidr("10.244.0.0/24");
        plan(local_range, None, &settings(transport), &links(), peers)
    }

    #[test]
    fn neighbours_get_routes_and_the_others_the_tunnel() {
        let near = peer("near", "192.0.2.9", "10.244.1.0/24");
        let far = peer("far", "198.51.100.7", "10.244.2.0/24");
        let both = [near.clone(), far];
        let route = PeerRoute::Link {
            via: near.address,
            index: 2,
        };
        let plan = planned(PeerTransport::Auto, &both);
        assert_eq!(plan.routes[&near.range], route);
        let end = ip("198.51.100.7");
        assert_eq!(
            plan.routes[&cidr("10.244.2.0/24")],
            PeerRoute::Tunnel { end }
        );
        let tunnel = plan.tunnel.unwrap();
        assert_eq!((tunnel.mtu, tunnel.local), (1450, ip("192.0.2.1")));
        assert_eq!((plan.mtu, plan.unreached), (Some(1450), Vec::new()));
        // Without a peer behind the tunnel, the MTU is not reduced.
        let plan = planned(PeerTransport::Auto, &both[..1]);
        assert_eq!((plan.tunnel, plan.mtu), (None, Some(1500)));
        let plan = planned(PeerTransport::Route, &both);
        assert_eq!(plan.routes, BTreeMap::from([(near.range, route)]));
        assert_eq!(plan.tunnel, None);
        let plan = planned(PeerTransport::Vxlan, &both);
        let routes: Vec<&PeerRoute> = plan.routes.values().collect();
        assert!(
            routes
                .iter()
                .all(|route| matches!(route, PeerRoute::Tunnel { .. }))
                && routes.len() == 2
        );
        assert_eq!(planned(PeerTransport::Auto, &[]).mtu, None);
    }

    #[test]
    fn the_narrowest_subnet_decides() {
        let mut links = links();
        links[0].addresses.push((ip("203.0.113.200"), 24));
        let near = peer("near", "203.0.113.2", "10.244.1.0/24");
        let local_range = cidr("10.244.0.0/24");
        let peers_plan = plan(
            local_range,
            None,
            &settings(PeerTransport::Auto),
            &links,
            &[near],
        );
        assert!(matches!(
            peers_plan.routes[&cidr("10.244.1.0/24")],
            PeerRoute::Link { index: 3, .. }
        ));
    }

    // findings-2 S34
    #[test]
    fn a_node_object_leads_no_other_traffic_to_its_node() {
        let peers = [
            peer("all", "192.0.2.9", "0.0.0.0/0"),
            peer("outside", "192.0.2.9", "192.168.0.0/24"),
            peer("mine", "192.0.2.9", "10.244.0.128/25"),
            peer("me", "192.0.2.1", "10.244.9.0/24"),
            peer("nobody", "127.0.0.1", "10.244.7.0/24"),
            peer("pod", "10.244.3.7", "10.244.8.0/24"),
            peer("b", "192.0.2.3", "10.244.1.0/24"),
            peer("a", "192.0.2.2", "10.244.1.0/24"),
        ];
        let plan = planned(PeerTransport::Auto, &peers);
        let route = PeerRoute::Link {
            via: ip("192.0.2.2"),
            index: 2,
        };
        assert_eq!(
            plan.routes,
            BTreeMap::from([(cidr("10.244.1.0/24"), route)])
        );
        let names: Vec<&str> = plan
            .unreached
            .iter()
            .map(|peer| peer.name.as_str())
            .collect();
        let refused = ["all", "b", "me", "mine", "nobody", "outside", "pod"];
        assert_eq!(names, refused);
        assert_eq!(
            plan.unreached[1].cause,
            "its range 10.244.1.0/24 is also the range of node a"
        );
    }

    #[test]
    fn a_tunnel_needs_the_address_of_the_node() {
        let far = [peer("far", "198.51.100.7", "10.244.2.0/24")];
        let local_range = cidr("10.244.0.0/24");
        let peers_plan = plan(local_range, None, &settings(PeerTransport::Auto), &[], &far);
        assert_eq!(
            peers_plan.unreached[0].cause,
            "no link of this machine has 192.0.2.1"
        );
        assert_eq!((peers_plan.routes.len(), peers_plan.tunnel), (0, None));
    }

    fn encrypted(name: &str, address: &str, range: &str, key: u8) -> Peer {
        let end = TunnelEnd {
            key: PublicKey([key; 32]),
            port: 51820,
        };
        Peer {
            encryption: PeerEncryption::On(end),
            ..peer(name, address, range)
        }
    }

    fn encrypting(peers: &[Peer]) -> PeersPlan {
        let local = Encrypting {
            end: TunnelEnd {
                key: PublicKey([1; 32]),
                port: 51820,
            },
            cluster_range: cidr("10.244.0.0/16"),
        };
        let settings = settings(PeerTransport::Auto);
        plan(
            cidr("10.244.0.0/24"),
            Some(local),
            &settings,
            &links(),
            peers,
        )
    }

    /// docs/many-machines.md: a node that encrypts has no plain route, neither to a peer nor to an
    /// unassigned address.
    #[test]
    fn a_node_that_encrypts_has_encrypted_ways_alone() {
        let unreadable = Peer {
            encryption: PeerEncryption::Unreadable("odd".to_owned()),
            ..peer("odd", "192.0.2.6", "10.244.6.0/24")
        };
        let plan = encrypting(&[
            encrypted("far", "198.51.100.7", "10.244.2.0/24", 3),
            encrypted("near", "192.0.2.9", "10.244.1.0/24", 2),
            encrypted("same", "192.0.2.8", "10.244.3.0/24", 2),
            encrypted("self", "192.0.2.7", "10.244.5.0/24", 1),
            peer("plain", "192.0.2.5", "10.244.4.0/24"),
            unreadable,
        ]);
        let routes = [
            ("10.244.0.0/16", PeerRoute::Unreachable),
            ("10.244.1.0/24", PeerRoute::Encrypted),
            ("10.244.2.0/24", PeerRoute::Encrypted),
        ];
        assert_eq!(
            plan.routes,
            routes.map(|(range, route)| (cidr(range), route)).into()
        );
        let unreached: Vec<(&str, &str)> = plan
            .unreached
            .iter()
            .map(|peer| (peer.name.as_str(), peer.cause.as_str()))
            .collect();
        let plain = "this node encrypts the traffic of pods, and that one does not: start it with \
                     --encrypt-pod-traffic";
        assert_eq!(
            unreached,
            [
                ("odd", "odd"),
                ("plain", plain),
                ("same", "its public key is also that of node near"),
                ("self", "its public key is also that of this node"),
            ]
        );
        let tunnel = plan.encrypted.unwrap();
        assert_eq!(
            (tunnel.mtu, plan.mtu, plan.tunnel),
            (1420, Some(1420), None)
        );
        let near = TunnelPeer {
            endpoint: "192.0.2.9:51820".parse().unwrap(),
            allowed: [cidr("10.244.1.0/24")].into(),
        };
        assert_eq!(tunnel.peers[&PublicKey([2; 32])], near);
        assert_eq!(tunnel.peers.len(), 2);
        // Pods that start before the first peer also have this MTU.
        assert_eq!(encrypting(&[]).mtu, Some(1420));
    }

    /// docs/many-machines.md: a plain node does not send to a node that encrypts.
    #[test]
    fn a_plain_node_has_no_way_to_one_that_encrypts() {
        let peers = [
            encrypted("a", "192.0.2.9", "10.244.1.0/24", 2),
            peer("b", "192.0.2.5", "10.244.4.0/24"),
        ];
        let plan = planned(PeerTransport::Auto, &peers);
        assert_eq!(plan.routes[&peers[0].range], PeerRoute::Unreachable);
        assert!(matches!(
            plan.routes[&peers[1].range],
            PeerRoute::Link { .. }
        ));
        assert_eq!((plan.unreached.len(), plan.encrypted), (1, None));
        assert!(
            plan.unreached[0]
                .cause
                .starts_with("it encrypts the traffic")
        );
    }
}
