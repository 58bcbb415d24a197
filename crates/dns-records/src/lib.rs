//! Decides which names the cluster's DNS knows, from Services, EndpointSlices and namespaces.
//!
//! [`Zone::replace`] and [`Zone::list_namespaces`] make the zone what the cluster is, one Service at
//! a time; [`Zone::lookup`] answers from it. What is answered follows the Kubernetes DNS specification 1.1.0, and the habits of CoreDNS where that is silent.
//! Pure: no sockets, no wire format, no clock.

mod answer;
mod names;
mod records;
mod tree;
mod zone;

pub use answer::{Data, Kind, Lookup};
pub use zone::{Settings, Zone};

/// Seconds that a record may be kept by whoever asked.
pub const TTL_SECONDS: u32 = 5;

/// Seconds that "there is no such name" may be kept: short, so that a peer that waits for another
/// to appear finds it as soon as it does.
pub const NEGATIVE_TTL_SECONDS: u32 = 1;
