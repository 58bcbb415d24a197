//! Node-pressure eviction: conditions, thresholds and the ranking of pods (statefulset.md §12.1, §12.16).
//!
//! As kubelet's node-pressure eviction with hard thresholds: each resource has a minimum that should be
//! available ([`thresholds`]). While the available amount is below the minimum, and for a transition period
//! afterwards, the node has a pressure condition ([`pressure`]). During the shortage, pods are evicted one
//! after another, first the pods that exceed their requests ([`ranking`]).

pub mod pressure;
pub mod ranking;
pub mod thresholds;

pub use pressure::{
    Condition, NodePressure, ResourceObservation, ResourceObservations, Shortage, shortages,
};
pub use ranking::{Candidate, PodUsage, failure, first_to_go};
pub use thresholds::{InvalidThreshold, Resource, Signal, Thresholds};
