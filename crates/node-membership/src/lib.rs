//! The membership of a machine in a cluster: joining by a token, the certificates and the servers of a node, the tunnels
//! to its servers, and the stored membership for the next start.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod certificates;
mod error;
pub mod former_machine;
pub mod joining;
mod membership;
mod ranges;
pub mod servers;
pub mod tunnels;
pub mod version;

pub use certificates::NodeClient;
pub use error::MembershipError;
pub use joining::{ClusterEntry, JoinSettings, Registered, pod_range};
pub use membership::{Membership, MembershipStore, has_joined};
pub use ranges::{forget_network, store_ranges};
