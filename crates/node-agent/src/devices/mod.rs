//! Devices of pods: extended resources of device plugins (`plugins`), ResourceClaims whose devices the drivers of
//! dynamic resource allocation prepare (`claims`), and devices by name of the Container Device Interface (`cdi`).
//!
//! Plugins and drivers run on the node as root. They decide which files, variables and device nodes a container gets.
//! **Guarantees**: a device is allocated to one pod at a time; a container never starts without its devices; a plugin
//! that is slow, dead or wrong delays and fails only pods that use its devices.

use std::sync::Arc;

mod allocation_record;
pub mod cdi;
pub mod claims;
pub mod container;
pub mod plugins;
mod registry;

pub use claims::DeviceClaims;
pub use plugins::DevicePlugins;
pub use registry::PluginRegistry;

/// The devices of a node.
#[derive(Clone)]
pub struct NodeDevices {
    pub plugins: Arc<DevicePlugins>,
    pub claims: Arc<DeviceClaims>,
}
