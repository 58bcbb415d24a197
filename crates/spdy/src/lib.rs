//! The server side of SPDY/3.1, as far as Kubernetes uses it: many bidirectional streams over one connection,
//! each with a few headers.
//!
//! Older clients use SPDY for `exec`, `attach` and `port-forward`, and newer clients for port-forward inside
//! a WebSocket. These clients have no flow control for single streams, and neither has this server: a stream
//! that is not read blocks its connection when its queue is full. Frames are in `frame.rs`, header blocks in
//! `headers.rs`, connections in `session.rs`.

mod frame;
mod headers;
mod limits;
mod session;

pub use frame::{Frame, Header, encode, parse_head, read_control};
pub use headers::{Headers, Inflater, block};
pub use session::{Stream, StreamReader, StreamWriter, serve};

/// A violation of SPDY/3.1, or of a limit, by the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A control frame of another version of the protocol.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// A control frame that ends before all its fields.
    #[error("a frame of type {0} is too short")]
    Short(u16),
    /// A control frame above the maximum length.
    #[error("a frame of {0} bytes is too long")]
    Long(usize),
    /// A header block that cannot be decompressed or read.
    #[error("header block: {0}")]
    Headers(&'static str),
    /// An invalid stream number of a client.
    #[error("stream {0} cannot be opened")]
    StreamId(u32),
}
