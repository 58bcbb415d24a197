//! api-server
