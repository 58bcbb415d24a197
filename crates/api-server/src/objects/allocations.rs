//! Allocations (addresses and ports of Services): made and released in the transaction of their holder.
//! An allocation with an object of its own (IPAddress) creates and deletes that object too.

use std::sync::Arc;

use jiff::Timestamp;
use mvcc_store::{Compare, Operation as Write, Txn, Value as Bytes};
use resource_kinds::Exclusive;
use serde_json::Value;

use crate::catalog::Catalog;
use crate::catalog::registry::Resource;
use crate::objects::metadata;
use crate::objects::storage::{encode, exclusive_key};

/// Adds to a transaction that an exclusive thing is held by the object from now on.
pub(crate) fn take(catalog: &Catalog, txn: &mut Txn, exclusive: &Exclusive, holder: &[u8]) {
    let key = exclusive_key(&exclusive.key);
    txn.compare.push(Compare::Absent(key.clone()));
    let value = Bytes::Plain(holder.to_vec().into());
    txn.operations.push(Write::Put {
        key,
        value,
        lease: None,
    });
    if let Some((resource, mut object)) = shown(catalog, exclusive)
        && metadata::prepare_create(&resource, "", &mut object, Timestamp::now()).is_ok()
    {
        txn.operations.push(Write::Put {
            key: resource.key("", metadata::text(&object, "name")),
            value: encode(&resource.info(), &object),
            lease: None,
        });
    }
}

/// Adds to a transaction that an exclusive thing is nobody's from now on.
pub(crate) fn give_up(catalog: &Catalog, txn: &mut Txn, exclusive: &Exclusive) {
    let key = exclusive_key(&exclusive.key);
    txn.operations.push(Write::Delete { key });
    if let Some((resource, object)) = shown(catalog, exclusive) {
        let key = resource.key("", metadata::text(&object, "name"));
        txn.operations.push(Write::Delete { key });
    }
}

/// The object that shows an exclusive thing, where its kind is served.
fn shown(catalog: &Catalog, exclusive: &Exclusive) -> Option<(Arc<Resource>, Value)> {
    let object = exclusive.object.as_ref()?;
    let resource = catalog.snapshot().registry.of(object)?;
    Some((resource, object.clone()))
}
