//! Resources of pods: admission, requests, resize, local storage and eviction.

pub mod admission;
pub mod amounts;
pub mod devices;
pub mod eviction;
pub mod local_storage;
pub mod qos;
pub mod resize;
