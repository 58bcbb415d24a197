//! The Kubernetes API over an [`mvcc_store::Store`]: the generic pipeline that every request goes
//! through, for every kind alike.
//!
//! What is particular to a kind lives in `resource-kinds`; there is no file about one kind here
//! (the kinds of `computed.rs`, which are answers and never stored, are the exception).
//! A request passes, in this order: TLS and identity, limits, request info, authentication,
//! authorisation, routing, decoding, admission, validation, store. Read `pipeline.rs` first, then
//! `verbs/create.rs`.

mod allow;
mod audit;
mod authorize;
mod body;
mod bootstrap;
mod component_health;
mod computed;
mod config;
mod connection;
mod decode;
pub mod decoders;
mod destination;
mod discovery;
mod dynamic_admission;
pub mod encryption;
mod fairness;
mod field_managers;
mod following;
mod group_services;
mod guests;
mod health;
mod identity;
mod impersonation;
mod issuer;
mod limits;
mod local;
mod metadata;
mod metrics;
mod negotiate;
mod nodes;
mod openapi;
mod output;
mod pipeline;
mod protobuf;
mod query;
mod registry;
mod reply;
mod request_info;
mod resource_metrics;
mod reviews;
pub mod rewrite;
mod routing;
mod selection;
mod serve;
mod served;
mod server;
mod storage;
mod store_room;
mod subresources;
mod tls;
mod usage;
mod verbs;
mod version;
mod warnings;
mod work;
mod writes;

pub use audit::{
    Audit, AuditError, LogOptions as AuditLogOptions, PolicyError as AuditPolicyError,
};
pub use body::{BoxBody, BoxError, ResponseBody};
pub use component_health::Component;
pub use config::{Config, TlsMaterial};
pub use identity::UserInfo;
pub use limits::Limits;
pub use local::LocalService;
pub use nodes::{NodeConnector, NodeService};
pub use serve::ServeError;
pub use server::{ApiServer, StartError};
pub use version::git_version;
pub use work::SlowPolls;
