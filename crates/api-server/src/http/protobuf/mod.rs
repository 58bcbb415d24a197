//! Kubernetes' protobuf format, which Go clients use: four magic bytes, then a `runtime.Unknown` with the
//! kind and the object.
//!
//! The messages are described by one table (field numbers, JSON names, types) that is read in both
//! directions, so that there is no code per kind. What is read becomes the JSON that the same
//! client would have sent; what is written is the JSON that is stored.

mod read;
mod table;
mod wire;
mod write;

pub(crate) use read::read;
pub(crate) use write::{event, is_known, list, object};

pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// The zero of Go's `time.Time`, in seconds of Unix time: no time at all.
const NO_TIME: i64 = -62_135_596_800;
