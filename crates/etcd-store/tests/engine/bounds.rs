//! An etcd that does not answer: everybody hears of it in a stated time, and what was acknowledged before is not lost.

use std::{sync::Arc, time::Duration};

use mvcc_store::{Compare, Revision, Store, StoreError, Txn, TxnResult};

use crate::{
    etcd::Cluster,
    faults::Relay,
    own_keys,
    suite::{commit, eventually, get, put},
};

/// The longest time of a write (docs/high-availability.md), twice for a busy machine.
const WRITE_LIMIT: Duration = Duration::from_secs(2 * 33);

fn create(key: &str) -> Txn {
    Txn {
        compare: vec![Compare::Absent(key.into())],
        operations: vec![put(key, "x")],
    }
}

/// The answer of a transaction and the key that is stored afterwards agree.
async fn agree(store: &dyn Store, key: &str, response: Result<TxnResult, StoreError>) {
    while let Err(StoreError::Unavailable(_)) = store.newest().await {}
    let stored = get(store, key).await.map(|pair| pair.mod_revision);
    match response {
        Ok(TxnResult::Committed { revision, .. }) => assert_eq!(stored, Some(revision)),
        Err(StoreError::Unavailable(_)) => assert_eq!(stored, None),
        Err(StoreError::OutcomeUnknown(_)) => {}
        other => panic!("{other:?}"),
    }
}

/// A reader that comes while others have waited for long has its own time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reader_has_a_time_of_its_own() {
    let cluster = Cluster::start(1, None);
    let relay = Relay::start(&cluster.members[0].client_url).await;
    let store = relay.store().await;
    store.newest().await.unwrap();
    relay.close(true);
    let begin = tokio::time::Instant::now();
    let reader = |after: u64| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            tokio::time::sleep_until(begin + Duration::from_secs(after)).await;
            store.newest().await
        })
    };
    // Each waits for 10 s. With the time of those before them, the last two would end together.
    let [first, second, third] = [reader(0), reader(4), reader(9)];
    for waiting in [first, second] {
        let response = waiting.await.unwrap();
        assert!(
            matches!(response, Err(StoreError::Unavailable(_))),
            "{response:?}"
        );
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!third.is_finished());
    relay.close(false);
    // It is answered as soon as etcd is there.
    third.await.unwrap().unwrap();
}

/// A leader that says nothing (SIGSTOP), alone and among three.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_answered_in_its_time_while_the_leader_stands_still() {
    for members in [1, 3] {
        let cluster = Cluster::start(members, None);
        let store = cluster.store(0).await;
        let before = commit(&*store, vec![put("before", "x")]).await;
        let leader = own_keys::leader(&cluster).await.unwrap();
        cluster.members[leader].pause();
        let response = tokio::time::timeout(WRITE_LIMIT, store.txn(create("k"))).await;
        cluster.members[leader].resume();
        let response = response.expect("an answer in time");
        eprintln!("{members} members: {response:?}");
        assert!(response.is_err() || members > 1, "{response:?}");
        agree(&*store, "k", response).await;
        let retained = get(&*store, "before").await.unwrap();
        assert_eq!(retained.mod_revision, before);
    }
}

/// One of three members is left: reads of the copy continue, others are refused, and so are writes, of which nothing
/// is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_written_and_nothing_is_lost() {
    let mut cluster = Cluster::start(3, None);
    let store = cluster.store(0).await;
    // Two of three are enough for all.
    cluster.members[2].kill();
    eventually(|| async { store.txn(create("of-two")).await.is_ok() }).await;
    assert!(get(&*store, "of-two").await.is_some());
    cluster.members[1].kill();
    // The member that is left may take the write before it misses the others.
    let first = tokio::time::timeout(WRITE_LIMIT, store.txn(create("first"))).await;
    let first = first.expect("an answer in time");
    assert!(first.is_err(), "{first:?}");
    let second = tokio::time::timeout(WRITE_LIMIT, store.txn(create("second"))).await;
    let second = second.expect("an answer in time");
    assert!(
        matches!(second, Err(StoreError::Unavailable(_))),
        "{second:?}"
    );
    let fresh = store.newest().await;
    assert!(
        matches!(fresh, Err(StoreError::Unavailable(_))),
        "{fresh:?}"
    );
    let of_two = get(&*store, "of-two").await.unwrap();
    assert!(store.watch(b"k".to_vec(), Revision(2)).is_ok());
    cluster.members[1].restart();
    agree(&*store, "first", first).await;
    agree(&*store, "second", second).await;
    assert_eq!(get(&*store, "of-two").await, Some(of_two));
    eventually(|| async { store.txn(create("after")).await.is_ok() }).await;
    cluster.members[2].restart();
}
