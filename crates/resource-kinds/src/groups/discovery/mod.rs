//! discovery.k8s.io.

mod endpoint_slice;

pub use endpoint_slice::{EndpointSlice, service_of};
