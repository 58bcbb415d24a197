//! Moves of volumes between nodes: the steps of a node, which `controllers::volume_move` calls as
//! `controller_planners::volume_move` decides.

pub(crate) mod directories;
pub(crate) mod first_copies;
mod steps;

pub use directories::CopyLocation;
pub use first_copies::{FirstCopy, Snapshots};
pub use steps::MovedVolume;
