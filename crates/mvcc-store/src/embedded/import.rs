//! Import of keys from a backup of another store into a new store.

use std::{path::Path, sync::Arc};

use super::{
    apply::Writes,
    disk::{Counters, Disk, GroupStorage as _},
    record,
};
use crate::{KeyValue, Revision, StoreError, Value};

/// Bytes of values per write.
const BATCH_BYTES: usize = 1024 * 1024;

/// Creates a store in an empty directory with these keys and their revisions. The revision of the store is `revision`:
/// no key may be newer, and no watch may start before it.
///
/// Leases are not imported, so the caller must leave out keys with a lease.
///
/// *Errors.* `Invalid` for a directory with keys, for a key newer than `revision`, and for a key with a lease; and the
/// errors of opening. Keys that were written before the error stay.
pub fn import(
    dir: &Path,
    revision: Revision,
    pairs: impl IntoIterator<Item = Result<KeyValue, StoreError>>,
) -> Result<(), StoreError> {
    let (mut disk, loaded) = Disk::open(dir)?;
    if !loaded.live.is_empty() {
        let dir = dir.display();
        return Err(StoreError::Invalid(format!(
            "the store in {dir} is not empty"
        )));
    }
    let counters = Counters {
        revision,
        ..Counters::default()
    };
    let mut writes = Writes::default();
    let mut bytes = 0;
    for pair in pairs {
        let pair = pair?;
        if pair.mod_revision > revision || pair.lease.is_some() {
            let key = pair.key.escape_ascii();
            return Err(StoreError::Invalid(format!(
                "key {key} is newer than its store, or leased"
            )));
        }
        bytes += pair.value.len();
        let (created, modified) = (pair.create_revision, pair.mod_revision);
        let value = Value::Plain(pair.value);
        let recorded = record::record(Arc::clone(&pair.key), &value, created, modified, None);
        writes.keys.insert(pair.key, Some(recorded.record));
        if bytes >= BATCH_BYTES {
            disk.write(&std::mem::take(&mut writes), counters)?;
            bytes = 0;
        }
    }
    disk.write(&writes, counters)?;
    disk.note_durable(revision);
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        Omittable, Range, Store as _,
        embedded::{EmbeddedOptions, EmbeddedStore},
    };

    fn pair(key: &str, modified: u64) -> KeyValue {
        KeyValue {
            key: Arc::from(key.as_bytes()),
            value: Bytes::from(key.to_owned()),
            create_revision: Revision(2),
            mod_revision: Revision(modified),
            lease: None,
            omittable: Omittable::UNKNOWN,
        }
    }

    /// Findings U10: keys keep their revisions, and new ones continue from there.
    #[tokio::test]
    async fn keys_keep_their_revisions() {
        let dir = tempfile::tempdir().unwrap();
        let pairs = [pair("a", 3), pair("b", 7)];
        import(dir.path(), Revision(1000), pairs.clone().map(Ok)).unwrap();
        let store = EmbeddedStore::open(EmbeddedOptions::new(dir.path())).unwrap();
        assert_eq!(store.current_revision(), Revision(1000));
        let range = Range {
            end: Some(vec![0xff]),
            ..Range::default()
        };
        assert_eq!(store.range(range).await.unwrap().items, pairs);
        store.close();
        drop(store);
        let again = import(dir.path(), Revision(2000), pairs.map(Ok));
        assert!(matches!(again, Err(StoreError::Invalid(_))));
        let newer = import(
            tempfile::tempdir().unwrap().path(),
            Revision(5),
            [Ok(pair("a", 6))],
        );
        assert!(matches!(newer, Err(StoreError::Invalid(_))));
    }
}
