//! Decisions about the node as a whole: its lease, graceful shutdown and image garbage collection.

pub mod image_gc;
pub mod lease;
pub mod shutdown;
