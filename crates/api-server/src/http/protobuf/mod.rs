//! Kubernetes' protobuf format, which Go clients use: four magic bytes, then a `runtime.Unknown` with the
//! kind and the object.
//!
//! One table describes the messages (field numbers, JSON names, types) for both directions, so
//! there is no code per kind. Decoding produces the JSON that the same client would have sent;
//! encoding starts from the stored JSON.

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
