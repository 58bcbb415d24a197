//! The protocol of a shim's socket.
//!
//! Every frame has one byte for its kind, four bytes for its length (big endian), and the content. A
//! connection carries one call: the client sends a [`Request`] in a `Message` frame and receives a
//! [`Reply`] in a `Message` frame. After `Exec` and `Attach`, the connection stays open for stream frames;
//! `Attach` first sends one [`Attached`]. After `Events`, the connection stays open for `Message` frames
//! with one [`SandboxEvent`] each.
//!
//! An agent may be newer than a running shim, and only for a short time older. A shim rejects versions
//! above its version, and the client uses the oldest version that has the call.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::{
    AttachSpec, ContainerSpec, ExecSpec, Resources, SandboxEvent, SandboxState, StartError,
    TerminalSize,
};

/// Version of the protocol.
pub const VERSION: u32 = 1;

/// Name of the socket in the sandbox's directory.
pub const SOCKET: &str = "shim.sock";

/// Bytes of the kind and the length before the content of a frame.
pub const HEADER_BYTES: usize = 5;

/// Maximum size of a frame; a larger frame closes the connection. The limit allows a specification with the
/// kernel's maximum environment of 6 MiB (execve(2)) and the JSON overhead.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Maximum size of a stream frame, so that both sides work with small buffers.
pub const STREAM_BYTES_MAX: usize = 16 << 10;

/// The kind of a frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON of a request, a response or an event.
    Message = 0,
    /// Bytes for standard input; an empty frame closes the input.
    Stdin = 1,
    /// Bytes of standard output; an empty frame is the end of the output.
    Stdout = 2,
    /// Bytes of standard error; an empty frame is the end of the output.
    Stderr = 3,
    /// JSON of a [`TerminalSize`].
    Resize = 4,
    /// JSON of the exit code. The last frame of a session.
    Exit = 5,
}

impl FrameKind {
    /// The kind for the first byte of a header; `None` if it is invalid.
    pub fn from_byte(byte: u8) -> Option<FrameKind> {
        Some(match byte {
            0 => FrameKind::Message,
            1 => FrameKind::Stdin,
            2 => FrameKind::Stdout,
            3 => FrameKind::Stderr,
            4 => FrameKind::Resize,
            5 => FrameKind::Exit,
            _ => return None,
        })
    }
}

/// Decodes a header: the kind and the length of the content.
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Option<(FrameKind, usize)> {
    let [kind, a, b, c, d] = header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    (length <= FRAME_BYTES_MAX).then_some((FrameKind::from_byte(kind)?, length))
}

/// Encodes the header of a frame with `length` bytes.
pub fn header(kind: FrameKind, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// A frame with a JSON body.
pub fn json_frame<T: Serialize>(kind: FrameKind, body: &T) -> serde_json::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, body)?;
    let length = frame.len() - HEADER_BYTES;
    frame[..HEADER_BYTES].copy_from_slice(&header(kind, length));
    Ok(frame)
}

/// The first message of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Version of the client's protocol.
    pub version: u32,
    /// The operation and its parameters.
    pub call: Call,
}

/// A call to a shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Returns the state of the sandbox and its containers.
    State,
    /// Creates a container.
    Create(Box<ContainerSpec>),
    /// Starts a created container.
    Start { container: String },
    /// Sends a signal to a container's first process.
    Signal { container: String, signal: i32 },
    /// Changes the limits of a container, or of the pod.
    Update {
        /// Container id; `None` for the pod.
        container: Option<String>,
        resources: Resources,
    },
    /// Kills the processes of a container and removes its files.
    Remove { container: String },
    /// Opens a new log file, because the old file was renamed.
    ReopenLog { container: String },
    /// Runs a command; the connection becomes its session.
    Exec(Box<ExecSpec>),
    /// Attaches to a container; the connection becomes its session.
    Attach(AttachSpec),
    /// Sends all later events over the connection.
    Events,
    /// Stops all containers, then the shim itself.
    Destroy,
}

/// The time since which an attached client receives the container's output. Older shims do not send this
/// message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attached {
    /// Log lines before this time were written before the attach.
    pub at: Timestamp,
}

/// The shim's response to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Success; sessions and event streams start after it.
    Done,
    State(Box<SandboxState>),
    Failed(Failure),
}

/// The error of a call.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The shim is older than the requested version.
    Version {
        /// The shim's version.
        supported: u32,
    },
    /// The request is invalid.
    Invalid {
        /// The invalid field.
        what: String,
        reason: String,
    },
    NoSuchContainer,
    /// The state of the container does not allow the call.
    WrongState(String),
    /// A process could not be started.
    Start(StartError),
    /// An internal error of the shim.
    Internal(String),
}

/// Body of a `Message` frame after [`Call::Events`].
pub type Event = SandboxEvent;

/// Body of a `Resize` frame.
pub type Resize = TerminalSize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_comes_back_as_written() {
        let bytes = header(FrameKind::Stderr, 70_000);
        assert_eq!(parse_header(bytes), Some((FrameKind::Stderr, 70_000)));
    }

    #[test]
    fn header_of_unknown_kind_or_excessive_length_is_refused() {
        assert_eq!(parse_header([9, 0, 0, 0, 1]), None);
        assert_eq!(
            parse_header(header(FrameKind::Stdin, FRAME_BYTES_MAX + 1)),
            None
        );
    }
}
