//! Volumes of CSI drivers: the registration of drivers, and the node's part of a volume's life.
//!
//! Drivers run in pods and know the kubelet's directory as `/var/lib/kubelet`. That is how paths are
//! told to them; on this machine they are below the instance's own directory (`directory`).
//! **Guarantees**: before each call that has an effect there is a record of it on disk
//! (`records`), which stays until the reverse call has succeeded. All calls may be repeated, so an
//! agent that was killed between any two steps repeats the last, or undoes it.

mod attachment;
mod csi_node;
mod directory;
mod drivers;
mod expansion;
mod left_over;
mod records;
mod registration;
mod request;
mod shown;
mod stages;
mod upkeep;
mod volume_stats;
mod volumes;

pub use left_over::clean_up;
pub use registration::watch_plugins;
pub use request::CsiVolume;
pub use shown::keep_shown;
pub use upkeep::{LivePod, keep_up};
pub use volumes::CsiVolumes;
