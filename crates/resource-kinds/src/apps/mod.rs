//! apps: workloads.

mod controller_revision;
mod stateful_set;

pub use controller_revision::ControllerRevision;
pub use stateful_set::StatefulSet;
