//! The node as a whole: its shutdown, its image garbage collection.

pub mod image_gc;
pub mod shutdown;
