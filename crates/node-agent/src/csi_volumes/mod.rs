//! Volumes of CSI drivers: the registration of drivers, and the node's part of a volume's life.
//!
//! Drivers run in pods, where the path of the kubelet's directory is `/var/lib/kubelet`. Calls of drivers
//! have this path. On this machine, the directory is below the data directory (`directory`).
//! **Guarantees**: before each call with an effect, a record of the call is written to disk (`records`).
//! The record stays until the reverse call has succeeded. All calls may be repeated, so an agent that was
//! killed between any two steps repeats or reverts the last step.

mod attachment;
mod csi_node;
mod csi_node_sync;
mod directory;
mod drivers;
mod error;
mod expansion;
mod left_over;
mod records;
mod registration;
mod request;
mod stages;
mod upkeep;
mod volume_stats;
mod volumes;

pub use csi_node_sync::keep_csi_node;
pub use directory::KubeletDir;
pub use error::CsiVolumeError;
pub use left_over::clean_up;
pub use registration::{DevicePluginRegistry, watch_plugins};
pub use request::CsiVolume;
pub use upkeep::{LivePod, keep_up};
pub use volumes::CsiVolumes;
