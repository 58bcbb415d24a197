//! apps: workloads.

mod controller_revision;
mod daemon_set;
mod deployment;
pub(crate) mod replica_set;
mod stateful_set;

pub use controller_revision::ControllerRevision;
pub use daemon_set::DaemonSet;
pub use deployment::Deployment;
pub use replica_set::ReplicaSet;
pub use stateful_set::{StatefulSet, ordinal};
