//! service-proxy
