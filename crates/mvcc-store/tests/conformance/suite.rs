//! One function per rule. Each gets a fresh store.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{leases, watches};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use mvcc_store::{
    Compare, Event, EventKind, KeyValue, LeaseId, Omittable, Operation, OperationResult, Range,
    RangeResult, Revision, Store, StoreError, Txn, TxnResult, Value, WatchEvents, WatchStream,
    limits::{COMPARISONS_PER_TXN_MAX, KEY_BYTES_MAX, OPERATIONS_PER_TXN_MAX, TXN_BYTES_MAX},
};

/// Engines under test cut a watcher off when so many commits wait for it.
pub const WATCHER_COMMITS_MAX: usize = 100;

type Case = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

/// Runs every case on a store of its own and names those that fail. The second part of a store is
/// kept until its case has ended.
pub async fn run<F, K>(mut fresh_store: impl FnMut() -> F)
where
    F: Future<Output = (Arc<dyn Store>, K)>,
{
    let cases: [(&str, Case); 23] = [
        ("a fresh store is empty at revision 1", |s| fresh(s).boxed()),
        ("each transaction has the next revision", |s| {
            revisions(s).boxed()
        }),
        ("a stamped value carries its revision", |s| {
            stamped(s).boxed()
        }),
        ("a refused transaction changes nothing", |s| {
            refused(s).boxed()
        }),
        ("an absent key has no mod revision", |s| {
            absent_has_no_revision(s).boxed()
        }),
        ("deleting what is absent changes nothing", |s| {
            delete_absent(s).boxed()
        }),
        ("a recreated key has a new create revision", |s| {
            recreated(s).boxed()
        }),
        ("one key twice in a transaction is invalid", |s| {
            one_key_twice(s).boxed()
        }),
        ("a transaction has limits", |s| limits(s).boxed()),
        ("the newest revision is reached, a later one is not", |s| {
            reaching(s).boxed()
        }),
        ("ranges are half open, ordered, limited and counted", |s| {
            ranges(s).boxed()
        }),
        ("a range at a revision is a snapshot", |s| {
            range_at_revision(s).boxed()
        }),
        ("concurrent compare-and-swap loses nothing", |s| {
            concurrent_swaps(s).boxed()
        }),
        ("a watch has every change under its prefix, once", |s| {
            watches::watch_changes(s).boxed()
        }),
        ("a watch replays from an older revision", |s| {
            watches::watch_replay(s).boxed()
        }),
        ("a watch has all changes of a revision at once", |s| {
            watches::watch_atomic(s).boxed()
        }),
        ("watches and reads agree under many writers", |s| {
            watches::many_writers(s).boxed()
        }),
        ("progress marks pass revisions of other keys", |s| {
            watches::progress(s).boxed()
        }),
        ("a watcher that does not read is cut off", |s| {
            watches::slow_watcher(s).boxed()
        }),
        ("compaction forgets", |s| compaction(s).boxed()),
        ("the future cannot be read", |s| future(s).boxed()),
        ("an expired lease deletes its keys", |s| {
            leases::lease_expiry(s).boxed()
        }),
        ("leases can be kept, moved and revoked", |s| {
            leases::lease_life(s).boxed()
        }),
    ];
    let mut failed = Vec::new();
    for (name, case) in cases {
        let (store, _kept) = fresh_store().await;
        let outcome = tokio::time::timeout(Duration::from_secs(240), tokio::spawn(case(store)));
        if !matches!(outcome.await, Ok(Ok(()))) {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "rules broken: {failed:#?}");
}

pub fn put(key: &str, value: &str) -> Operation {
    Operation::Put {
        key: key.into(),
        value: Value::Plain(Bytes::copy_from_slice(value.as_bytes())),
        lease: None,
    }
}

pub fn put_leased(key: &str, lease: LeaseId) -> Operation {
    Operation::Put {
        key: key.into(),
        value: Value::Plain(Bytes::from_static(b"leased")),
        lease: Some(lease),
    }
}

pub fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.into() }
}

pub async fn commit(store: &dyn Store, operations: Vec<Operation>) -> Revision {
    match store
        .txn(Txn {
            compare: vec![],
            operations,
        })
        .await
        .unwrap()
    {
        TxnResult::Committed { revision, .. } => revision,
        TxnResult::Refused { .. } => panic!("nothing to refuse"),
    }
}

