//! Volumes with a replica on another node: the steps of a node, which `controllers::volume_replication`
//! calls as `controller_planners::volume_replication` decides.

pub(crate) mod common_snapshots;
pub(crate) mod directories;
mod steps;

pub use steps::{CopyOf, ReplicatedVolume};
