//! The engine over etcd with an injected mistake.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use mvcc_store::{
    KeyValue, Operation, OperationResult, Revision, Store, StoreError, StoreLayer, Txn, TxnResult,
    Value, WatchStream,
};
use tokio::time::timeout;

/// The time after which a write counts as a write without a response.
const PATIENCE: Duration = Duration::from_secs(2);

/// A mistake of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFlaw {
    /// Consistent reads do not request the newest revision.
    NoReadIndex,
    /// A write without a response is reported as executed.
    UnknownIsDone,
    /// A continued watch begins at the newest event.
    SkippedEvents,
}

/// The engine with the mistake.
pub struct FlawedStore {
    store: Arc<dyn Store>,
    flaw: StoreFlaw,
}

impl FlawedStore {
    /// The store, with the mistake if there is a mistake.
    pub fn over(store: Arc<dyn Store>, flaw: Option<StoreFlaw>) -> Arc<dyn Store> {
        match flaw {
            Some(flaw) => Arc::new(Self { store, flaw }),
            None => store,
        }
    }
}

impl StoreLayer for FlawedStore {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        if self.flaw == StoreFlaw::NoReadIndex {
            let local_revision = self.store.current_revision();
            return async move { Ok(local_revision) }.boxed();
        }
        self.store.newest()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        if self.flaw != StoreFlaw::UnknownIsDone {
            return self.store.txn(txn);
        }
        async move {
            match timeout(PATIENCE, self.store.txn(txn.clone())).await {
                Ok(Err(StoreError::OutcomeUnknown(_))) | Err(_) => {
                    let next = Revision(self.store.current_revision().0 + 1);
                    Ok(assumed_success(&txn, next))
                }
                Ok(result) => result,
            }
        }
        .boxed()
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        let from = match self.flaw {
            StoreFlaw::SkippedEvents => from.max(self.store.current_revision()),
            _ => from,
        };
        self.store.watch(prefix, from)
    }
}

fn assumed_success(txn: &Txn, revision: Revision) -> TxnResult {
    let results = txn.operations.iter().map(|operation| match operation {
        Operation::Put { key, value, lease } => OperationResult::Put(KeyValue {
            key: key.as_slice().into(),
            value: match value {
                Value::Plain(bytes) => bytes.clone(),
                Value::Stamped { before, after, .. } => {
                    let revision = revision.0.to_string();
                    Bytes::from([before, revision.as_bytes(), after].concat())
                }
            },
            create_revision: revision,
            mod_revision: revision,
            lease: *lease,
            omittable: mvcc_store::Omittable::UNKNOWN,
        }),
        Operation::Delete { .. } => OperationResult::Delete(None),
    });
    TxnResult::Committed {
        revision,
        results: results.collect(),
    }
}
