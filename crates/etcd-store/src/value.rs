//! The form of a value in etcd.
//!
//! A stamped value contains its revision, which is unknown before the commit. etcd stores the two parts around the
//! revision, and every server inserts the revision when the value arrives. A copied value has the revisions of another
//! store. The first byte states the form: `p` and the value; `s`, the length of the first part (a varint), and both
//! parts; or `c`, both revisions (varints), and the value.

use bytes::Bytes;
use mvcc_store::{KeyValue, Revision, Value};
use object_model::varint;

const PLAIN: u8 = b'p';
const STAMPED: u8 = b's';
const COPIED: u8 = b'c';

/// The value as etcd stores it.
pub(crate) fn store(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    match value {
        Value::Plain(bytes) => {
            out.push(PLAIN);
            out.extend_from_slice(bytes);
        }
        Value::Stamped { before, after, .. } => {
            out.push(STAMPED);
            varint::put(&mut out, before.len() as u64);
            out.extend_from_slice(before);
            out.extend_from_slice(after);
        }
    }
    out
}

/// A value of another store with its revisions in that store, in the form in which etcd stores it.
pub(crate) fn store_copied(pair: &KeyValue) -> Vec<u8> {
    let mut out = Vec::with_capacity(pair.value.len() + 16);
    out.push(COPIED);
    varint::put(&mut out, pair.create_revision.0);
    varint::put(&mut out, pair.mod_revision.0);
    out.extend_from_slice(&pair.value);
    out
}

/// The revisions of a copied value: of its creation, and of its write.
pub(crate) fn copied(stored: &Bytes) -> Option<(Revision, Revision, Bytes)> {
    let (form, mut rest) = stored.split_first()?;
    if *form != COPIED {
        return None;
    }
    let created = varint::read(&mut rest).ok()?;
    let modified = varint::read(&mut rest).ok()?;
    let value = stored.slice(stored.len() - rest.len()..);
    Some((Revision(created), Revision(modified), value))
}

/// The value with the revision of its write; `None` if no mainstay server stored the value.
pub(crate) fn load(stored: &Bytes, revision: Revision) -> Option<Bytes> {
    let (form, mut rest) = stored.split_first()?;
    match *form {
        PLAIN => Some(stored.slice(1..)),
        STAMPED => {
            let length = usize::try_from(varint::read(&mut rest).ok()?).ok()?;
            let (before, after) = rest.split_at_checked(length)?;
            Some(
                [before, revision.0.to_string().as_bytes(), after]
                    .concat()
                    .into(),
            )
        }
        COPIED => copied(stored).map(|(_, _, value)| value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mvcc_store::Omittable;

    #[test]
    fn a_value_is_loaded_as_it_was_stored_with_its_revision() {
        let long = "x".repeat(300);
        for (before, after) in [("", ""), ("{\"rv\":\"", "\"}"), (long.as_str(), "y")] {
            let value = Value::Stamped {
                before: before.to_owned().into(),
                after: after.to_owned().into(),
                omittable: Omittable::UNKNOWN,
            };
            let loaded = load(&store(&value).into(), Revision(1234)).unwrap();
            assert_eq!(loaded, format!("{before}1234{after}"));
            let plain = Value::Plain(before.to_owned().into());
            let loaded = load(&store(&plain).into(), Revision(7)).unwrap();
            assert_eq!(loaded, before);
        }
    }

    #[test]
    fn other_values_are_not_loaded() {
        for strange in [
            &b""[..],
            b"{}",
            b"s",
            b"s\x05abc",
            b"s\xff\xff",
            b"c",
            b"c\x01",
        ] {
            assert_eq!(load(&Bytes::from_static(strange), Revision(1)), None);
        }
    }

    /// The form is in users' clusters: these bytes must not change.
    #[test]
    fn the_form_is_frozen() {
        let value = Value::Stamped {
            before: Bytes::from_static(b"ab"),
            after: Bytes::from_static(b"c"),
            omittable: Omittable::UNKNOWN,
        };
        assert_eq!(store(&value), b"s\x02abc");
        assert_eq!(store(&Value::Plain(Bytes::from_static(b"v"))), b"pv");
        let pair = KeyValue {
            key: b"k"[..].into(),
            value: Bytes::from_static(b"v"),
            create_revision: Revision(3),
            mod_revision: Revision(200),
            lease: None,
            omittable: Omittable::UNKNOWN,
        };
        let stored = Bytes::from(store_copied(&pair));
        assert_eq!(&stored[..], b"c\x03\xc8\x01v");
        assert_eq!(load(&stored, Revision(1000)), Some(pair.value.clone()));
        let parts = (pair.create_revision, pair.mod_revision, pair.value);
        assert_eq!(copied(&stored), Some(parts));
    }
}
