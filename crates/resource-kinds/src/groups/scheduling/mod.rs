//! scheduling.k8s.io: which pods come first.

pub(crate) mod priority_class;

pub use priority_class::PriorityClass;
