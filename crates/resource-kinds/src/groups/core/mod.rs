//! The core group.

pub mod bootstrap_token;
mod config_map;
mod endpoints;
mod event;
mod limit_range;
mod namespace;
mod node;
pub mod node_conditions;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
pub mod pod_references;
mod pod_template;
mod replication_controller;
mod resource_quota;
mod secret;
mod service;
mod service_account;
pub mod volume_fit;

pub use config_map::ConfigMap;
pub use endpoints::Endpoints;
pub use event::Event;
pub use limit_range::LimitRange;
pub use namespace::Namespace;
pub use node::Node;
pub use persistent_volume::PersistentVolume;
pub use persistent_volume_claim::PersistentVolumeClaim;
pub use pod::Pod;
pub use pod_template::PodTemplate;
pub use replication_controller::ReplicationController;
pub use resource_quota::ResourceQuota;
pub use secret::Secret;
pub use service::Service;
pub use service_account::ServiceAccount;

pub(crate) use event::validate_event_namespace;
