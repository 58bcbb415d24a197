//! dns-server
