//! The sandbox of a pod: the shim's loop, its clients and its jobs.

mod calls;
mod connection;
mod jobs;
pub(crate) mod lease;
pub(crate) mod pause;
pub(crate) mod supervisor;
