//! Programs the kernel so that connections to Services reach their endpoints.
//!
//! What the rules are is decided in `service-routing`; here Services and EndpointSlices are
//! watched, and each change of the table becomes one atomic nftables transaction over netlink
//! (no `nft` program, no hop through user space). The table carries the instance's id; it keeps
//! serving while the agent is away, and the next agent replaces it without a gap. Balancers outside
//! are told here, too, whether this node has endpoints (`healthCheckNodePort`).

pub mod conntrack;
mod encode;
pub mod firewalls;
mod health_checks;
mod kernel;
pub mod limits;
mod message;
#[cfg(test)]
#[allow(dead_code, reason = "shared with other tests, which use the rest")]
#[path = "../../pod-network/tests/namespaces/mod.rs"]
mod namespaces;
mod proxy;

pub use kernel::{Kernel, KernelError};
pub use proxy::{Config, Error, remove, run, serve};
