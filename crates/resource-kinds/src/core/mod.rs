//! The core group.

mod config_map;
mod endpoints;
mod event;
mod namespace;
mod node;
mod secret;
mod service_account;

pub use config_map::ConfigMap;
pub use endpoints::Endpoints;
pub use event::Event;
pub use namespace::Namespace;
pub use node::Node;
pub use secret::Secret;
pub use service_account::ServiceAccount;

pub(crate) use event::validate_event_namespace;
