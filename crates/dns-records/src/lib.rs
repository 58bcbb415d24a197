//! Decides which names the cluster's DNS resolves, from Services, EndpointSlices and namespaces.
//!
//! [`Zone::replace`] and [`Zone::list_namespaces`] update the zone, one Service at a time; [`Zone::lookup`] reads from
//! it. The results follow the Kubernetes DNS specification 1.1.0, and CoreDNS for cases that the specification leaves
//! open. Pure: no sockets, no wire format, no clock.

mod answer;
mod names;
mod records;
mod tree;
mod zone;

pub use answer::{Data, Kind, LookupResult};
pub use zone::{Settings, Zone};

/// Time to live of a record, in seconds.
pub const TTL_SECONDS: u32 = 5;

/// Time to live of NXDOMAIN, in seconds: short, so that a client that waits for a new peer resolves its name soon.
pub const NEGATIVE_TTL_SECONDS: u32 = 1;
