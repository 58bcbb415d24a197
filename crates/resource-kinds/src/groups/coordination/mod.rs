//! coordination.k8s.io.

mod lease;

pub use lease::Lease;
