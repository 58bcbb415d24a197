//! Allocations (addresses and ports of Services): created and released in the transaction of the object that owns
//! them. For an allocation with an object of its own (IPAddress), the transaction also creates or deletes that
//! object.

use std::sync::Arc;

use jiff::Timestamp;
use json_tree::Value;
use mvcc_store::{Compare, Operation as Write, Range, Txn, TxnResult, Value as Bytes};
use object_model::Status;
use resource_kinds::Allocation;

use crate::catalog::Catalog;
use crate::catalog::registry::{Resource, end_of};
use crate::objects::metadata;
use crate::objects::storage::{self, Objects, allocation_key, encode};

/// Adds an allocation to a transaction. The transaction fails if another object owns the allocation.
pub(crate) fn allocate(catalog: &Catalog, txn: &mut Txn, allocation: &Allocation, holder: &[u8]) {
    let key = allocation_key(&allocation.key);
    txn.compare.push(Compare::Absent(key.clone()));
    let value = Bytes::Plain(holder.to_vec().into());
    txn.operations.push(Write::Put {
        key,
        value,
        lease: None,
    });
    if let Some((resource, mut object)) = allocation_object(catalog, allocation)
        && metadata::prepare_create(&resource, "", &mut object, Timestamp::now()).is_ok()
    {
        txn.operations.push(Write::Put {
            key: resource.key("", metadata::text(&object, "name")),
            value: encode(&resource.info(), &object),
            lease: None,
        });
    }
}

/// Adds the release of an allocation to a transaction.
pub(crate) fn release(catalog: &Catalog, txn: &mut Txn, allocation: &Allocation) {
    let key = allocation_key(&allocation.key);
    txn.operations.push(Write::Delete { key });
    if let Some((resource, object)) = allocation_object(catalog, allocation) {
        let key = resource.key("", metadata::text(&object, "name"));
        txn.operations.push(Write::Delete { key });
    }
}

/// Adds the missing allocations of stored objects that are older than the configuration. An allocation of another
/// object is not changed.
///
/// An object that cannot be decoded is skipped, so that it does not prevent the start.
///
/// *Errors.* The store fails.
pub(crate) async fn complete(objects: &Objects) -> Result<(), Status> {
    let catalog = objects.catalog.snapshot();
    let resources = catalog.registry.resources();
    for resource in resources.filter(|one| one.kind.allocating().may_lack_allocations()) {
        let start = resource.prefix("");
        let range = Range {
            end: Some(end_of(&start)),
            start,
            ..Range::default()
        };
        for item in objects.read_range(range).await?.items {
            let object = match storage::decode(resource, &item) {
                Ok(object) => object,
                Err(why) => {
                    tracing::error!(error = %why.message, "a stored object is unreadable");
                    continue;
                }
            };
            for allocation in resource.kind.allocating().allocations(&object) {
                let mut txn = Txn {
                    compare: vec![Compare::ModRevision(item.key.to_vec(), item.mod_revision)],
                    operations: Vec::new(),
                };
                allocate(&objects.catalog, &mut txn, &allocation, &item.key);
                let done = objects.store.txn(txn).await;
                let done = done.map_err(|error| storage::refusal(&error))?;
                if let TxnResult::Committed { .. } = done {
                    tracing::info!(
                        key = %String::from_utf8_lossy(&item.key),
                        allocation = %allocation.key,
                        "a stored object was given an allocation that it lacked"
                    );
                }
            }
        }
    }
    Ok(())
}

/// The object of an allocation (IPAddress); `None` if its kind is not served.
fn allocation_object(catalog: &Catalog, allocation: &Allocation) -> Option<(Arc<Resource>, Value)> {
    let object = allocation.object.as_ref()?;
    let resource = catalog.snapshot().registry.of(object)?;
    Some((resource, object.clone()))
}
