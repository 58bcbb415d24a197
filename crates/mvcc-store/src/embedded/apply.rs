//! The effect of a transaction on the live keys. Pure: no disk, no clock, no waiting.
//!
//! The commit thread applies the transactions of a group one after the other to one [`GroupDraft`]. Each transaction
//! sees the writes of the transactions before it. Readers see no part of a draft before the whole draft is on disk.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    leases::Leases,
    limits::VALUE_BYTES_MAX,
    record::{EncodedPair, record},
    space::{Space, SpaceNeed},
};
use crate::{
    Compare, KeyValue, LeaseId, Operation, OperationResult, Revision, StoreError, Txn, TxnResult,
    Value, limits,
    published::{Commit, KeyChange, LiveKeys, NewestKeys, pair_bytes},
};

/// The changes of a group on disk: the last change of each key and lease.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    /// Records to put, or `None` to remove.
    pub(crate) keys: BTreeMap<Arc<[u8]>, Option<Bytes>>,
    /// Leases to put with their time to live, or `None` to remove.
    pub(crate) leases: BTreeMap<LeaseId, Option<Duration>>,
}

impl Writes {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.leases.is_empty()
    }
}

/// The state that a group of transactions is building.
pub(crate) struct GroupDraft {
    pub(crate) live: LiveKeys,
    /// The size of the live pairs in bytes.
    pub(crate) live_bytes: u64,
    pub(crate) revision: Revision,
    pub(crate) commits: Vec<Arc<Commit>>,
    pub(crate) writes: Writes,
    now: Instant,
}

impl GroupDraft {
    /// Starts from the state at `revision`.
    pub(crate) fn new(newest: NewestKeys, now: Instant) -> Self {
        Self {
            live: newest.live,
            live_bytes: newest.live_bytes,
            revision: newest.revision,
            commits: Vec::new(),
            writes: Writes::default(),
            now,
        }
    }

    /// Applies one transaction that [`validate`] has accepted.
    pub(crate) fn apply(
        &mut self,
        txn: &Txn,
        leases: &mut Leases,
    ) -> Result<TxnResult, StoreError> {
        if !txn.compare.iter().all(|compare| self.holds(compare)) {
            let present = txn.compare.iter().map(|compare| self.get(compare.key()));
            return Ok(TxnResult::Refused {
                revision: self.revision,
                present: present.collect(),
            });
        }
        for operation in &txn.operations {
            if let Operation::Put {
                lease: Some(lease), ..
            } = operation
                && !leases.contains(*lease)
            {
                return Err(StoreError::LeaseNotFound(*lease));
            }
        }
        let revision = Revision(self.revision.0 + 1);
        let mut changes = Vec::with_capacity(txn.operations.len());
        let mut results = Vec::with_capacity(txn.operations.len());
        for operation in &txn.operations {
            results.push(match operation {
                Operation::Put { key, value, lease } => {
                    self.put(key, value, *lease, revision, leases, &mut changes)
                }
                Operation::Delete { key } => self.delete(key, leases, &mut changes),
            });
        }
        self.finish(revision, changes);
        Ok(TxnResult::Committed {
            revision: self.revision,
            results,
        })
    }

    /// Checks that there is space for the transaction's writes.
    ///
    /// *Errors.* `Full`, `Quota`.
    pub(crate) fn check_space(&self, txn: &Txn, space: &Space) -> Result<(), StoreError> {
        let (mut after, mut need) = (self.live_bytes, SpaceNeed::Nothing);
        for operation in &txn.operations {
            let (key, put) = match operation {
                Operation::Put { key, value, lease } => (key, Some((value, lease))),
                Operation::Delete { key } => (key, None),
            };
            let previous = self.live.get(key.as_slice());
            let before = previous.map_or(0, |pair| pair_bytes(key, pair.value.len()));
            after = after.saturating_sub(before);
            if let Some((value, lease)) = put {
                after += pair_bytes(key, value.len());
                need = match (previous, lease, need) {
                    (None, None, _) | (_, _, SpaceNeed::New) => SpaceNeed::New,
                    (None, Some(_), _) | (_, _, SpaceNeed::Leased) => SpaceNeed::Leased,
                    (Some(_), _, need) => need,
                };
            }
        }
        if need == SpaceNeed::Nothing && after > self.live_bytes {
            need = SpaceNeed::Change;
        }
        space.check(need, after)
    }

