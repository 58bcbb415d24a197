//! Programs the kernel so that connections to Services reach their endpoints.
//!
//! `service-routing` decides the rules; this crate watches Services and EndpointSlices, and sends each
//! change of the table as one atomic nftables transaction over netlink. The crate starts no `nft` program,
//! and no packet passes through user space. The name of the table contains the instance's id. The table
//! stays active while the agent is down, and the next agent replaces it without a gap. The crate also
//! serves `healthCheckNodePort` for external load balancers, and filters the connections of pods as
//! NetworkPolicies require.

pub mod conntrack;
mod encode;
mod expressions;
pub mod firewalls;
mod follow;
mod health_checks;
mod kernel;
mod kernel_table;
pub mod limits;
mod message;
#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
#[path = "../../pod-network/tests/namespaces/mod.rs"]
mod namespaces;
mod nodes;
mod policies;
mod proxy;
mod refusals;
mod rest;
mod service_ranges;

pub use kernel::{Kernel, KernelError};
pub use policies::{LocalPods, Peers, PodAddresses, PolicySources};
pub use proxy::{
    Config, Error, ServiceCaches, SwitchLink, remove, run, serve, serve_with_policies,
};
pub use service_ranges::{FurtherRanges, further_ranges};
