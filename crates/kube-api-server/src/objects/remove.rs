//! Removal of an object from the store, with its allocations and its quota charge.

use json_tree::Value;
use mvcc_store::{Compare, KeyValue, Operation as Write, Revision, Txn, TxnResult};
use object_model::Status;

use crate::catalog::registry::Resource;
use crate::objects::allocations::release;
use crate::objects::quota::{self, QuotaChange};
use crate::objects::storage;
use crate::objects::storage::{Objects, Parts};
use crate::objects::write_turn::WriteTurn;

/// Removes an object, with its stored and decoded form and the parts that are not in its tree, if the store still
/// contains this version; returns the revision of the removal.
pub(crate) async fn remove(
    objects: &Objects,
    resource: &Resource,
    stored: &KeyValue,
    object: &Value,
    parts: &Parts,
) -> Result<Option<Revision>, Status> {
    let (namespace, name) = resource.names(&stored.key);
    let deletion = || {
        let key = stored.key.to_vec();
        let mut txn = Txn {
            compare: vec![Compare::ModRevision(key.clone(), stored.mod_revision)],
            operations: vec![Write::Delete { key }],
        };
        for allocation in resource.kind.allocating().allocations(object) {
            release(&objects.catalog, &mut txn, &allocation);
        }
        if (resource.info().group, resource.info().plural) == ("", "namespaces") {
            WriteTurn::end(name, &mut txn);
        }
        txn
    };
    let change = QuotaChange {
        resource,
        namespace,
        name,
        old: Some(object),
        new: None,
        parts,
    };
    let mut txn = deletion();
    quota::charge(objects, change, &mut txn).await?;
    let done = match objects.store.txn(txn).await {
        // An etcd without free space accepts only transactions that delete. The quotas are recounted when it has
        // space again.
        Err(error) if error.is_full() => objects.store.txn(deletion()).await,
        done => done,
    };
    match done.map_err(|e| storage::refusal(&e))? {
        TxnResult::Committed { revision, .. } => Ok(Some(revision)),
        TxnResult::Refused { .. } => Ok(None),
    }
}
