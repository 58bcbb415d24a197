//! The objects of a store as a stream: a frame for each key, with its revisions.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use mvcc_store::{KeyValue, Omittable, Revision};

/// Maximum length of a key or value in any store; a frame with a longer key or value is damaged.
const KEY_BYTES_MAX: u32 = 16 * 1024;
const VALUE_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Length of a frame's header, in bytes.
const HEAD_BYTES: u64 = 4 + 4 + 8 + 8;

/// The length of a pair's frame in bytes.
pub fn length(pair: &KeyValue) -> u64 {
    HEAD_BYTES + (pair.key.len() + pair.value.len()) as u64
}

/// Writes a frame.
///
/// # Errors
/// Of the writer; and for a pair that is too large for a store.
pub fn write(to: &mut impl Write, pair: &KeyValue) -> io::Result<()> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    to.write_all(&length(&pair.key)?.to_le_bytes())?;
    to.write_all(&length(&pair.value)?.to_le_bytes())?;
    to.write_all(&pair.create_revision.0.to_le_bytes())?;
    to.write_all(&pair.mod_revision.0.to_le_bytes())?;
    to.write_all(&pair.key)?;
    to.write_all(&pair.value)
}

/// Reads a frame.
///
/// # Errors
/// Errors of the reader; `InvalidData` for an invalid frame.
pub fn read(from: &mut impl Read) -> io::Result<KeyValue> {
    let key_length = u32::from_le_bytes(array(from)?);
    let value_length = u32::from_le_bytes(array(from)?);
    let create_revision = Revision(u64::from_le_bytes(array(from)?));
    let mod_revision = Revision(u64::from_le_bytes(array(from)?));
    if key_length > KEY_BYTES_MAX || value_length > VALUE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = |length: u32| {
        let mut bytes = vec![0; length as usize];
        from.read_exact(&mut bytes).map(|()| bytes)
    };
    Ok(KeyValue {
        key: Arc::from(bytes(key_length)?),
        value: Bytes::from(bytes(value_length)?),
        create_revision,
        mod_revision,
        lease: None,
        omittable: Omittable::UNKNOWN,
    })
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let pair = KeyValue {
            key: Arc::from(&b"/registry/x"[..]),
            value: Bytes::from_static(b"{}"),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            lease: None,
            omittable: Omittable::UNKNOWN,
        };
        let mut bytes = Vec::new();
        write(&mut bytes, &pair).unwrap();
        assert_eq!(bytes.len() as u64, length(&pair));
        assert_eq!(read(&mut bytes.as_slice()).unwrap(), pair);
        bytes.truncate(bytes.len() - 1);
        assert!(read(&mut bytes.as_slice()).is_err());
        let damaged = [0xff; 64];
        let error = read(&mut damaged.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
