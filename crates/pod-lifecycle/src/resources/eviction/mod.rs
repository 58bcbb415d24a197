//! Node-pressure eviction: conditions, thresholds and the ranking of pods (statefulset.md §12.1,
//! §12.16).
//!
//! As kubelet's node-pressure eviction with hard thresholds: of each resource something should be
//! left ([`thresholds`]). While less is left, and for some time after, the node has a condition
//! that keeps pods away ([`pressure`]); and pods are evicted, one after the other, those first
//! that use more than they asked for ([`ranking`]).

pub mod pressure;
pub mod ranking;
pub mod thresholds;

pub use pressure::{Condition, Observation, Observations, Pressure, Shortage, shortages};
pub use ranking::{Candidate, PodUsage, failure, first_to_go};
pub use thresholds::{InvalidThreshold, Resource, Signal, Thresholds};
