//! The decoders of the bytes that another node sends, for the fuzzer.

use crate::command;
use crate::reader::{Reader, StreamError};

/// Reads a stream to its end; the number of its commands.
///
/// # Errors
/// It is no stream, or is not whole.
pub fn stream(bytes: &[u8]) -> Result<usize, StreamError> {
    let mut reader = Reader::new(bytes);
    let mut count = 0;
    while reader.next_command()?.is_some() {
        count += 1;
    }
    Ok(count)
}

/// Reads one command without its checksum: two bytes with its number, and its attributes.
///
/// # Errors
/// It is malformed.
pub fn command(bytes: &[u8]) -> Result<(), StreamError> {
    let (number, attributes) = bytes.split_first_chunk().ok_or(StreamError::Length)?;
    command::decode(u16::from_le_bytes(*number), attributes).map(drop)
}
