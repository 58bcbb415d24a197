//! Decisions about the node as a whole: its Lease, graceful shutdown, image garbage collection and the
//! volumes of CSI drivers.

pub mod csi;
pub mod image_gc;
pub mod lease;
pub mod shutdown;
pub mod volume_expansion;
