//! NetworkPolicies: the connections of pods that pass.
//!
//! [`filters`] turns policies, pods and the labels of namespaces ([`PolicyObjects`]) into the part of a
//! table that enforces the policies on one node; [`passes`] gives the decision of such a table about
//! a connection, [`judge`] names the policies that make it, and [`denied`] finds the connections that may
//! not begin any more.
//!
//! **Where.** Both ends of a connection are known on the forward hook: after the translation of
//! Service addresses, before masquerading. Packets between a node and its own pods take other
//! hooks, so they pass, as the API demands: probes, the node's processes, and requests of a pod to its
//! own node (DNS, and the API server if it is there). Each node filters its own pods only.
//!
//! **How.** Two base chains, one for each direction, accept packets of established connections and
//! send others by the pod's address into the pod's chain. That jumps into the chains of the policies
//! that select the pod, and drops what none of them accepts. `accept` ends one base chain, so a
//! connection must pass both. The peers of a rule are one set of addresses, and the pods' ports of
//! one name are one set for all policies: a pod that comes or changes is one element of each. The blocks of
//! a rule, without their exceptions, are one set of ranges: no rule grows with the fields of a policy.
//!
//! A connection that is cut by a new policy must not come back by a packet in its middle, which
//! would look like a connection of the other direction: TCP packets of unknown connections are
//! dropped for each selected pod, in both directions.

mod compile;
mod connections;
mod judge;
mod read;

pub use compile::{NamespaceLabels, PolicyObjects, filters};
pub use connections::{Connection, denied, passes, tightens};
pub use judge::{PolicyJudgement, judge};
pub use read::{Policy, PolicyPod};
