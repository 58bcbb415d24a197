//! A client of CSI drivers with the calls of a node agent: the registration of a driver, the Identity service,
//! and the Node service (<https://github.com/container-storage-interface/spec/blob/master/spec.md>).
//!
//! The client connects to the Unix socket of a driver. Each call has a separate connection, because drivers restart, and
//! the work of a call is far larger than the work of a connection.

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
pub use registration::{Plugin, PluginType, RegistrationInfo};
