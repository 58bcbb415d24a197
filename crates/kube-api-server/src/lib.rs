//! The Kubernetes API over an [`mvcc_store::Store`]: one generic pipeline for the requests of all kinds.
//!
//! The rules of a kind are in `resource-kinds`; no file here is about a single kind, except
//! `catalog/virtual_resources.rs` with the kinds that are never stored.
//!
//! The folders are layers; a module imports from its own layer and from the layers below (checked by `cargo xtask
//! tidy`):
//!
//! 1. `http`: requests and responses, without knowledge of a cluster,
//! 2. `catalog`: the served resources, discovery and OpenAPI,
//! 3. `objects`: reads and writes of stored objects,
//! 4. `access`: authentication, authorisation, auditing,
//! 5. `admission`: plug-ins, webhooks and policies,
//! 6. `handlers`: verbs, subresources, reviews, health and metrics,
//! 7. `flow_control`: flows, priority levels and the queues of requests; `aggregation`: extension API servers; and the
//!    files next to the folders: the server, its start, the pipeline and the routing of requests.
//!
//! Read `pipeline.rs` first, then `handlers/verbs/create.rs`.

mod access;
mod admission;
mod aggregation;
mod bootstrap;
mod catalog;
mod config;
mod config_watches;
pub mod decoders;
mod flow_control;
mod group_services;
mod handlers;
mod http;
mod local;
mod objects;
mod pipeline;
mod routing;
mod serve;
mod server;
mod startup;
mod store_space;

pub use crate::access::audit::{
    Audit, AuditError, LogOptions as AuditLogOptions, PolicyError as AuditPolicyError,
};
pub use crate::handlers::component_health::Component;
pub use crate::handlers::nodes::{NodeConnector, NodeService};
pub use crate::handlers::remote_nodes::{NodeConnection, NodeReach};
pub use crate::http::body::{BoxBody, BoxError, ResponseBody};
pub use crate::http::limits::Limits;
pub use crate::http::user::UserInfo;
pub use crate::http::version::{git_commit, git_version, set_git_commit};
pub use access::tls::TlsMaterial;
pub use admission::configuration::{AdmissionConfiguration, AdmissionConfigurationError};
pub use config::{Config, FrontProxyMaterial};
pub use local::LocalService;
pub use objects::{encryption, rewrite};
pub use process_telemetry::SlowPolls;
pub use serve::ServeError;
pub use server::{ApiServer, StartError};
