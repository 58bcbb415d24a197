//! Protobuf's wire format, as far as Kubernetes uses it.

use object_model::varint::{self, VarintError};

/// The content of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(format!("expected bytes, found {other:?}")),
        }
    }

    pub(super) fn varint(self) -> Result<u64, String> {
        match self {
            Self::Varint(value) => Ok(value),
            other => Err(format!("expected a number, found {other:?}")),
        }
    }

    pub(super) fn double(self) -> Result<f64, String> {
        match self {
            Self::Fixed64(bits) => Ok(f64::from_bits(bits)),
            other => Err(format!("expected a number, found {other:?}")),
        }
    }
}

/// Reads fields one after the other.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next field's number and content; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Wire<'a>)>, String> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| "a field number too large".to_owned())?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| cut())?))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| cut())?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(format!("unknown wire type {other}")),
        };
        Ok(Some((number, wire)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, String> {
        varint::take(&mut self.0).map_err(|error| error.to_string())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(cut)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn cut() -> String {
    VarintError::Cut.to_string()
}

/// Writes fields one after the other. A tag has a field's number and its wire type.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// The head of a field of bytes: its tag, and the length of the bytes that follow.
    pub(super) fn head(&mut self, tag: u32, length: usize) {
        self.raw(u64::from(tag));
        self.raw(length as u64);
    }

    pub(super) fn bytes(&mut self, tag: u32, content: &[u8]) {
        self.head(tag, content.len());
        self.0.extend_from_slice(content);
    }

    /// A message that is mostly short: one byte is left for its length, which is known afterwards.
    pub(super) fn message(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
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

    pub(super) fn varint(&mut self, tag: u32, value: u64) {
        self.raw(u64::from(tag));
        self.raw(value);
    }

    pub(super) fn double(&mut self, tag: u32, value: f64) {
        self.raw(u64::from(tag));
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn raw(&mut self, value: u64) {
        varint::put(&mut self.0, value);
    }
}

/// The size of a number.
pub(super) fn varint_size(value: u64) -> usize {
    // Seven bits in a byte; zero takes one, too.
    (value | 1).ilog2() as usize / 7 + 1
}

/// The size of a field of that many bytes.
pub(super) fn bytes_size(tag: u32, length: usize) -> usize {
    varint_size(u64::from(tag)) + varint_size(length as u64) + length
}
