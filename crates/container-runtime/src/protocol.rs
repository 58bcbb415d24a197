//! The protocol of a shim's socket.
//!
//! Every frame is one byte of kind, four bytes of length (big endian) and that many bytes.
//! A connection carries one call: the client sends a [`Request`] in a `Message` frame and
//! gets a [`Reply`] in one. After `Exec` and `Attach` the connection stays open for stream
//! frames, which follow one [`Attached`] after `Attach`, after `Events` for `Message` frames with a [`SandboxEvent`] each.
//!
//! An agent may be newer than a shim that still runs, never the other way round for long:
//! a shim refuses versions above its own, and the client speaks the oldest that will do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::spec::{
    AttachSpec, ContainerSpec, ExecSpec, Resources, SandboxEvent, SandboxState, StartError,
    TerminalSize,
};

/// Version of the protocol this crate speaks.
pub const VERSION: u32 = 1;

/// Name of the socket in the sandbox's directory.
pub const SOCKET: &str = "shim.sock";

/// Bytes of kind and length before each frame.
pub const HEADER_BYTES: usize = 5;

/// Maximum size of a frame; a larger one ends the connection. It covers a specification with the
/// kernel's maximum environment of 6 MiB (execve(2)), and the JSON overhead.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Maximum size of a stream frame, so that both sides work with small buffers.
pub const STREAM_BYTES_MAX: usize = 16 << 10;

/// The kind of a frame's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// JSON: a request, a reply, an event.
    Message = 0,
    /// Bytes for standard input; an empty frame is its end.
    Stdin = 1,
    /// Bytes of standard output; an empty frame is its end.
    Stdout = 2,
    /// Bytes of standard error; an empty frame is its end.
    Stderr = 3,
    /// JSON [`TerminalSize`].
    Resize = 4,
    /// JSON exit code: the last frame of a session.
    Exit = 5,
}

impl FrameKind {
    /// The kind of a header's first byte.
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

/// Parses a header: kind and length of the contents.
pub fn parse_header(header: [u8; HEADER_BYTES]) -> Option<(FrameKind, usize)> {
    let [kind, a, b, c, d] = header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    (length <= FRAME_BYTES_MAX).then_some((FrameKind::from_byte(kind)?, length))
}

/// Writes the header for `length` bytes.
pub fn header(kind: FrameKind, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// A whole frame with a JSON body.
pub fn json_frame<T: Serialize>(kind: FrameKind, body: &T) -> serde_json::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    serde_json::to_writer(&mut frame, body)?;
    let length = frame.len() - HEADER_BYTES;
    frame[..HEADER_BYTES].copy_from_slice(&header(kind, length));
    Ok(frame)
}

/// First message of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Version that the client speaks.
    pub version: u32,
    /// The called operation with its parameters.
    pub call: Call,
}

/// A call to a shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// The state of everything.
    State,
    /// Makes a container.
    Create(Box<ContainerSpec>),
    /// Starts a created container.
    Start {
        /// Container id.
        container: String,
    },
    /// Sends a signal to a container's first process.
    Signal {
        /// Container id.
        container: String,
        /// Signal number.
        signal: i32,
    },
    /// Changes the limits of a container, or of the pod.
    Update {
        /// Container id; the pod when absent.
        container: Option<String>,
        /// The new limits.
        resources: Resources,
    },
    /// Kills the rest of a container and removes its files.
    Remove {
        /// Container id.
        container: String,
    },
    /// Opens a new log file (the old one was renamed).
    ReopenLog {
        /// Container id.
        container: String,
    },
    /// Runs a command; the connection becomes its session.
    Exec(Box<ExecSpec>),
    /// Attaches to a container; the connection becomes its session.
    Attach(AttachSpec),
    /// Streams all later events.
    Events,
    /// Stops all containers, then the shim itself.
    Destroy,
}

/// The time from which a client that has attached gets the container's output. Older shims do not send it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Attached {
    /// All lines of the log before this time were written before.
    pub at: Timestamp,
}

/// The shim's answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Success; sessions and event streams start after it.
    Done,
    /// The requested state.
    State(Box<SandboxState>),
    /// The call has failed.
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
    /// The request is wrong.
    Invalid {
        /// The field.
        what: String,
        reason: String,
    },
    NoSuchContainer,
    /// The container is in another state than the call needs.
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
