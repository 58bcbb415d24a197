//! service-routing
