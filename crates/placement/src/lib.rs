//! Where a pod goes.
//!
//! [`place`] looks at a pod and at the cluster as it is known, and says: this node; or this node,
//! once these volumes are bound; or nowhere, and why. Goal: a pod that fits somewhere is placed.
//! Relies on nothing but its arguments. Guarantees: total, deterministic, silent; a pod is never
//! placed where a rule forbids it; of several fitting nodes the same one is always chosen.

mod affinity;
mod labels;
mod node;
mod place;
mod ports;
mod resources;
mod score;
mod spread;
mod view;
mod volumes;

pub use labels::node_selector_matches;
pub use node::takes;
pub use place::place;
pub use view::{ClaimStep, ClusterView, Decision, Obstacle};
