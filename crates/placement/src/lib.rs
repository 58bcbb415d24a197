//! The scheduling decision: the node of a pod.
//!
//! [`place`] looks at a pod and at the cluster as it is known, and says: this node; or this node,
//! once these volumes are bound; or this one, when these pods of lower priority are gone; or
//! nowhere, and why. Goal: a pod that fits somewhere is placed. Relies on nothing but its
//! arguments. Guarantees: total, deterministic, silent; a pod is never placed where a rule forbids
//! it; of several fitting nodes the same one is always chosen; nobody goes for a pod that fits
//! somewhere, nor for one that is not more important.

mod admission;
mod affinity;
mod devices;
mod labels;
mod node;
mod place;
mod ports;
mod preempt;
mod resources;
mod scene;
mod score;
mod spread;
mod view;
mod volumes;

pub use admission::{Misfit, misfit};
pub use labels::node_selector_matches;
pub use node::takes;
pub use place::place;
pub use resources::asks_for_less;
pub use view::{ClaimStep, ClusterView, Decision, Obstacle, Preemption};
