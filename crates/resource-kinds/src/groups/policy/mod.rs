//! policy: what may be done to others' pods.

mod pod_disruption_budget;

pub use pod_disruption_budget::PodDisruptionBudget;
