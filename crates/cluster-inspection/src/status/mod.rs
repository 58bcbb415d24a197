//! The state of a cluster on one screen: [`read`] reads the objects, [`status`] selects the reported objects, [`lines`]
//! formats the lines.

mod model;
mod objects;
mod render;
mod workloads;

pub use model::{ClusterStatus, ServerStatus, status};
pub use objects::{StatusObjects, read};
pub use render::{Call, lines};

#[cfg(test)]
mod tests;
