//! Decides how connections to Services reach their endpoints, as an nftables table.
//!
//! [`ports`] parses Services and EndpointSlices into one [`ServicePort`] per port; [`table`] turns these into a
//! [`Table`] of chains, maps and sets, to which [`publish`] adds the pods' host ports; [`changes`] computes the
//! smallest change from one table to another, in an order that the kernel accepts in one transaction. [`Routes`]
//! computes the change for changed Services only. [`health_check`] computes the responses to health checks of external
//! load balancers. [`filters`] decides which connections of pods pass, by NetworkPolicies.
//!
//! Pure: no I/O, no clock, no randomness. The service proxy encodes the `Rule`s for the kernel. IPv4 only.

mod addresses;
mod balance;
mod change;
mod compile;
mod endpoints;
mod flows;
mod host_ports;
mod isolation;
mod model;
mod policies;
mod ranges;
mod routes;
mod services;
mod tunnel;

pub use addresses::MachineAddresses;
pub use balance::{BALANCED_ENDPOINTS_MAX, Balance, Class, Masquerade, ServiceSet};
pub use change::{ApplyError, TableChange, apply, changes};
pub use compile::{MARK_MASQUERADE, Settings, hold, table};
pub use endpoints::{Endpoint, Endpoints, ProxyNode};
pub use flows::{UdpFlow, has_lost_endpoints, stale_flows};
pub use host_ports::{
    HostPort, NoHostPort, PublishedPort, address as host_address, host_ports, misled_flows,
    publish, udp_differs,
};
pub use isolation::{TableOwner, isolate};
pub use model::{
    Chain, Direction, Hook, HookKind, Key, MapName, MapVerdict, Match, Member, Protocol, Rule,
    RuleAction, Set, SetKind, Table,
};
pub use policies::{
    Connection, NamespaceLabels, Policy, PolicyJudgement, PolicyObjects, PolicyPod, denied,
    filters, judge, passes, tightens,
};
pub use routes::{Routes, ServiceName};
pub use services::{Affinity, HealthCheck, ServiceAge, ServicePort, health_check, ports};
pub use tunnel::{TunnelGuard, guard};
