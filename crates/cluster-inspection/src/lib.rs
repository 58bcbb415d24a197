//! The objects of a cluster, read with the rights of a user from any Kubernetes API: the input of `diagnosis`, the
//! state of workloads, and the volumes of claims. If the user may not read some objects, the result depends on the
//! other objects only.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod amount;
mod cluster_objects;
mod connection;
mod error;
mod expiry;
mod logs;
mod node_summaries;
mod other_kinds;
pub mod pod_row;
mod server;
pub mod status;
pub mod volumes;
mod why;

pub use cluster_objects::{ClusterObjects, NamespaceScope, read_all};
pub use connection::explain_connection;
pub use error::InspectionError;
pub use other_kinds::explain_other_kind;
pub use server::{Server, ServerChoice};
pub use why::{explain_all, explain_object, overview};
