//! autoscaling: replica counts that depend on measured usage.

mod horizontal_pod_autoscaler;

pub use horizontal_pod_autoscaler::{HorizontalPodAutoscaler, HorizontalPodAutoscalerV1};
