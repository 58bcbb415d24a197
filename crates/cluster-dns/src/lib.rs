//! The cluster's DNS server: responds to queries for cluster names and forwards other queries.
//!
//! `dns-records` decides the responses. This crate watches Services, EndpointSlices and namespaces, and updates the
//! zone at each change. It serves UDP and TCP.

pub mod decoders;
mod forward;
pub mod limits;
mod resolve;
mod server;
mod upstreams;
mod watch;
mod wire;
mod zone_file;

pub use server::{Config, Error, Server, run};
