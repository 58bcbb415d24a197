//! The network of the pods of one node: a routed veth pair per pod, no bridge.
//!
//! Each pod has one address of the node's range, known to the host as a /32 route to the pod's
//! veth. The pod sends everything to the first address of the range, which sits on the host's
//! `lo` and is the node's own address towards its pods. Both ends know each other's hardware
//! address from the start, so no ARP is needed and ARP settings of the host do not matter.
//!
//! All kernel objects carry the instance's id (link names and aliases, labels of addresses), so
//! that they can be found after a crash, distinguished from other instances' and removed. Addresses
//! are stored on disk, with the pods' host ports. Masquerading and host ports are in the service
//! proxy's table.

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
    Ranges, UsedRange, WantedRanges, choose_ranges, dns_address, reserve_cluster_ranges,
    reserve_ranges,
};
pub use switch::{NodeSwitch, SwitchOptions, SwitchedNode};
pub use wireguard::{
    EncryptionOptions, InvalidKey, PeerEncryption, PublicKey, TunnelEnd,
    require as require_wireguard,
};
