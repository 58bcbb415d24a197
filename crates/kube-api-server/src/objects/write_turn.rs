//! Turns: writes whose decisions depend on many objects happen one after the other. A write takes its turn before it
//! reads these objects; its transaction fails if another write of the sequence was committed since, and is decided
//! again.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use mvcc_store::{Compare, Operation, Revision, Txn, Value};

use crate::objects::storage::SyncReads;

/// A sequence of writes, and the turn of one of them.
#[derive(Debug)]
pub(crate) struct WriteTurn {
    key: Vec<u8>,
    taken: Mutex<Option<TurnRevision>>,
}

/// The last write of the sequence; `None` before the first.
type TurnRevision = Option<Revision>;

impl WriteTurn {
    /// The sequence of evictions in a namespace.
    pub(crate) fn of_evictions(namespace: &str) -> Self {
        Self {
            key: format!("/eviction-turns/{namespace}").into_bytes(),
            taken: Mutex::new(None),
        }
    }

    /// Removes the sequence of a namespace with the Namespace.
    pub(crate) fn end(namespace: &str, txn: &mut Txn) {
        let Self { key, .. } = Self::of_evictions(namespace);
        txn.operations.push(Operation::Delete { key });
    }

    /// Takes the turn. The objects on which the write depends must be read after this call.
    pub(crate) fn take(&self, reads: &SyncReads<'_>) {
        let last = reads.revision_of(&self.key);
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// Adds the turn to the transaction of the write; a write that took no turn is not part of the sequence.
    pub(crate) fn add_to(&self, txn: &mut Txn) {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = taken else {
            return;
        };
        let key = self.key.clone();
        txn.compare.push(match last {
            Some(revision) => Compare::ModRevision(key.clone(), revision),
            None => Compare::Absent(key.clone()),
        });
        txn.operations.push(Operation::Put {
            key,
            value: Value::Plain(Bytes::new()),
            lease: None,
        });
    }
}
