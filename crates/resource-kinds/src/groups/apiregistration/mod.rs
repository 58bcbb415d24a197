//! apiregistration.k8s.io: the groups and versions that are served.

mod api_service;

pub use api_service::{APIService, local_service};
