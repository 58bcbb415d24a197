//! The quota on stored data.

use std::sync::Arc;

use bytes::Bytes;
use mvcc_store::{
    Operation, Store, StoreError, Txn, TxnResult, Value,
    embedded::{EmbeddedOptions, EmbeddedStore, Limits},
    published::pair_bytes,
};

fn put(key: &str, bytes: usize) -> Operation {
    Operation::Put {
        key: key.into(),
        value: Value::Plain(Bytes::from(vec![b'x'; bytes])),
        lease: None,
    }
}

async fn write(store: &EmbeddedStore, operation: Operation) -> Result<TxnResult, StoreError> {
    let txn = Txn {
        compare: vec![],
        operations: vec![operation],
    };
    store.txn(txn).await
}

/// findings S26: a full store says so, lets things be deleted, and has room again.
#[tokio::test]
async fn what_grows_is_refused_over_the_quota_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        limits: Limits {
            live_bytes_max: 100_000,
            ..Limits::default()
        },
        ..EmbeddedOptions::new(dir.path())
    };
    let store = EmbeddedStore::open(options.clone()).unwrap();
    let mut count = 0;
    let error = loop {
        match write(&store, put(&format!("key/{count}"), 1000)).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, StoreError::Quota { max: 100_000, .. }),
        "{error}"
    );
    assert!((70..100).contains(&count), "{count}");
    let occupancy = store.occupancy();
    assert!(occupancy.live_bytes <= 100_000);
    // The same after a start without any write.
    store.close();
    drop(store);
    let store = EmbeddedStore::open(options).unwrap();
    assert_eq!(store.occupancy().live_bytes, occupancy.live_bytes);
    // A value may be changed, and grow a little, but not without bound.
    write(&store, put("key/0", 1000)).await.unwrap();
    write(&store, put("key/0", 3000)).await.unwrap();
    let error = write(&store, put("key/1", 20_000)).await.unwrap_err();
    assert!(matches!(error, StoreError::Quota { .. }), "{error}");
    for number in 0..20 {
        let key = format!("key/{number}").into();
        write(&store, Operation::Delete { key }).await.unwrap();
    }
    write(&store, put("new", 1000)).await.unwrap();
    assert!(store.occupancy().full.is_none());
}

/// findings-2 S44: the bytes of each owner, after each write and after a start.
#[tokio::test]
async fn the_bytes_of_an_owner_are_counted() {
    fn owner(key: &[u8]) -> Option<&[u8]> {
        let end = key.iter().position(|byte| *byte == b'/')?;
        key.get(..end)
    }
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions::new(dir.path());
    let store = EmbeddedStore::open(options.clone()).unwrap();
    write(&store, put("a/1", 1000)).await.unwrap();
    assert_eq!(store.bytes_of_owner(b"a"), 0);
    store.count_by_owner(owner);
    let pair = |key: &str, bytes: usize| pair_bytes(key.as_bytes(), bytes);
    assert_eq!(store.bytes_of_owner(b"a"), pair("a/1", 1000));
    write(&store, put("a/2", 200)).await.unwrap();
    write(&store, put("a/1", 10)).await.unwrap();
    write(&store, put("b/1", 300)).await.unwrap();
    write(&store, put("nobodys", 5000)).await.unwrap();
    let a = pair("a/1", 10) + pair("a/2", 200);
    let bytes_by_owner = |store: &EmbeddedStore| {
        let bytes = [&b"a"[..], b"b", b"nobodys"].map(|owner| store.bytes_of_owner(owner));
        (bytes, store.largest_owner())
    };
    let expected = (
        [a, pair("b/1", 300), 0],
        Some((Arc::from(&b"b"[..]), pair("b/1", 300))),
    );
    let expected = match a > pair("b/1", 300) {
        true => (expected.0, Some((Arc::from(&b"a"[..]), a))),
        false => expected,
    };
    assert_eq!(bytes_by_owner(&store), expected);
    store.close();
    drop(store);
    let store = EmbeddedStore::open(options).unwrap();
    store.count_by_owner(owner);
    assert_eq!(bytes_by_owner(&store), expected);
    for key in ["a/1", "a/2", "b/1"] {
        let key = key.into();
        write(&store, Operation::Delete { key }).await.unwrap();
    }
    assert_eq!(bytes_by_owner(&store), ([0, 0, 0], None));
}
