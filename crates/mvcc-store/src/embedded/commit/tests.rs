use std::sync::atomic::AtomicUsize;

use super::*;
use crate::embedded::{EmbeddedStore, Limits, apply::Writes, disk::Loaded};
use crate::{Operation, Range, Store, Txn, Value};

/// A disk whose writes fail after a given number.
struct FailsAfter {
    left: usize,
    written: Arc<AtomicUsize>,
}

impl GroupStorage for FailsAfter {
    fn write(&mut self, _: &Writes, _: Counters) -> Result<(), StoreError> {
        self.written.fetch_add(1, Ordering::SeqCst);
        self.left = self
            .left
            .checked_sub(1)
            .ok_or(StoreError::Io("it is broken".to_owned()))?;
        Ok(())
    }

    fn reopen(&mut self) -> Result<Loaded, StoreError> {
        panic!("what the disk holds is in doubt")
    }

    fn note_durable(&mut self, revision: Revision) {
        // The only write that succeeded.
        assert_eq!(revision, Revision(2), "is in doubt");
    }
}

fn put(key: &str) -> Txn {
    let value = Value::Plain(bytes::Bytes::new());
    let operation = Operation::Put {
        key: key.into(),
        value,
        lease: None,
    };
    Txn {
        compare: vec![],
        operations: vec![operation],
    }
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_acknowledged_or_even_tried() {
    let written = Arc::new(AtomicUsize::new(0));
    let disk = FailsAfter {
        left: 1,
        written: Arc::clone(&written),
    };
    let store =
        EmbeddedStore::start(Box::new(disk), Loaded::default(), &Limits::default()).unwrap();
    store.txn(put("a")).await.unwrap();
    for key in ["b", "c"] {
        let error = store.txn(put(key)).await.unwrap_err();
        assert!(matches!(&error, StoreError::Io(cause) if cause.starts_with("it is broken")));
    }
    assert!(matches!(
        store.lease_grant(Duration::from_secs(1)).await,
        Err(StoreError::Io(_))
    ));
    assert_eq!(written.load(Ordering::SeqCst), 2);
    // The durable state from before the failure is still readable, and nothing else.
    let all = Range {
        start: vec![],
        end: Some(vec![0xff]),
        ..Range::default()
    };
    let read = store.range(all).await.unwrap();
    assert_eq!((read.revision, read.count), (Revision(2), 1));
}

/// A disk with space for one write, until the store is opened again.
struct FullOnce {
    free_writes: usize,
    durable: Loaded,
    /// Whether the failed write was stored on the disk.
    stores_failed: bool,
}

impl GroupStorage for FullOnce {
    fn write(&mut self, writes: &Writes, counters: Counters) -> Result<(), StoreError> {
        let full = self.free_writes == 0;
        self.free_writes = self.free_writes.saturating_sub(1);
        if !full || self.stores_failed {
            self.durable.counters = counters;
            for (lease, ttl) in &writes.leases {
                let ttl = ttl.unwrap();
                self.durable.leases.insert(*lease, ttl, Instant::now());
            }
        }
        if full {
            return Err(StoreError::Full("not a byte".to_owned()));
        }
        Ok(())
    }

    fn reopen(&mut self) -> Result<Loaded, StoreError> {
        self.free_writes = 100;
        Ok(std::mem::take(&mut self.durable))
    }
}

fn full_once(is_durable: bool) -> Arc<EmbeddedStore> {
    let disk = FullOnce {
        free_writes: 1,
        durable: Loaded::default(),
        stores_failed: is_durable,
    };
    EmbeddedStore::start(Box::new(disk), Loaded::default(), &Limits::default()).unwrap()
}

/// Waits until the store accepts writes again.
async fn wait_for_room(store: &EmbeddedStore) {
    while store.failure().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_store_without_room_goes_on_when_it_has_some() {
    let store = full_once(false);
    store.txn(put("a")).await.unwrap();
    for key in ["b", "c"] {
        let error = store.txn(put(key)).await.unwrap_err();
        assert!(matches!(error, StoreError::Full(_)), "{error}");
    }
    assert!(matches!(store.failure(), Some(StoreError::Full(_))));
    wait_for_room(&store).await;
    assert_eq!(store.current_revision(), Revision(2));
    store.txn(put("b")).await.unwrap();
    assert_eq!(store.current_revision(), Revision(3));
}

#[tokio::test]
async fn a_write_that_was_there_after_all_is_published() {
    let store = full_once(true);
    store.txn(put("a")).await.unwrap();
    let mut watch = store.watch(b"b".to_vec(), Revision(3)).unwrap();
    store.txn(put("b")).await.unwrap_err();
    wait_for_room(&store).await;
    assert_eq!(store.current_revision(), Revision(3));
    while let Some(events) = futures::StreamExt::next(&mut watch).await {
        if matches!(events, Ok(crate::WatchEvents::Events(_))) {
            return;
        }
    }
    panic!("the watch has ended");
}

#[tokio::test]
async fn a_lease_that_was_not_written_is_not_there() {
    let store = full_once(false);
    let first = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    let second = store.lease_grant(Duration::from_secs(60)).await;
    assert!(matches!(second, Err(StoreError::Full(_))), "{second:?}");
    wait_for_room(&store).await;
    store.lease_keep_alive(first).await.unwrap();
    let third = store.lease_grant(Duration::from_secs(60)).await.unwrap();
    assert_ne!(first, third);
}

/// A disk with little free space.
struct Scarce;

impl GroupStorage for Scarce {
    fn write(&mut self, _: &Writes, _: Counters) -> Result<(), StoreError> {
        Ok(())
    }

    fn reopen(&mut self) -> Result<Loaded, StoreError> {
        Err(StoreError::Closed)
    }

    fn free_bytes(&self) -> u64 {
        1 << 20
    }
}

#[tokio::test]
async fn where_room_is_scarce_there_are_changes_and_deletions_but_nothing_new() {
    let full_store = full_once(false);
    full_store.txn(put("old")).await.unwrap();
    let live = full_store.shared.published.newest().live;
    let loaded = Loaded {
        live,
        counters: Counters {
            revision: Revision(2),
            next_lease: 1,
        },
        ..Loaded::default()
    };
    let store = EmbeddedStore::start(Box::new(Scarce), loaded, &Limits::default()).unwrap();
    let error = store.txn(put("new")).await.unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    store.txn(put("old")).await.unwrap();
    let mut delete = put("old");
    delete.operations = vec![Operation::Delete { key: "old".into() }];
    store.txn(delete).await.unwrap();
    assert_eq!(store.current_revision(), Revision(4));
    assert!(store.failure().is_none());
}

/// A disk that completes one write on each signal.
struct Gate(std::sync::mpsc::Receiver<()>, Arc<AtomicUsize>);

impl GroupStorage for Gate {
    fn write(&mut self, writes: &Writes, _: Counters) -> Result<(), StoreError> {
        self.0
            .recv()
            .map_err(|_| StoreError::Io("gate is gone".to_owned()))?;
        self.1.fetch_max(writes.keys.len(), Ordering::SeqCst);
        Ok(())
    }

    fn reopen(&mut self) -> Result<Loaded, StoreError> {
        Err(StoreError::Closed)
    }
}

#[tokio::test]
async fn what_waits_during_a_sync_shares_the_next_one_and_is_not_seen_before() {
    let (open_gate, gate) = std::sync::mpsc::channel();
    let largest_group = Arc::new(AtomicUsize::new(0));
    let disk = Gate(gate, Arc::clone(&largest_group));
    let store =
        EmbeddedStore::start(Box::new(disk), Loaded::default(), &Limits::default()).unwrap();
    let spawn = |key: String| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.txn(put(&key)).await })
    };
    let first = spawn("first".to_owned());
    let others: Vec<_> = (0..50)
        .map(|number| spawn(format!("other-{number}")))
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(
        store.current_revision(),
        Revision(1),
        "nothing is visible before the sync"
    );
    open_gate.send(()).unwrap();
    first.await.unwrap().unwrap();
    // The limit is generous: under any scheduling of the tasks, few groups must be enough.
    for _ in 0..51 {
        open_gate.send(()).unwrap();
    }
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert!(largest_group.load(Ordering::SeqCst) >= 25);
    assert_eq!(store.current_revision(), Revision(52));
}
