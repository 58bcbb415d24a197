//! HorizontalPodAutoscaler: the number of replicas, computed from metrics.
//!
//! **Goal**: the target has the largest number of replicas that one of the metrics demands, within the bounds and as
//! fast as the autoscaler's `behavior` allows; the status contains the measurements and the limits. **Relies on**:
//! measurements of the resource metrics API, and of the custom and external metrics APIs; a memory of earlier results, which may be lost: then scaling down waits
//! for the whole window again. **Guarantees**: the target stays between `minReplicas` and `maxReplicas`; a target is
//! not scaled without a valid measurement, and not scaled down while a metric is missing; a target with zero replicas
//! is not changed.

mod bounds;
mod demand;
mod memory;
mod observed;
mod other_metrics;
mod plan;
mod status;
mod usage;

pub use memory::Memory;
pub use observed::{
    MetricSamples, Observed, PodFacts, PodMeasurement, Scale, pod_values, samples, total_value,
};
pub use plan::{AutoscalerEvent, AutoscalerPlan, AutoscalerResult, Rescale, plan};
