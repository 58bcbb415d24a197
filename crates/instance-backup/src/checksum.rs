//! The checksum of the objects of a store, by which copies are verified.

use std::io;

use control_plane::backup_contents::records;
use mvcc_store::KeyValue;
use sha2::{Digest, Sha256};

/// The number of pairs and the SHA-256 of all of them, serialised as in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub count: usize,
    pub sha256: String,
}

impl Checksum {
    /// The pairs must be in the order of their keys.
    ///
    /// # Errors
    /// A pair is too large for a backup.
    pub fn compute<'p>(pairs: impl Iterator<Item = &'p KeyValue>) -> io::Result<Self> {
        let (mut digest, mut count, mut frame) = (Sha256::new(), 0, Vec::new());
        for pair in pairs {
            frame.clear();
            records::write(&mut frame, pair)?;
            digest.update(&frame);
            count += 1;
        }
        let digits = digest.finalize();
        let digits = digits.iter().map(|byte| format!("{byte:02x}"));
        Ok(Self {
            count,
            sha256: digits.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mvcc_store::{Omittable, Revision};

    use super::*;

    #[test]
    fn any_difference_changes_the_checksum() {
        let pair = KeyValue {
            key: b"/registry/a"[..].into(),
            value: Bytes::from_static(b"{}"),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            lease: None,
            omittable: Omittable::UNKNOWN,
        };
        let of = |pairs: &[&KeyValue]| Checksum::compute(pairs.iter().copied()).unwrap();
        let all = of(&[&pair]);
        assert_eq!(all.count, 1);
        let newer = KeyValue {
            mod_revision: Revision(4),
            ..pair.clone()
        };
        let changed = KeyValue {
            value: Bytes::from_static(b"{ }"),
            ..pair.clone()
        };
        for different in [of(&[]), of(&[&newer]), of(&[&changed]), of(&[&pair, &pair])] {
            assert_ne!(different, all);
        }
    }
}