    /// Creates a lease that ends after `ttl` without a renewal.
    pub(crate) fn grant(&mut self, lease: LeaseId, ttl: Duration, leases: &mut Leases) {
        leases.insert(lease, ttl, self.now);
        self.writes.leases.insert(lease, Some(ttl));
    }

    /// Ends a lease and deletes its keys under one revision.
    pub(crate) fn end_lease(
        &mut self,
        lease: LeaseId,
        leases: &mut Leases,
    ) -> Result<(), StoreError> {
        let keys = leases
            .remove(lease)
            .ok_or(StoreError::LeaseNotFound(lease))?;
        self.writes.leases.insert(lease, None);
        let mut changes = Vec::with_capacity(keys.len());
        for key in &keys {
            self.delete(key, leases, &mut changes);
        }
        self.finish(Revision(self.revision.0 + 1), changes);
        Ok(())
    }

    /// Assigns the revision. A transaction without changes gets none.
    fn finish(&mut self, revision: Revision, changes: Vec<KeyChange>) {
        if !changes.is_empty() {
            self.revision = revision;
            self.commits
                .push(Arc::new(Commit::new(revision, self.now, changes)));
        }
    }

    fn put(
        &mut self,
        key: &[u8],
        value: &Value,
        lease: Option<LeaseId>,
        revision: Revision,
        leases: &mut Leases,
        changes: &mut Vec<KeyChange>,
    ) -> OperationResult {
        let previous = self.live.get(key).cloned();
        let before = previous.as_ref();
        let before = before.map_or(0, |pair| pair_bytes(key, pair.value.len()));
        let (key, create_revision) = match &previous {
            Some(pair) => (Arc::clone(&pair.key), pair.create_revision),
            None => (Arc::from(key), revision),
        };
        let EncodedPair { pair, record } =
            record(Arc::clone(&key), value, create_revision, revision, lease);
        leases.attach(&key, previous.as_ref().and_then(|pair| pair.lease), lease);
        self.live.insert(Arc::clone(&key), Arc::clone(&pair));
        self.live_bytes =
            self.live_bytes.saturating_sub(before) + pair_bytes(&key, pair.value.len());
        self.writes.keys.insert(Arc::clone(&key), Some(record));
        changes.push(KeyChange {
            key,
            current: Some(Arc::clone(&pair)),
            previous,
        });
        OperationResult::Put(KeyValue::clone(&pair))
    }

    fn delete(
        &mut self,
        key: &[u8],
        leases: &mut Leases,
        changes: &mut Vec<KeyChange>,
    ) -> OperationResult {
        let Some(previous) = self.live.remove(key) else {
            return OperationResult::Delete(None);
        };
        let key = Arc::clone(&previous.key);
        let before = pair_bytes(&key, previous.value.len());
        self.live_bytes = self.live_bytes.saturating_sub(before);
        leases.attach(&key, previous.lease, None);
        self.writes.keys.insert(Arc::clone(&key), None);
        let result = OperationResult::Delete(Some(KeyValue::clone(&previous)));
        changes.push(KeyChange {
            key,
            current: None,
            previous: Some(previous),
        });
        result
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, revision) => self
                .live
                .get(key.as_slice())
                .is_some_and(|pair| pair.mod_revision == *revision),
            Compare::Absent(key) => !self.live.contains_key(key.as_slice()),
            Compare::Exists(key) => self.live.contains_key(key.as_slice()),
        }
    }

    fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.live.get(key).map(|pair| KeyValue::clone(pair))
    }
}

/// Checks the rules that do not depend on the state.
pub(crate) fn validate(txn: &Txn) -> Result<(), StoreError> {
    limits::check(txn)?;
    for operation in &txn.operations {
        if let Operation::Put { value, .. } = operation
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(StoreError::TooLarge(format!(
                "a value of {} bytes is longer than the limit of {VALUE_BYTES_MAX}",
                value.len()
            )));
        }
    }
    Ok(())
}
