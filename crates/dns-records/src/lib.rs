//! dns-records
