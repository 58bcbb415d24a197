//! scheduling.k8s.io: priorities of pods.

pub(crate) mod priority_class;

pub use priority_class::PriorityClass;
