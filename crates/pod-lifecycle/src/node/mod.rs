//! Decisions about the node as a whole: graceful shutdown and image garbage collection.

pub mod image_gc;
pub mod shutdown;
