//! The quota on stored objects. Each server has all stored objects in memory.
//!
//! A full store refuses new keys first. Changes, and keys with a lease (events), may exceed the quota by a fraction, so
//! that users can find and solve the problem; deletions are always allowed. The quota is compared with the size of the
//! copy, which may be a moment old: concurrent writes through several servers may exceed the quota.

use mvcc_store::{
    Operation, StoreError, Txn, Value,
    published::{NewestKeys, pair_bytes},
};

/// Changes may exceed the quota by this fraction.
const CHANGES_BEYOND: u64 = 16;
/// Keys with a lease may exceed the quota by this fraction.
const LEASED_BEYOND: u64 = 32;

/// Checks that the pairs of a transaction and the stored pairs fit into the quota.
///
/// *Errors.* `Quota`.
pub(crate) fn check(txn: &Txn, stored: &NewestKeys, max: u64) -> Result<(), StoreError> {
    let mut after = stored.live_bytes;
    let (mut is_new, mut is_leased) = (false, false);
    for operation in &txn.operations {
        let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
        let previous = stored.live.get(key.as_slice());
        let before = previous.map_or(0, |pair| pair_bytes(key, pair.value.len()));
        after = after.saturating_sub(before);
        if let Operation::Put { value, lease, .. } = operation {
            after += pair_bytes(key, length(value));
            is_new |= previous.is_none() && lease.is_none();
            is_leased |= previous.is_none() && lease.is_some();
        }
    }
    let beyond = match (is_new, is_leased) {
        (true, _) => 0,
        (false, true) => max / LEASED_BEYOND,
        (false, false) => max / CHANGES_BEYOND,
    };
    let limit = max.saturating_add(beyond);
    match after > stored.live_bytes && after > limit {
        true => Err(StoreError::Quota { stored: after, max }),
        false => Ok(()),
    }
}

/// Without the digits of the revision.
fn length(value: &Value) -> usize {
    match value {
        Value::Plain(bytes) => bytes.len(),
        Value::Stamped { before, after, .. } => before.len() + after.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use mvcc_store::{KeyValue, LeaseId, Omittable, Revision, published::LiveKeys};

    use super::*;

    fn put(key: &str, len: usize) -> Operation {
        Operation::Put {
            key: key.into(),
            value: Value::Plain(Bytes::from(vec![0; len])),
            lease: None,
        }
    }

    #[test]
    fn what_is_new_is_refused_first_and_deletions_never() {
        let key: Arc<[u8]> = Arc::from(&b"a"[..]);
        let pair = KeyValue {
            key: Arc::clone(&key),
            value: Bytes::from(vec![0; 1000]),
            create_revision: Revision(2),
            mod_revision: Revision(2),
            lease: None,
            omittable: Omittable::UNKNOWN,
        };
        let stored = NewestKeys {
            live: LiveKeys::from_iter([(key, Arc::new(pair))]),
            live_bytes: 16_000,
            revision: Revision(2),
        };
        let with = |operation: Operation, max| {
            let txn = Txn {
                compare: Vec::new(),
                operations: vec![operation],
            };
            check(&txn, &stored, max)
        };
        assert!(with(put("b", 100), 17_000).is_ok());
        assert!(matches!(
            with(put("b", 100), 16_000),
            Err(StoreError::Quota { max: 16_000, .. })
        ));
        // The event of the alarm.
        let event = Operation::Put {
            key: b"b".to_vec(),
            value: Value::Plain(Bytes::from(vec![0; 100])),
            lease: Some(LeaseId(1)),
        };
        assert!(with(event.clone(), 16_000).is_ok());
        assert!(with(event, 15_600).is_err());
        assert!(with(put("a", 1500), 16_000).is_ok());
        assert!(with(put("a", 1000), 1).is_ok());
        assert!(with(put("a", 1001), 1).is_err());
        assert!(with(Operation::Delete { key: b"a".to_vec() }, 1).is_ok());
    }
}
