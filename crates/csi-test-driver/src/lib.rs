//! A CSI driver for tests: directories of the machine as volumes. It is strict where the specification
//! is, fails calls when it is told to, and can be stopped and started again between any two of them.
//!
//! Its state is the mounts, as with real drivers, so that it knows after a restart what it has done.

mod fields;
mod node;
mod server;

pub use node::{Call, Failure, NodeDriver, Settings};
pub use server::{TestDriver, serve_registration};
