//! The cluster's DNS server: answers for the cluster's own names, asks others for the rest.
//!
//! What the answers are is decided in `dns-records`. Here Services, EndpointSlices and namespaces
//! are watched, the zone is built anew on each change and swapped in whole, so that a question
//! never waits for a change nor sees half of one. Questions come by UDP and TCP.

pub mod decoders;
mod forward;
pub mod limits;
mod resolve;
mod server;
mod upstreams;
mod watch;
mod wire;

pub use server::{Config, Error, Server, run};
