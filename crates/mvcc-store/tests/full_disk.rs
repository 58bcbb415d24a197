//! A real disk without room: a file system in memory with a bound. (Needs root, to mount it.)

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use mvcc_store::{
    Operation, Range, Store, StoreError, Txn, TxnResult, Value,
    embedded::{EmbeddedOptions, EmbeddedStore},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A directory with 96 MiB, unmounted in the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = c"size=96m";
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = fs::File::create(self.path().join("filler")).unwrap();
        let zeros = vec![0; 64 * 1024];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    fn empty(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        unmount(self.path(), UnmountFlags::DETACH).unwrap();
    }
}

async fn put(store: &EmbeddedStore, key: String, bytes: usize) -> Result<TxnResult, StoreError> {
    let value = Value::Plain(Bytes::from(vec![b'x'; bytes]));
    let operation = Operation::Put {
        key: key.into(),
        value,
        lease: None,
    };
    let txn = Txn {
        compare: vec![],
        operations: vec![operation],
    };
    store.txn(txn).await
}

async fn keys(store: &EmbeddedStore) -> Vec<(Vec<u8>, u64)> {
    let all = Range {
        start: vec![],
        end: Some(vec![0xff]),
        ..Range::default()
    };
    let pairs = store.range(all).await.unwrap().items.into_iter();
    pairs
        .map(|pair| (pair.key.to_vec(), pair.mod_revision.0))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_survived_in_place() {
    let disk = Small::new();
    let open = || EmbeddedStore::open(EmbeddedOptions::new(disk.path().join("store"))).unwrap();
    let store: Arc<EmbeddedStore> = open();
    for number in 0..100 {
        put(&store, format!("before/{number}"), 1000).await.unwrap();
    }
    disk.fill();
    let error = put(&store, "new".into(), 10).await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    // Changes continue for as long as the journal's last block lasts.
    let mut changes = 0;
    let error = loop {
        match put(&store, format!("before/{}", changes % 100), 1000).await {
            Ok(_) => changes += 1,
            Err(error) => break error,
        }
        assert!(changes < 100_000, "the disk is never full");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(store.failure().is_some());
    let acknowledged = store.current_revision();
    assert_eq!(keys(&store).await.len(), 100, "reads do not need the disk");

    disk.empty();
    while store.failure().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // At most the one unacknowledged group.
    assert!(store.current_revision().0 <= acknowledged.0 + 1);
    put(&store, "after".into(), 10).await.unwrap();
    let state_before = (store.current_revision(), keys(&store).await);
    store.close();
    drop(store);
    let again = open();
    assert_eq!((again.current_revision(), keys(&again).await), state_before);
}

async fn delete(store: &EmbeddedStore, key: &str) -> Result<TxnResult, StoreError> {
    let operation = Operation::Delete { key: key.into() };
    let txn = Txn {
        compare: vec![],
        operations: vec![operation],
    };
    store.txn(txn).await
}

/// findings R13: a store on a disk without a free byte starts, and deletions pass.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_disk_without_a_free_byte_lets_things_be_deleted() {
    let disk = Small::new();
    let open = || EmbeddedStore::open(EmbeddedOptions::new(disk.path().join("store"))).unwrap();
    let store = open();
    for number in 0..10 {
        put(&store, format!("key/{number}"), 1000).await.unwrap();
    }
    store.close();
    drop(store);
    disk.fill();
    assert_eq!(disk.free(), 0);
    let store = open();
    let full = store.occupancy().full;
    assert!(matches!(full, Some(StoreError::Full(_))), "{full:?}");
    let error = put(&store, "new".into(), 10).await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    for number in 0..9 {
        delete(&store, &format!("key/{number}")).await.unwrap();
    }
    assert_eq!(keys(&store).await.len(), 1);
    disk.empty();
    // It looks again when something is written.
    put(&store, "new".into(), 10).await.unwrap();
    assert!(store.occupancy().full.is_none());
}

/// findings R13: when the disk fills up while the store runs, the store continues with its ballast.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_fills_up_uses_its_reserve() {
    let disk = Small::new();
    let store = EmbeddedStore::open(EmbeddedOptions::new(disk.path().join("store"))).unwrap();
    for number in 0..10 {
        put(&store, format!("key/{number}"), 1000).await.unwrap();
    }
    disk.fill();
    while put(&store, "key/0".into(), 100_000).await.is_ok() {
        let _smaller = put(&store, "key/0".into(), 1000).await;
    }
    // No space is freed from outside.
    while store.failure().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for number in 0..10 {
        delete(&store, &format!("key/{number}")).await.unwrap();
    }
    assert!(keys(&store).await.is_empty());
}
