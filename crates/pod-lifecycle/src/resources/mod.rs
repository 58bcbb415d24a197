//! Resources: what a pod asks for, what the node gives it, and who goes when the node runs out.

pub mod admission;
pub mod amounts;
pub mod eviction;
pub mod local_storage;
pub mod qos;
pub mod resize;
