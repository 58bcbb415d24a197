//! Protobuf's wire format, as far as Kubernetes and etcd use it.

use crate::varint::{self, VarintError};

/// The bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A number is malformed, or the message ends too early.
    #[error(transparent)]
    Varint(#[from] VarintError),
    /// A field number has more than 32 bits.
    #[error("a field number too large")]
    FieldNumber,
    /// A wire type that Kubernetes and etcd do not use.
    #[error("unknown wire type {0}")]
    WireType(u64),
    /// The wire type differs from the field's type.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// The type of the field.
        expected: &'static str,
        /// The type in the message.
        found: &'static str,
    },
}

/// Some decoders return their errors as text.
impl From<WireError> for String {
    fn from(error: WireError) -> Self {
        error.to_string()
    }
}

/// The content of a field.
#[derive(Clone, Copy, Debug)]
pub enum Wire<'a> {
    /// A number of variable length.
    Varint(u64),
    /// A number of eight bytes.
    Fixed64(u64),
    /// A number of four bytes. No message here contains such a number.
    Fixed32,
    /// Bytes, a text or a message.
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    /// The bytes.
    ///
    /// # Errors
    /// The content has another wire type.
    pub fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(other.unexpected("bytes")),
        }
    }

    /// The number.
    ///
    /// # Errors
    /// The content has another wire type.
    pub fn varint(self) -> Result<u64, WireError> {
        match self {
            Self::Varint(value) => Ok(value),
            other => Err(other.unexpected("a number")),
        }
    }

    /// The floating-point number.
    ///
    /// # Errors
    /// The content has another wire type.
    pub fn double(self) -> Result<f64, WireError> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => Err(other.unexpected("a number")),
        }
    }

    fn unexpected(self, expected: &'static str) -> WireError {
        let wire_type = match self {
            Self::Varint(_) => "a number",
            Self::Fixed64(_) => "eight bytes",
            Self::Fixed32 => "four bytes",
            Self::Bytes(_) => "bytes",
        };
        WireError::Unexpected {
            expected,
            found: wire_type,
        }
    }
}

/// Reads fields one after the other.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `bytes` is an encoded message.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether no bytes are left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field's number and content; `None` at the end.
    ///
    /// # Errors
    /// The bytes are not a message.
    pub fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, WireError> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::FieldNumber)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take_bytes(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| cut())?))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| cut())?;
                Wire::Bytes(self.take_bytes(length)?)
            }
            5 => {
                self.take_bytes(4)?;
                Wire::Fixed32
            }
            other => return Err(WireError::WireType(other)),
        };
        Ok(Some((number, wire)))
    }

    /// A number without a tag.
    ///
    /// # Errors
    /// The bytes do not start with a number.
    pub fn varint(&mut self) -> Result<u64, WireError> {
        Ok(varint::read(&mut self.0)?)
    }

    fn take_bytes(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (content, rest) = self.0.split_at_checked(length).ok_or_else(cut)?;
        self.0 = rest;
        Ok(content)
    }
}

/// Calls `take_bytes` with the number and content of each field of a message.
///
/// # Errors
/// The bytes are not a message, or the error of `take_bytes`.
pub fn fields<'a>(
    message: &'a [u8],
    mut take_bytes: impl FnMut(u32, Wire<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut reader = Reader::new(message);
    while let Some((field, wire)) = reader.field()? {
        take_bytes(field, wire)?;
    }
    Ok(())
}

fn cut() -> WireError {
    VarintError::Cut.into()
}

/// The tag of a field with a number of variable length.
pub const fn number(field: u32) -> u32 {
    field << 3
}

/// The tag of a field with bytes, a text or a message.
pub const fn bytes(field: u32) -> u32 {
    field << 3 | 2
}

/// Writes fields one after the other. A tag consists of a field number and a wire type.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// Writes the head of a field of bytes: its tag, and the length of the bytes that follow.
    #[inline]
    pub fn head(&mut self, tag: u32, length: usize) {
        self.raw(u64::from(tag));
        self.raw(length as u64);
    }

    /// Writes a field of bytes with its tag and length.
    #[inline]
    pub fn bytes(&mut self, tag: u32, content: &[u8]) {
        self.head(tag, content.len());
        self.0.extend_from_slice(content);
    }

    /// Writes a message that is usually short: one byte is reserved for its length, which is known afterwards.
    pub fn message(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        self.raw(u64::from(tag));
        let at = self.0.len();
        self.0.push(0);
        write(self);
        let length = (self.0.len() - at - 1) as u64;
        match u8::try_from(length) {
            Ok(length) if length < 0x80 => self.0[at] = length,
            _ => {
                let mut long = Self::default();
                long.raw(length);
                self.0.splice(at..=at, long.0);
            }
        }
    }

    /// Writes a field with a number.
    #[inline]
    pub fn varint(&mut self, tag: u32, value: u64) {
        self.raw(u64::from(tag));
        self.raw(value);
    }

    /// Writes a field with a floating-point number.
    pub fn double(&mut self, tag: u32, value: f64) {
        self.raw(u64::from(tag));
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    fn raw(&mut self, value: u64) {
        // Most tags and lengths have one byte.
        match u8::try_from(value) {
            Ok(value) if value < 0x80 => self.0.push(value),
            _ => varint::put(&mut self.0, value),
        }
    }
}

/// The encoded size of a number, in bytes.
#[inline]
pub fn varint_size(value: u64) -> usize {
    // A byte contains seven bits; zero needs one byte, too.
    (value | 1).ilog2() as usize / 7 + 1
}

/// The encoded size of a field with this many bytes.
#[inline]
pub fn bytes_size(tag: u32, length: usize) -> usize {
    varint_size(u64::from(tag)) + varint_size(length as u64) + length
}
