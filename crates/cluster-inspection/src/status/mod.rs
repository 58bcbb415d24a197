//! The state of a cluster on one screen: [`read`] reads, [`status`] chooses the reported objects, [`lines`] formats
//! them.

mod model;
mod objects;
mod render;
mod workloads;

pub use model::{ClusterStatus, ServerStatus, status};
pub use objects::{StatusObjects, read};
pub use render::{Call, lines};

#[cfg(test)]
mod tests;
