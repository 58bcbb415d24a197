//! node.k8s.io: the settings with which nodes run pods.

mod runtime_class;

pub use runtime_class::RuntimeClass;
