//! A record in the store that the first server writes once: the instance, and the settings that all servers of a
//! shared store have in common. Records are outside of `/registry/`, which contains the objects.

use bytes::Bytes;
use mvcc_store::{Compare, Operation, Range, Store, StoreError, Txn, TxnResult, Value};

/// Reads the newest state of the record.
pub async fn read(store: &dyn Store, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    store.newest().await?;
    let range = Range {
        start: key.to_vec(),
        ..Range::default()
    };
    let item = store.range(range).await?.items.into_iter().next();
    Ok(item.map(|pair| pair.value))
}

/// Reads the record; writes `value` if it does not exist. If several servers start at one time, only one of them
/// writes the record.
pub async fn read_or_write(
    store: &dyn Store,
    key: &[u8],
    value: &Bytes,
) -> Result<Bytes, StoreError> {
    loop {
        if let Some(record) = read(store, key).await? {
            return Ok(record);
        }
        let write = Txn {
            compare: vec![Compare::Absent(key.to_vec())],
            operations: vec![Operation::Put {
                key: key.to_vec(),
                value: Value::Plain(value.clone()),
                lease: None,
            }],
        };
        if let TxnResult::Committed { .. } = store.txn(write).await? {
            return Ok(value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use mvcc_store::embedded::EmbeddedStore;

    use super::*;

    #[tokio::test]
    async fn the_first_writes_and_the_others_read() {
        let store = EmbeddedStore::in_memory();
        assert_eq!(read(store.as_ref(), b"/k").await.unwrap(), None);
        let all = [b"a", b"b", b"c"].map(|value| Bytes::from_static(value));
        let written = all
            .iter()
            .map(|value| read_or_write(store.as_ref(), b"/k", value));
        let written = futures::future::try_join_all(written).await.unwrap();
        let stored = read(store.as_ref(), b"/k").await.unwrap().unwrap();
        assert!(written.iter().all(|value| *value == stored), "{written:?}");
    }
}
