//! Decides which names the cluster's DNS knows, from Services, EndpointSlices and namespaces.
//!
//! [`Zone::replace`] and [`Zone::list_namespaces`] update the zone, one Service at a time;
//! [`Zone::lookup`] answers from it. The answers follow the Kubernetes DNS specification 1.1.0, and
//! CoreDNS where that is silent. Pure: no sockets, no wire format, no clock.

mod answer;
mod names;
mod records;
mod tree;
mod zone;

pub use answer::{Data, Kind, LookupResult};
pub use zone::{Settings, Zone};

/// Time to live of a record, in seconds.
pub const TTL_SECONDS: u32 = 5;

/// Time to live of "no such name", in seconds: short, so that a peer that waits for another to
/// appear finds it soon.
pub const NEGATIVE_TTL_SECONDS: u32 = 1;
