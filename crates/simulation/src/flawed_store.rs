//! The engine over etcd with a mistake on purpose.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use mvcc_store::{
    KeyValue, LeaseId, Operation, OperationResult, Range, RangeResult, Revision, Store, StoreError,
    Txn, TxnResult, Value, WatchStream,
};
use tokio::time::timeout;

/// The time after which a write counts as one without an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A mistake of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFlaw {
    /// Consistent reads do not ask for the newest revision.
    NoReadIndex,
    /// A write without an answer is told as carried out.
    UnknownIsDone,
    /// A watch that goes on begins at the newest event.
    SkippedEvents,
}

/// The engine with its mistake.
pub struct FlawedStore {
    store: Arc<dyn Store>,
    flaw: StoreFlaw,
}

impl FlawedStore {
    /// The store, with the mistake if there is one.
    pub fn over(store: Arc<dyn Store>, flaw: Option<StoreFlaw>) -> Arc<dyn Store> {
        match flaw {
            Some(flaw) => Arc::new(Self { store, flaw }),
            None => store,
        }
    }
}

impl Store for FlawedStore {
    fn current_revision(&self) -> Revision {
        self.store.current_revision()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        if self.flaw == StoreFlaw::NoReadIndex {
            let known = self.current_revision();
            return async move { Ok(known) }.boxed();
        }
        self.store.newest()
    }

    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.reached(revision)
    }

    fn failure(&self) -> Option<StoreError> {
        self.store.failure()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        if self.flaw != StoreFlaw::UnknownIsDone {
            return self.store.txn(txn);
        }
        async move {
            match timeout(PATIENCE, self.store.txn(txn.clone())).await {
                Ok(Err(StoreError::OutcomeUnknown(_))) | Err(_) => {
                    Ok(as_if_done(&txn, Revision(self.current_revision().0 + 1)))
                }
                Ok(known) => known,
            }
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        self.store.range(range)
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        let from = match self.flaw {
            StoreFlaw::SkippedEvents => from.max(self.current_revision()),
            _ => from,
        };
        self.store.watch(prefix, from)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.compact(revision)
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.store.lease_grant(ttl)
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.lease_keep_alive(lease)
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.lease_revoke(lease)
    }
}

fn as_if_done(txn: &Txn, revision: Revision) -> TxnResult {
    let results = txn.operations.iter().map(|operation| match operation {
        Operation::Put { key, value, lease } => OperationResult::Put(KeyValue {
            key: key.as_slice().into(),
            value: match value {
                Value::Plain(bytes) => bytes.clone(),
                Value::Stamped { before, after } => {
                    let revision = revision.0.to_string();
                    Bytes::from([before, revision.as_bytes(), after].concat())
                }
            },
            create_revision: revision,
            mod_revision: revision,
            lease: *lease,
        }),
        Operation::Delete { .. } => OperationResult::Delete(None),
    });
    TxnResult::Committed {
        revision,
        results: results.collect(),
    }
}
