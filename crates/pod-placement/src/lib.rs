//! The scheduling decision: the node of a pod.
//!
//! [`place`] returns the decision for a pod and a view of the cluster: a node; or a node after
//! some claims are bound; or a node after some pods of lower priority are deleted; or no node,
//! with the reason. Goal: a feasible pod is placed. Relies on: only its arguments. Guarantees:
//! total, deterministic, silent; a pod is never placed where a rule forbids it; equal input gives
//! equal decisions; no pod is preempted for a pod that is feasible elsewhere, nor for a pod of
//! equal or lower priority.

mod admission;
mod affinity;
mod attach_limits;
mod attachments;
mod case;
mod devices;
mod labels;
mod node;
mod node_view;
mod objection;
mod place;
mod placed;
mod pod_nodes;
mod ports;
mod preempt;
mod refusal;
mod replicas;
mod resources;
mod score;
mod snapshot;
mod spread;
mod storage_capacity;
mod term_owners;
mod terms;
mod uid_index;
mod view;
mod volumes;

pub use admission::{AdmissionFailure, misfit};
pub use attachments::Attachments;
pub use labels::node_selector_matches;
pub use node::takes;
pub use node_view::NodeView;
pub use place::place;
pub use placed::PlacedPods;
pub use resources::asks_for_less;
pub use view::{ClaimStep, ClusterView, PlacementDecision, PlacementFailure, Preemption};
