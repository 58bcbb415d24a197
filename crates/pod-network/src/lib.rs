//! The network of one node's pods: a routed veth pair per pod, without a bridge.
//!
//! Each pod has one address of the node's range, and the host has a /32 route to the pod's veth. The pod
//! sends all packets to the first address of the range. This address is on the host's `lo`, and is the
//! node's address for its pods. Both ends of the pair have the hardware address of the other end from the
//! start, so no ARP is needed, and ARP settings of the host have no effect.
//!
//! All kernel objects contain the instance's id (names and aliases of links, labels of addresses). So the
//! instance recognises its objects after a crash, and can remove them. Addresses and host ports of pods are
//! stored on disk. Masquerading and host ports are in the table of the service proxy.

mod addresses;
mod error;
mod forwarding;
mod host;
mod links;
mod listening;
mod names;
mod namespace;
mod neighbours;
mod network;
mod peers;
pub mod ranges;
mod socket_diagnosis;
mod switch;
mod wireguard;

pub use error::{Error, NoFreeRange};
pub use names::{link_prefix, switch_link};
pub use namespace::tcp_socket;
pub use neighbours::INSTANCES;
pub use network::{PodAddress, PodNetwork, PodNetworkOptions, remove};
pub use object_model::cidr::Cidr;
pub use peers::{Peer, PeerSettings, PeerTransport, UnreachedPeer};
pub use ranges::{
    Ranges, RequestedRanges, UsedRange, choose_ranges, dns_address, reserve_cluster_ranges,
    reserve_ranges,
};
pub use switch::{NodeSwitch, SwitchOptions, SwitchedNode};
pub use wireguard::{
    EncryptionOptions, InvalidKey, PeerEncryption, PublicKey, TunnelEnd,
    require as require_wireguard,
};
