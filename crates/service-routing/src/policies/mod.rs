//! NetworkPolicies: the connections of pods that pass.
//!
//! [`filters`] turns policies, pods and the labels of namespaces ([`PolicyObjects`]) into the part of a table that
//! enforces the policies on one node; [`passes`] gives the decision of such a table about a connection, [`judge`] names
//! the policies that decide, and [`denied`] returns the connections that may not begin any more.
//!
//! **Hook.** Both ends of a connection are visible on the forward hook: after the translation of Service addresses,
//! before masquerading. Packets between a node and its own pods take other hooks, so they pass, as the API demands:
//! probes, the node's processes, and requests of a pod to its own node (DNS, and the API server if it is on the node).
//! Each node filters only its own pods.
//!
//! **Chains.** Two base chains, one for each direction, accept packets of established connections and send other
//! packets by the pod's address into the pod's chain. The pod's chain jumps into the chains of the policies that select
//! the pod, and drops packets that no policy accepts. `accept` ends one base chain, so a connection must pass both. The
//! peers of a rule are one set of addresses, and the pods' ports of one name are one set for all policies: a new or
//! changed pod is one element of each set. The blocks of a rule, without their exceptions, are one set of ranges: no
//! rule grows with the fields of a policy.
//!
//! A connection that a new policy interrupts must not continue with a later packet, which would look like a connection
//! of the opposite direction: TCP packets of unknown connections are dropped for each selected pod, in both directions.

mod compile;
mod connections;
mod judge;
mod read;

pub use compile::{NamespaceLabels, PolicyObjects, filters};
pub use connections::{Connection, denied, passes, tightens};
pub use judge::{PolicyJudgement, judge};
pub use read::{Policy, PolicyPod};
