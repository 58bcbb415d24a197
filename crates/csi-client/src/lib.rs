//! A client of CSI drivers, for the part that a node agent has: a driver's registration, its identity,
//! and the Node service (<https://github.com/container-storage-interface/spec/blob/master/spec.md>).
//!
//! A driver is reached by its unix socket. Each call has a connection of its own: drivers restart, and
//! a call costs far more than a connection.

mod connection;
mod driver;
mod error;
mod messages;
mod registration;

pub mod decoders;

pub use driver::Driver;
pub use error::{CsiError, Finality};
pub use messages::{
    AccessMode, AccessType, ExpandRequest, NodeCapabilities, NodeInfo, PluginInfo, PublishRequest,
    StageRequest, Usage, VolumeCapability, VolumeStats,
};
pub use registration::{Plugin, RegistrationInfo};
