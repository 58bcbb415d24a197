//! Probes of containers: commands, HTTP, TCP and gRPC.

pub(crate) mod counts;
mod grpc_probe;
pub(crate) mod http_probe;
pub(crate) mod prober;
