//! The guarantees of a watch.

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt as _;
use mvcc_store::{EventKind, Range, Revision, Store, StoreError, WatchEvents};

use crate::suite::{WATCHER_COMMITS_MAX, commit, delete, describe, next_events, put};

pub async fn watch_changes(store: Arc<dyn Store>) {
    let mut watch = store.watch(b"a/".to_vec(), Revision(2)).unwrap();
    commit(&*store, vec![put("a/1", "x")]).await;
    commit(&*store, vec![put("b/1", "x")]).await;
    commit(&*store, vec![put("a/1", "y")]).await;
    commit(&*store, vec![delete("a/1")]).await;
    let mut events = Vec::new();
    for _ in 0..3 {
        events.extend(next_events(&mut watch).await.iter().map(describe));
    }
    assert_eq!(
        events,
        ["2 a/1: nothing -> x", "4 a/1: x -> y", "5 a/1: y -> gone"]
    );
}

pub async fn watch_replay(store: Arc<dyn Store>) {
    for number in 0..50 {
        commit(&*store, vec![put("a", &number.to_string())]).await;
    }
    let mut watch = store.watch(b"a".to_vec(), Revision(31)).unwrap();
    for number in 50..60 {
        commit(&*store, vec![put("a", &number.to_string())]).await;
    }
    for revision in 31..=61 {
        assert_eq!(
            next_events(&mut watch).await[0].revision,
            Revision(revision)
        );
    }
}

pub async fn watch_atomic(store: Arc<dyn Store>) {
    let mut watch = store.watch(b"a".to_vec(), Revision(1)).unwrap();
    commit(&*store, vec![put("b", "1"), put("a1", "1"), put("a2", "1")]).await;
    let events: Vec<_> = next_events(&mut watch).await.iter().map(describe).collect();
    assert_eq!(events, ["2 a1: nothing -> 1", "2 a2: nothing -> 1"]);
}

/// Rebuilds the keys from a watch, and compares with reads at the same revisions.
pub async fn many_writers(store: Arc<dyn Store>) {
    // Below the limit for cutting a watcher off, however late it reads.
    const WRITES: u64 = 12;
    const { assert!(8 * WRITES < WATCHER_COMMITS_MAX as u64) };
    let mut watch = store.watch(b"k".to_vec(), Revision(2)).unwrap();
    let writer = |store: Arc<dyn Store>, writer: u64| async move {
        for number in 0..WRITES {
            let key = format!("k{}", (writer * 7 + number) % 10);
            let change = if number % 5 == 4 {
                delete(&key)
            } else {
                put(&key, &key)
            };
            commit(&*store, vec![change, put(&format!("other{writer}"), "")]).await;
        }
    };
    let writers = (0..8).map(|number| tokio::spawn(writer(Arc::clone(&store), number)));
    let writers: Vec<_> = writers.collect();
    let (mut rebuilt, mut reached) = (BTreeMap::new(), Revision(1));
    while reached < Revision(1 + 8 * WRITES) {
        match watch.next().await.unwrap().unwrap() {
            WatchEvents::Progress(mark) => {
                assert!(mark >= reached);
                reached = mark;
            }
            WatchEvents::Events(events) => {
                assert!(
                    events[0].revision > reached,
                    "a revision twice, or out of order"
                );
                reached = events[0].revision;
                for event in events {
                    let was = match event.kind {
                        EventKind::Put(pair) => rebuilt.insert(event.key, pair),
                        EventKind::Delete => rebuilt.remove(&event.key),
                    };
                    assert_eq!(was, event.previous);
                }
            }
        }
        let range = Range {
            start: b"k".to_vec(),
            end: Some(b"l".to_vec()),
            revision: Some(reached),
            limit: None,
        };
        let read = store.range(range).await.unwrap();
        assert!(
            read.items.iter().eq(rebuilt.values()),
            "at revision {}",
            reached.0
        );
    }
    futures::future::join_all(writers).await;
}

pub async fn progress(store: Arc<dyn Store>) {
    commit(&*store, vec![put("b", "1")]).await;
    let mut watch = store.watch(b"a".to_vec(), Revision(1)).unwrap();
    // The end of the replay is marked, so that a reader knows it has caught up.
    assert!(matches!(
        watch.next().await,
        Some(Ok(WatchEvents::Progress(Revision(2))))
    ));
    let newest = commit(&*store, vec![put("b", "2")]).await;
    assert!(matches!(watch.next().await, Some(Ok(WatchEvents::Progress(mark))) if mark == newest));
    commit(&*store, vec![put("a", "1")]).await;
    assert_eq!(next_events(&mut watch).await[0].revision, Revision(4));
}

/// A watcher that reads too late goes on from the history; it is cut off only if that is gone.
pub async fn slow_watcher(store: Arc<dyn Store>) {
    let mut slow = store.watch(b"a".to_vec(), Revision(1)).unwrap();
    let slower = store.watch(b"a".to_vec(), Revision(1)).unwrap();
    let mut quick = store.watch(b"a".to_vec(), Revision(1)).unwrap();
    let count = 12 * WATCHER_COMMITS_MAX as u64;
    let revisions = 2..=count + 1;
    for revision in revisions.clone() {
        commit(&*store, vec![put("a", &revision.to_string())]).await;
        assert_eq!(
            next_events(&mut quick).await[0].revision,
            Revision(revision)
        );
    }
    for revision in revisions {
        assert_eq!(next_events(&mut slow).await[0].revision, Revision(revision));
    }
    let newest = commit(&*store, vec![put("a", "newest")]).await;
    assert_eq!(next_events(&mut slow).await[0].revision, newest);
    store.compact(newest).await.unwrap();
    // The buffer was dropped at once: only the final error is left.
    let events: Vec<_> = slower.collect().await;
    assert!(
        matches!(events[..], [Err(StoreError::WatcherTooSlow)]),
        "{events:?}"
    );
    let last = store.watch(b"a".to_vec(), Revision(newest.0 + 1)).unwrap();
    for number in 0..=WATCHER_COMMITS_MAX {
        commit(&*store, vec![put("a", &number.to_string())]).await;
    }
    drop((store, quick, slow));
    let _seen: Vec<_> = last.collect().await;
}
