//! The load on etcd: reads and watches of clients are answered from memory, and an etcd without room refuses what is
//! new, and only that.

use futures::future::join_all;
use mvcc_store::{Range, Revision, Store, StoreError, Txn};

use crate::{
    etcd::Cluster,
    own_keys::Raw,
    suite::{commit, delete, eventually, get, put},
};

const READS: u32 = 200;
const WATCHES: usize = 50;

/// Reads that were answered by etcd, and bytes that it sent, as etcd counts them.
fn counted(cluster: &Cluster) -> (f64, f64) {
    let ranges = "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\"";
    let sent = "etcd_network_client_grpc_sent_bytes_total";
    let member = &cluster.members[0];
    (member.metric(ranges), member.metric(sent))
}

/// docs/high-availability.md: the load on etcd does not depend on the clients' reads and watches,
/// apart from the read index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_take_no_more_than_the_read_index() {
    let cluster = Cluster::start(1, None);
    let store = cluster.store(0).await;
    for number in 0..100 {
        let value = "x".repeat(5000);
        commit(&*store, vec![put(&format!("k{number}"), &value)]).await;
    }
    let all = || Range {
        start: b"k".to_vec(),
        end: Some(b"l".to_vec()),
        ..Range::default()
    };
    let watchers = cluster.members[0].metric("etcd_debugging_mvcc_watcher_total");
    let before = counted(&cluster);
    let from = Revision(store.current_revision().0 + 1);
    let watches: Vec<_> = (0..WATCHES)
        .map(|_| store.watch(b"k".to_vec(), from).unwrap())
        .collect();
    // From the memory of the server, as with `resourceVersion=0`.
    for _ in 0..READS {
        assert_eq!(store.range(all()).await.unwrap().items.len(), 100);
    }
    let of_memory = counted(&cluster);
    // One after the other, each at the newest revision.
    for _ in 0..READS {
        store.newest().await.unwrap();
        assert_eq!(store.range(all()).await.unwrap().items.len(), 100);
    }
    let fresh = counted(&cluster);
    // At the same time: they share the question.
    let newest = (0..READS).map(|_| store.newest());
    assert!(join_all(newest).await.iter().all(Result::is_ok));
    let shared = counted(&cluster);
    // Others read now and then: the look at alarms, compaction.
    let few = 20.0;
    let reads = f64::from(READS);
    let ranges = [
        of_memory.0 - before.0,
        fresh.0 - of_memory.0,
        shared.0 - fresh.0,
    ];
    assert!(ranges[0] <= few, "{ranges:?}");
    assert!((reads..=reads + few).contains(&ranges[1]), "{ranges:?}");
    assert!(ranges[2] <= reads / 4.0, "{ranges:?}");
    // Each list has half a megabyte. An answer of etcd has a revision and a count.
    let sent = fresh.1 - of_memory.1;
    assert!(sent < 300.0 * (reads + few), "{sent} bytes");
    let now = cluster.members[0].metric("etcd_debugging_mvcc_watcher_total");
    assert!(
        (now - watchers).abs() < 0.5,
        "{watchers} watches before, {now} after"
    );
    drop(watches);
}

/// etcd without room (alarm NOSPACE): what is new is refused as on a full disk, reads and deletions are not; after
/// room was made, writes continue without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_is_told_as_a_full_disk() {
    let cluster = Cluster::with(1, None, &["--quota-backend-bytes=4194304"]);
    let store = cluster.store(0).await;
    let first = commit(&*store, vec![put("kept", "1"), put("gone", "1")]).await;
    let large = |number: u32| Txn {
        compare: Vec::new(),
        operations: vec![put("large", &format!("{number}{}", "x".repeat(500_000)))],
    };
    let mut refused = None;
    for number in 0..100 {
        match store.txn(large(number)).await {
            Ok(_) => {}
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    assert!(matches!(refused, Some(StoreError::Full(_))), "{refused:?}");
    assert!(store.occupancy().full.is_some());
    assert!(get(&*store, "kept").await.is_some());
    store.newest().await.unwrap();
    let removed = commit(&*store, vec![delete("gone")]).await;
    assert_eq!(get(&*store, "gone").await, None);
    // The history is compacted all the same.
    store.compact(first).await.unwrap();
    let raw = Raw::connect(&cluster).await;
    raw.make_room(removed.0).await;
    eventually(|| async { store.txn(large(1000)).await.is_ok() }).await;
    assert!(store.occupancy().full.is_none());
    assert!(store.failure().is_none());
}
