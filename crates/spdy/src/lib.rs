//! The server's side of SPDY/3.1, as far as Kubernetes' streams need it: many streams in both
//! directions over one connection, each with a few headers.
//!
//! Older clients use it for `exec`, `attach` and `port-forward`, and newer ones for port-forward
//! inside a WebSocket. Such clients have no flow control beyond the connection's, and this side
//! uses none either: an unread stream blocks the connection when its queue is full. Frames are in
//! `frame.rs`, header blocks in `headers.rs`, connections in `session.rs`.

mod frame;
mod headers;
mod limits;
mod session;

pub use frame::{Frame, Header, encode, parse_head, read_control};
pub use headers::{Headers, Inflater, block};
pub use session::{Stream, StreamReader, StreamWriter, serve};

/// A violation of SPDY/3.1, or of a bound, by the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A control frame of another version of the protocol.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// A control frame that ends before all its fields.
    #[error("a frame of type {0} is too short")]
    Short(u16),
    /// A control frame past the bound.
    #[error("a frame of {0} bytes is too long")]
    Long(usize),
    /// A header block that cannot be decompressed or read.
    #[error("header block: {0}")]
    Headers(&'static str),
    /// An invalid stream number of a client.
    #[error("stream {0} cannot be opened")]
    StreamId(u32),
}