pub async fn get(store: &dyn Store, key: &str) -> Option<KeyValue> {
    let range = Range {
        start: key.into(),
        ..Range::default()
    };
    store.range(range).await.unwrap().items.pop()
}

pub async fn read(store: &dyn Store, start: &str, end: &str) -> RangeResult {
    let range = Range {
        start: start.into(),
        end: Some(end.into()),
        ..Range::default()
    };
    store.range(range).await.unwrap()
}

pub fn keys(result: &RangeResult) -> Vec<&str> {
    result
        .items
        .iter()
        .map(|pair| std::str::from_utf8(&pair.key).unwrap())
        .collect()
}

/// The next events, skipping progress marks.
pub async fn next_events(watch: &mut WatchStream) -> Vec<Event> {
    loop {
        match watch.next().await {
            Some(Ok(WatchEvents::Events(events))) => return events,
            Some(Ok(WatchEvents::Progress(_))) => {}
            other => panic!("the watch ended: {other:?}"),
        }
    }
}

pub fn describe(event: &Event) -> String {
    let key = std::str::from_utf8(&event.key).unwrap();
    let value = |pair: &KeyValue| String::from_utf8(pair.value.to_vec()).unwrap();
    let was = event.previous.as_ref().map_or("nothing".to_owned(), value);
    let is = match &event.kind {
        EventKind::Put(pair) => value(pair),
        EventKind::Delete => "gone".to_owned(),
    };
    format!("{} {key}: {was} -> {is}", event.revision.0)
}

pub async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn fresh(store: Arc<dyn Store>) {
    assert_eq!(store.current_revision(), Revision(1));
    let all = read(&*store, "", "\u{7f}").await;
    assert_eq!(
        (all.revision, all.items.len(), all.count),
        (Revision(1), 0, 0)
    );
    assert!(store.watch(b"".to_vec(), Revision(1)).is_ok());
    assert_eq!(commit(&*store, vec![]).await, Revision(1));
}

async fn revisions(store: Arc<dyn Store>) {
    assert_eq!(commit(&*store, vec![put("a", "1")]).await, Revision(2));
    assert_eq!(
        commit(&*store, vec![put("a", "2"), put("b", "1")]).await,
        Revision(3)
    );
    assert_eq!(commit(&*store, vec![delete("b")]).await, Revision(4));
    assert_eq!(store.current_revision(), Revision(4));
    let a = get(&*store, "a").await.unwrap();
    assert_eq!(
        (a.create_revision, a.mod_revision),
        (Revision(2), Revision(3))
    );
    assert_eq!(&a.value[..], b"2");
}

async fn stamped(store: Arc<dyn Store>) {
    commit(&*store, vec![put("other", "")]).await;
    let value = Value::Stamped {
        before: Bytes::from_static(b"<"),
        after: Bytes::from_static(b">"),
        omittable: Omittable::UNKNOWN,
    };
    let operation = Operation::Put {
        key: b"a".to_vec(),
        value,
        lease: None,
    };
    let txn = Txn {
        compare: vec![],
        operations: vec![operation],
    };
    let TxnResult::Committed { results, .. } = store.txn(txn).await.unwrap() else {
        panic!("nothing to refuse")
    };
    let [OperationResult::Put(pair)] = &results[..] else {
        panic!("one put: {results:?}")
    };
    assert_eq!(&pair.value[..], b"<3>");
    assert_eq!(get(&*store, "a").await.as_ref(), Some(pair));
}

async fn refused(store: Arc<dyn Store>) {
    commit(&*store, vec![put("a", "1")]).await;
    let compare = vec![
        Compare::ModRevision(b"a".to_vec(), Revision(2)),
        Compare::Exists(b"missing".to_vec()),
        Compare::Absent(b"a".to_vec()),
    ];
    let txn = Txn {
        compare,
        operations: vec![put("a", "2"), put("b", "1")],
    };
    let TxnResult::Refused { revision, present } = store.txn(txn).await.unwrap() else {
        panic!("must be refused")
    };
    let a = get(&*store, "a").await;
    assert_eq!(a.as_ref().map(|pair| &pair.value[..]), Some(&b"1"[..]));
    assert_eq!((revision, present), (Revision(2), vec![a.clone(), None, a]));
    assert_eq!(store.current_revision(), Revision(2));
    assert_eq!(get(&*store, "b").await, None);
}

async fn absent_has_no_revision(store: Arc<dyn Store>) {
    let compare = vec![Compare::ModRevision(b"a".to_vec(), Revision(0))];
    let txn = Txn {
        compare,
        operations: vec![put("a", "1")],
    };
    assert!(matches!(
        store.txn(txn).await.unwrap(),
        TxnResult::Refused { .. }
    ));
}

