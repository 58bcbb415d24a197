//! node.k8s.io: how nodes run pods.

mod runtime_class;

pub use runtime_class::RuntimeClass;
