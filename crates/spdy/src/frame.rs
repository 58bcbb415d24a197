//! Frames: a header of eight bytes, then a payload. The first bit of a control frame is set.

use bytes::Bytes;

use crate::ProtocolError;
use crate::headers::block;
use crate::limits::CONTROL_BYTES_MAX;

const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// The flag of the last frame that its sender sends in a stream.
const FLAG_FIN: u8 = 1;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A data frame of a stream.
    Data {
        stream: u32,
        /// Whether the frame is the last of its direction.
        fin: bool,
        /// Length of the payload in bytes.
        length: usize,
    },
    /// A control frame.
    Control {
        kind: u16,
        /// Flags; their meaning depends on the type.
        flags: u8,
        /// Length of the payload in bytes.
        length: usize,
    },
}

/// A frame. Header blocks are still compressed, because they must be decompressed in the order of their
/// arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    Open {
        /// The number of the stream: odd if the client opens it.
        stream: u32,
        /// Whether the frame is the last of its direction.
        fin: bool,
        /// The compressed headers.
        block: Bytes,
    },
    /// Confirms an opened stream.
    Reply {
        stream: u32,
        /// The compressed headers.
        block: Bytes,
    },
    /// Ends a stream in both directions.
    Reset {
        stream: u32,
        /// The status code: 1 protocol error, 3 refused, 5 cancelled.
        status: u32,
    },
    /// A ping with its number; the peer returns the number.
    Ping(u32),
    /// The sender accepts no new streams.
    GoAway {
        /// The number of the last processed stream.
        last: u32,
    },
    /// Further headers of a stream.
    Headers {
        stream: u32,
        /// Whether the frame is the last of its direction.
        fin: bool,
        /// The compressed headers.
        block: Bytes,
    },
    /// Data of a stream.
    Data {
        stream: u32,
        /// Whether the frame is the last of its direction.
        fin: bool,
        data: Bytes,
    },
    /// A frame that this implementation ignores (settings, windows).
    Other,
}

/// Parses the header of a frame.
///
/// # Errors
/// A control frame of another version, or with a payload above the limit.
pub fn parse_head(bytes: [u8; 8]) -> Result<Header, ProtocolError> {
    let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
    if first >> 31 == 0 {
        let fin = bytes[4] & FLAG_FIN != 0;
        return Ok(Header::Data {
            stream: first,
            fin,
            length,
        });
    }
    let version = u16::from_be_bytes([bytes[0] & 0x7f, bytes[1]]);
    if version != VERSION {
        return Err(ProtocolError::Version(version));
    }
    if length > CONTROL_BYTES_MAX {
        return Err(ProtocolError::Long(length));
    }
    Ok(Header::Control {
        kind: u16::from_be_bytes([bytes[2], bytes[3]]),
        flags: bytes[4],
        length,
    })
}

/// Parses the payload of a control frame.
///
/// # Errors
/// The payload is too short for its type.
pub fn read_control(kind: u16, flags: u8, payload: &Bytes) -> Result<Frame, ProtocolError> {
    let number = |at: usize| {
        let bytes = payload
            .get(at..at + 4)
            .and_then(|four| four.try_into().ok());
        bytes
            .map(u32::from_be_bytes)
            .ok_or(ProtocolError::Short(kind))
    };
    let stream = || number(0).map(|id| id & 0x7fff_ffff);
    let rest = |at: usize| {
        if payload.len() < at {
            return Err(ProtocolError::Short(kind));
        }
        Ok(payload.slice(at..))
    };
    let fin = flags & FLAG_FIN != 0;
    Ok(match kind {
        SYN_STREAM => Frame::Open {
            stream: stream()?,
            fin,
            block: rest(10)?,
        },
        SYN_REPLY => Frame::Reply {
            stream: stream()?,
            block: rest(4)?,
        },
        RST_STREAM => Frame::Reset {
            stream: stream()?,
            status: number(4)?,
        },
        PING => Frame::Ping(number(0)?),
        GOAWAY => Frame::GoAway { last: stream()? },
        HEADERS => Frame::Headers {
            stream: stream()?,
            fin,
            block: rest(4)?,
        },
        _ => Frame::Other,
    })
}

/// The bytes of a frame. The caller splits data that exceeds the maximum length of a frame.
pub fn encode(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Open { stream, fin, block } => {
            let mut payload = stream.to_be_bytes().to_vec();
            payload.extend_from_slice(&[0; 6]);
            payload.extend_from_slice(block);
            control(SYN_STREAM, u8::from(*fin), &payload)
        }
        Frame::Reply { stream, block } => {
            control(SYN_REPLY, 0, &[&stream.to_be_bytes(), &block[..]].concat())
        }
        Frame::Reset { stream, status } => {
            let payload = [stream.to_be_bytes(), status.to_be_bytes()].concat();
            control(RST_STREAM, 0, &payload)
        }
        Frame::Ping(id) => control(PING, 0, &id.to_be_bytes()),
        Frame::GoAway { last } => control(GOAWAY, 0, &[last.to_be_bytes(), [0; 4]].concat()),
        Frame::Headers { stream, fin, block } => {
            let payload = [&stream.to_be_bytes(), &block[..]].concat();
            control(HEADERS, u8::from(*fin), &payload)
        }
        Frame::Data { stream, fin, data } => {
            let mut bytes = stream.to_be_bytes().to_vec();
            bytes.extend_from_slice(&length_word(u8::from(*fin), data.len()));
            bytes.extend_from_slice(data);
            bytes
        }
        Frame::Other => Vec::new(),
    }
}

/// The reply that accepts a stream, without headers; `first` starts the compressed stream of headers.
pub(crate) fn reply(stream: u32, first: bool) -> Frame {
    Frame::Reply {
        stream,
        block: block(&[], first).into(),
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (VERSION | 0x8000).to_be_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&length_word(flags, payload.len()));
    bytes.extend_from_slice(payload);
    bytes
}

/// The flags in the first byte, and the length in the other 24 bits.
fn length_word(flags: u8, length: usize) -> [u8; 4] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [flags, length[1], length[2], length[3]]
}
