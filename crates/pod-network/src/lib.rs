//! The network of the pods of one node: a routed veth pair per pod, no bridge.
//!
//! Each pod has one address of the node's range, known to the host as a /32 route to the pod's
//! veth. The pod sends everything to the first address of the range, which sits on the host's
//! `lo` and is the node's own address towards its pods. Both ends know each other's hardware
//! address from the start, so no ARP is needed and ARP settings of the host do not matter.
//!
//! Everything made in the kernel carries the instance's id (link names and aliases, labels of
//! addresses), so that it is found again after a crash, told apart from other instances and
//! removed. Addresses are kept on disk, with the ports of the node that belong to pods. Masquerading
//! outwards and those ports are in the service proxy's table.

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
pub mod ranges;

pub use error::Error;
pub use names::link_prefix;
pub use namespace::tcp_socket;
pub use neighbours::INSTANCES;
pub use network::{PodAddress, PodNetwork, PodNetworkOptions, remove};
pub use object_model::cidr::Cidr;
pub use ranges::{NoFreeRange, Ranges, Taken, Wanted, choose_ranges, reserve_ranges};
