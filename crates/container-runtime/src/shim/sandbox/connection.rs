//! A client connection of the shim, with its input and output buffers.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde::Serialize;

use crate::protocol::{FrameKind, HEADER_BYTES, header, json_frame, parse_header};
use crate::shim::limits::{CLIENT_BYTES_MAX, READ_BYTES};

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The request has not been received yet.
    New,
    /// A request is in progress.
    Waiting,
    /// The connection carries the streams of a process.
    Session { process: u64, stdin: bool },
    /// The connection carries the sandbox's events.
    Events,
    /// The connection is closed after all data is sent.
    Closing,
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    pub role: Role,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The time since when the client has received nothing although data was available. For a client that
    /// has disconnected: the time since when its process has read nothing.
    pub stuck_since: Option<Instant>,
    /// Whether the client receives nothing any more. Data that it has sent before may be unread.
    pub hung_up: bool,
}

impl Connection {
    pub fn new(stream: UnixStream) -> io::Result<Connection> {
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            role: Role::New,
            input: Vec::new(),
            output: Vec::new(),
            stuck_since: None,
            hung_up: false,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether the output buffer is so full that the sources must wait.
    pub fn is_full(&self) -> bool {
        self.output.len() >= CLIENT_BYTES_MAX
    }

    /// Reads available data. `Ok(false)` at the end of the connection.
    pub fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                if self.hung_up {
                    self.stuck_since = Some(Instant::now());
                }
                Ok(true)
            }
            Err(error) if is_transient(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next complete frame; an error for a malformed frame.
    pub fn next_frame(&mut self) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
        let Some(head) = self.input.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let Some((kind, length)) = parse_header(*head) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "malformed frame",
            ));
        };
        if self.input.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let body = self.input[HEADER_BYTES..HEADER_BYTES + length].to_vec();
        self.input.drain(..HEADER_BYTES + length);
        if self.input.is_empty() {
            // The buffer of a large request is released, because the process may live for months.
            self.input = Vec::new();
        }
        Ok(Some((kind, body)))
    }

    pub fn push(&mut self, kind: FrameKind, body: &[u8]) {
        self.output.extend_from_slice(&header(kind, body.len()));
        self.output.extend_from_slice(body);
    }

    pub fn push_json<T: Serialize>(&mut self, kind: FrameKind, body: &T) {
        // The types of the protocol can always be encoded as JSON.
        if let Ok(frame) = json_frame(kind, body) {
            self.output.extend_from_slice(&frame);
        }
    }

    /// Drops the data that the client does not receive any more.
    pub fn stop_sending(&mut self) {
        self.output = Vec::new();
        if !self.hung_up {
            self.hung_up = true;
            self.stuck_since = Some(Instant::now());
        }
    }

    /// Writes as much as the client accepts without waiting.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                    self.stuck_since = None;
                }
                Err(error) if is_transient(&error) => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        if !self.hung_up {
            self.stuck_since = None;
        }
        Ok(())
    }
}

pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
