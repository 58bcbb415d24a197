//! Node-pressure eviction: conditions, thresholds and the ranking of pods (statefulset.md §12.1,
//! §12.16).
//!
//! As kubelet's node-pressure eviction with hard thresholds: of each resource a minimum should be
//! available ([`thresholds`]). Below it, and for a transition period after, the node has a pressure
//! condition ([`pressure`]); and pods are evicted one after the other, first those that exceed
//! their requests ([`ranking`]).

pub mod pressure;
pub mod ranking;
pub mod thresholds;

pub use pressure::{
    Condition, NodePressure, ResourceObservation, ResourceObservations, Shortage, shortages,
};
pub use ranking::{Candidate, PodUsage, failure, first_to_go};
pub use thresholds::{InvalidThreshold, Resource, Signal, Thresholds};