async fn delete_absent(store: Arc<dyn Store>) {
    let mut watch = store.watch(b"".to_vec(), Revision(2)).unwrap();
    let txn = Txn {
        compare: vec![],
        operations: vec![delete("a")],
    };
    let expected = TxnResult::Committed {
        revision: Revision(1),
        results: vec![OperationResult::Delete(None)],
    };
    assert_eq!(store.txn(txn).await.unwrap(), expected);
    commit(&*store, vec![put("a", "1")]).await;
    assert_eq!(
        describe(&next_events(&mut watch).await[0]),
        "2 a: nothing -> 1"
    );
}

async fn recreated(store: Arc<dyn Store>) {
    commit(&*store, vec![put("a", "1")]).await;
    commit(&*store, vec![delete("a")]).await;
    commit(&*store, vec![put("a", "2")]).await;
    let a = get(&*store, "a").await.unwrap();
    assert_eq!(
        (a.create_revision, a.mod_revision),
        (Revision(4), Revision(4))
    );
}

async fn one_key_twice(store: Arc<dyn Store>) {
    let txn = Txn {
        compare: vec![],
        operations: vec![put("a", "1"), delete("a")],
    };
    assert!(matches!(store.txn(txn).await, Err(StoreError::Invalid(_))));
    let txn = Txn {
        compare: vec![],
        operations: vec![put("", "1")],
    };
    assert!(matches!(store.txn(txn).await, Err(StoreError::Invalid(_))));
}

async fn limits(store: Arc<dyn Store>) {
    let many = |count: usize| -> Vec<_> {
        let keys = (0..count).map(|number| put(&format!("a{number}"), "1"));
        keys.collect()
    };
    let compare =
        (0..COMPARISONS_PER_TXN_MAX).map(|number| Compare::Absent(vec![b'b'; number + 1]));
    let most = Txn {
        compare: compare.collect(),
        operations: many(OPERATIONS_PER_TXN_MAX),
    };
    let more = Txn {
        compare: vec![],
        operations: many(OPERATIONS_PER_TXN_MAX + 1),
    };
    let mut compares_more = most.clone();
    compares_more
        .compare
        .push(Compare::Exists(b"missing".to_vec()));
    for txn in [more, compares_more] {
        assert!(matches!(store.txn(txn).await, Err(StoreError::TooLarge(_))));
    }
    assert_eq!(store.current_revision(), Revision(1));
    let committed = store.txn(most).await.unwrap();
    assert!(matches!(
        committed,
        TxnResult::Committed {
            revision: Revision(2),
            ..
        }
    ));
    let large = |bytes: usize| Txn {
        compare: vec![],
        operations: vec![put("a", &"x".repeat(bytes))],
    };
    store.txn(large(TXN_BYTES_MAX - 1)).await.unwrap();
    let a = get(&*store, "a").await.unwrap();
    assert_eq!(a.value.len(), TXN_BYTES_MAX - 1);
    let refused = store.txn(large(20 * 1024 * 1024)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge(_))));
    let long = Txn {
        compare: vec![],
        operations: vec![delete(&"k".repeat(KEY_BYTES_MAX + 1))],
    };
    assert!(matches!(
        store.txn(long).await,
        Err(StoreError::TooLarge(_))
    ));
    assert_eq!(store.current_revision(), Revision(3));
}

async fn reaching(store: Arc<dyn Store>) {
    assert_eq!(store.newest().await.unwrap(), Revision(1));
    let newest = commit(&*store, vec![put("a", "1")]).await;
    assert_eq!(store.newest().await.unwrap(), newest);
    store.reached(newest).await.unwrap();
    store.reached(Revision(0)).await.unwrap();
    let ahead = store.reached(Revision(newest.0 + 1)).await.unwrap_err();
    assert!(
        matches!(ahead, StoreError::Future { requested, newest: Revision(2) } if requested.0 == 3),
        "{ahead}"
    );
}

