//! Kubernetes' protobuf messages from the JSON text of stored objects, without a tree.
//!
//! A crate of its own, because it is built for speed: a list of 5,000 pods passes through it in one request.

mod messages;
mod transcode;

pub use messages::{Messages, ValueKind};
pub use transcode::Transcoder;
