//! Transactions that store one object.

use json_tree::Value;
use mvcc_store::{Compare, KeyValue, Operation as Write, OperationResult, Txn, TxnResult};
use object_model::Status;

use super::{Managers, Objects, Parts, encode_with, refusal};
use crate::catalog::registry::Resource;

pub(crate) enum PutResult {
    Stored(KeyValue),
    /// A comparison failed and nothing was written. Contains the present state of each compared key, in the order of
    /// the comparisons.
    Refused(Vec<Option<KeyValue>>),
}

impl Objects {
    /// Commits a transaction whose first operation puts an object.
    ///
    /// *Errors.* A failure of the store.
    pub(crate) async fn put(&self, txn: Txn) -> Result<PutResult, Status> {
        let done = self.store.txn(txn).await;
        match done.map_err(|error| refusal(&error))? {
            TxnResult::Committed { results, .. } => match results.into_iter().next() {
                Some(OperationResult::Put(stored)) => Ok(PutResult::Stored(stored)),
                _ => Err(Status::internal("the store gave no result of a write")),
            },
            TxnResult::Refused { present, .. } => Ok(PutResult::Refused(present)),
        }
    }

    /// Replaces a stored object, which keeps its lease; `None` if the stored object has changed meanwhile.
    ///
    /// *Errors.* The store fails.
    pub(crate) async fn replace(
        &self,
        resource: &Resource,
        stored: &KeyValue,
        object: &Value,
        managers: &Managers,
        parts: &Parts,
    ) -> Result<Option<KeyValue>, Status> {
        let key = stored.key.to_vec();
        let txn = Txn {
            compare: vec![Compare::ModRevision(key.clone(), stored.mod_revision)],
            operations: vec![Write::Put {
                key,
                value: encode_with(&resource.info(), object, managers, parts),
                lease: stored.lease,
            }],
        };
        match self.put(txn).await? {
            PutResult::Stored(stored) => Ok(Some(stored)),
            PutResult::Refused(_) => Ok(None),
        }
    }
}