async fn ranges(store: Arc<dyn Store>) {
    commit(
        &*store,
        ["c", "a", "b/2", "b/1", "b"]
            .map(|key| put(key, key))
            .to_vec(),
    )
    .await;
    assert_eq!(
        keys(&read(&*store, "a", "c").await),
        ["a", "b", "b/1", "b/2"]
    );
    assert_eq!(keys(&read(&*store, "b/", "b0").await), ["b/1", "b/2"]);
    assert_eq!(keys(&read(&*store, "x", "a").await), [""; 0]);
    assert_eq!(keys(&read(&*store, "a", "a").await), [""; 0]);
    let page = Range {
        start: b"a".to_vec(),
        end: Some(b"d".to_vec()),
        limit: Some(2),
        ..Range::default()
    };
    let page = store.range(page).await.unwrap();
    assert_eq!((keys(&page), page.count), (vec!["a", "b"], 5));
}

async fn range_at_revision(store: Arc<dyn Store>) {
    let before = commit(&*store, vec![put("a", "1"), put("b", "1"), put("x", "1")]).await;
    commit(&*store, vec![put("a", "2")]).await;
    commit(&*store, vec![delete("b"), put("c", "1")]).await;
    commit(&*store, vec![put("b", "again")]).await;
    let at = |revision| Range {
        start: b"a".to_vec(),
        end: Some(b"d".to_vec()),
        revision: Some(revision),
        limit: None,
    };
    let old = store.range(at(before)).await.unwrap();
    assert_eq!(
        (old.revision, keys(&old), old.count),
        (before, vec!["a", "b"], 2)
    );
    assert_eq!(&old.items[0].value[..], b"1");
    assert_eq!(old.items[1].mod_revision, before);
    let between = store.range(at(Revision(before.0 + 2))).await.unwrap();
    assert_eq!(keys(&between), ["a", "c"]);
    assert_eq!(store.range(at(Revision(1))).await.unwrap().items, []);
    let single = Range {
        start: b"b".to_vec(),
        revision: Some(before),
        ..Range::default()
    };
    assert_eq!(store.range(single).await.unwrap().items.len(), 1);
}

async fn concurrent_swaps(store: Arc<dyn Store>) {
    commit(&*store, vec![put("n", "0")]).await;
    let add_ten = |store: Arc<dyn Store>| async move {
        for _ in 0..10 {
            loop {
                let now = get(&*store, "n").await.unwrap();
                let number: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
                let compare = vec![Compare::ModRevision(b"n".to_vec(), now.mod_revision)];
                let operations = vec![put("n", &(number + 1).to_string())];
                let result = store
                    .txn(Txn {
                        compare,
                        operations,
                    })
                    .await
                    .unwrap();
                if matches!(result, TxnResult::Committed { .. }) {
                    break;
                }
            }
        }
    };
    futures::future::join_all((0..8).map(|_| tokio::spawn(add_ten(Arc::clone(&store))))).await;
    assert_eq!(&get(&*store, "n").await.unwrap().value[..], b"80");
    assert_eq!(store.current_revision(), Revision(82));
}

async fn compaction(store: Arc<dyn Store>) {
    for number in 0..10 {
        commit(&*store, vec![put("a", &number.to_string())]).await;
    }
    store.compact(Revision(6)).await.unwrap();
    let at = |revision| Range {
        start: b"a".to_vec(),
        revision: Some(Revision(revision)),
        ..Range::default()
    };
    let error = store.range(at(5)).await.unwrap_err();
    let StoreError::Compacted { requested, oldest } = error else {
        panic!("{error}")
    };
    assert_eq!((requested, oldest), (Revision(5), Revision(6)));
    assert_eq!(&store.range(at(6)).await.unwrap().items[0].value[..], b"4");
    assert!(matches!(
        store.watch(b"a".to_vec(), Revision(6)).err(),
        Some(StoreError::Compacted { .. })
    ));
    let mut watch = store.watch(b"a".to_vec(), Revision(7)).unwrap();
    assert_eq!(next_events(&mut watch).await[0].revision, Revision(7));
    assert_eq!(&get(&*store, "a").await.unwrap().value[..], b"9");
}

async fn future(store: Arc<dyn Store>) {
    let ahead = Range {
        start: b"a".to_vec(),
        revision: Some(Revision(2)),
        ..Range::default()
    };
    assert!(matches!(
        store.range(ahead).await,
        Err(StoreError::Future { .. })
    ));
    assert!(
        store.watch(b"a".to_vec(), Revision(2)).is_ok(),
        "the next revision may be awaited"
    );
    assert!(matches!(
        store.watch(b"a".to_vec(), Revision(3)).err(),
        Some(StoreError::Future { .. })
    ));
    assert!(matches!(
        store.compact(Revision(2)).await,
        Err(StoreError::Future { .. })
    ));
}
