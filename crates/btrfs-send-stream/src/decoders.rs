//! The decoders of bytes from another node, for the fuzzer.

use crate::command;
use crate::reader::{Reader, StreamError};

/// Reads a stream to its end; returns the number of its commands.
///
/// # Errors
/// The bytes are not a stream, or the stream is incomplete.
pub fn stream(bytes: &[u8]) -> Result<usize, StreamError> {
    let mut reader = Reader::new(bytes);
    let mut count = 0;
    while reader.next_command()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Reads one command without its checksum: two bytes with its number, then its attributes.
///
/// # Errors
/// The command is malformed.
pub fn command(bytes: &[u8]) -> Result<(), StreamError> {
    let (number, attributes) = bytes.split_first_chunk().ok_or(StreamError::Length)?;
    command::decode(u16::from_le_bytes(*number), attributes).map(drop)
}
