//! The layout of a key-value pair on disk, and the revision that is stamped into a value.
//!
//! A record is a header of three little-endian integers (create revision, mod revision, lease or zero) and the value.
//! The value in memory is a slice of the record, so a new object exists only once in the process although the engine's
//! write buffer contains it, too.

use std::sync::Arc;

use bytes::Bytes;

use crate::{KeyValue, LeaseId, Omittable, Revision, Value};

/// Length of the header.
const HEADER_BYTES: usize = 24;

/// A pair together with its encoded record.
pub(crate) struct EncodedPair {
    /// The pair; its value shares the record's memory.
    pub(crate) pair: Arc<KeyValue>,
    /// The record for the disk.
    pub(crate) record: Bytes,
}

/// Builds the pair of a put at `revision`.
pub(crate) fn record(
    key: Arc<[u8]>,
    value: &Value,
    create_revision: Revision,
    revision: Revision,
    lease: Option<LeaseId>,
) -> EncodedPair {
    let stamp;
    let (parts, omittable): ([&[u8]; 3], _) = match value {
        Value::Plain(bytes) => ([bytes, b"", b""], Omittable::UNKNOWN),
        Value::Stamped {
            before,
            after,
            omittable,
        } => {
            stamp = revision.0.to_string();
            let omittable = omittable.moved(0, before.len() + stamp.len());
            ([before, stamp.as_bytes(), after], omittable)
        }
    };
    let value_len: usize = parts.iter().map(|part| part.len()).sum();
    let mut buffer = Vec::with_capacity(HEADER_BYTES + value_len);
    buffer.extend_from_slice(&create_revision.0.to_le_bytes());
    buffer.extend_from_slice(&revision.0.to_le_bytes());
    buffer.extend_from_slice(&lease.map_or(0, |lease| lease.0).to_le_bytes());
    for part in parts {
        buffer.extend_from_slice(part);
    }
    let record = Bytes::from(buffer);
    let value = record.slice(HEADER_BYTES..);
    let pair = Arc::new(KeyValue {
        key,
        value,
        create_revision,
        mod_revision: revision,
        lease,
        omittable,
    });
    EncodedPair { pair, record }
}

/// Decodes a record from the disk; `None` if it is shorter than a header.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Option<KeyValue> {
    let (create, rest) = split_u64(record)?;
    let (modified, rest) = split_u64(rest)?;
    let (lease, value) = split_u64(rest)?;
    Some(KeyValue {
        key: Arc::from(key),
        // Copied, because the record is a slice of a whole block of the engine, which would stay in memory.
        value: Bytes::copy_from_slice(value),
        create_revision: Revision(create),
        mod_revision: Revision(modified),
        lease: (lease != 0).then_some(LeaseId(lease)),
        omittable: Omittable::UNKNOWN,
    })
}

/// Splits a little-endian integer off the front.
pub(crate) fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*head), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamped_value_carries_the_revision_between_its_parts() {
        let value = Value::Stamped {
            before: Bytes::from_static(b"{\"rv\":\""),
            after: Bytes::from_static(b"\"}"),
            omittable: Omittable::at(0..1),
        };
        let recorded = record(
            Arc::from(&b"k"[..]),
            &value,
            Revision(7),
            Revision(1234),
            Some(LeaseId(5)),
        );
        assert_eq!(&recorded.pair.value[..], b"{\"rv\":\"1234\"}");
        let range = recorded.pair.omittable.range().unwrap();
        assert_eq!(&recorded.pair.value[range], b"\"");
        let read = KeyValue {
            omittable: Omittable::UNKNOWN,
            ..KeyValue::clone(&recorded.pair)
        };
        assert_eq!(decode(b"k", &recorded.record), Some(read));
    }

    #[test]
    fn a_short_record_is_not_decoded() {
        assert_eq!(decode(b"k", &[0; 23]), None);
        assert!(decode(b"k", &[0; 24]).is_some());
    }

    /// The layout is on users' disks: these bytes must not change within one format version.
    #[test]
    fn the_layout_is_frozen() {
        let value = Value::Plain(Bytes::from_static(b"v"));
        let recorded = record(
            Arc::from(&b"k"[..]),
            &value,
            Revision(1),
            Revision(258),
            None,
        );
        let expected: [u8; 25] = [
            1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b'v',
        ];
        assert_eq!(&recorded.record[..], &expected);
    }
}
