//! HorizontalPodAutoscaler: as many replicas as what is measured asks for.
//!
//! **Goal**: the target has the most replicas that one of the metrics asks for, within the bounds
//! and as fast as the scaler's behaviour allows; the status says what was measured and what limits.
//! **Relies on**: measurements of the resource metrics API; a memory of what was found before, which
//! may be lost: then scaling down waits for its window again.
//! **Guarantees**: never beyond `minReplicas` and `maxReplicas`; nothing is scaled without a valid
//! measurement, and nothing is scaled down while one of the metrics is missing; a target with no
//! replicas is left alone.

mod bounds;
mod demand;
mod memory;
mod observed;
mod plan;
mod status;

pub use memory::Memory;
pub use observed::{Observed, PodFacts, Sample, Scale, samples};
pub use plan::{Conclusion, Notice, Plan, Rescale, plan};
