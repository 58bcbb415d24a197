//! The Kubernetes API over an [`mvcc_store::Store`]: the generic pipeline that every request goes
//! through, for every kind alike.
//!
//! What is particular to a kind lives in `resource-kinds`; there is no file about one kind here
//! (the kinds of `virtual_resources.rs`, which are answers and never stored, are the exception).
//! A request passes, in this order: TLS and identity, limits, request info, authentication,
//! authorisation, routing, decoding, admission, validation, store. Read `pipeline.rs` first, then
//! `handlers/verbs/create.rs`.

mod access;
mod admission;
mod bootstrap;
mod catalog;
mod config;
pub mod decoders;
mod following;
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
mod store_room;

pub use crate::access::audit::{
    Audit, AuditError, LogOptions as AuditLogOptions, PolicyError as AuditPolicyError,
};
pub use crate::handlers::component_health::Component;
pub use crate::handlers::nodes::{NodeConnector, NodeService};
pub use crate::http::body::{BoxBody, BoxError, ResponseBody};
pub use crate::http::limits::Limits;
pub use crate::http::user::UserInfo;
pub use crate::http::version::git_version;
pub use crate::http::work::SlowPolls;
pub use access::tls::TlsMaterial;
pub use config::Config;
pub use local::LocalService;
pub use objects::{encryption, rewrite};
pub use serve::ServeError;
pub use server::{ApiServer, StartError};
