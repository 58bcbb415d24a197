//! Copies of a store into etcd, and out of it.

use std::sync::Arc;

use bytes::Bytes;
use etcd_store::{
    ConnectError, EtcdOptions, EtcdStore,
    copy::{CopyError, EtcdCopy, PrefixContents},
};
use mvcc_store::{
    Compare, KeyValue, Omittable, Revision, Store, StoreError, Txn, TxnResult,
    embedded::EmbeddedStore,
};

use crate::{
    etcd::{Cluster, connect, limits},
    own_keys::Raw,
    suite::{commit, delete, eventually, get, next_events, put},
};

const SOURCE: Revision = Revision(5000);

fn pair(number: usize) -> KeyValue {
    KeyValue {
        key: Arc::from(format!("k{number:03}").as_bytes()),
        value: Bytes::from(format!("value {number}")),
        create_revision: Revision(number as u64 + 2),
        mod_revision: Revision(number as u64 + 1000),
        lease: None,
        omittable: Omittable::UNKNOWN,
    }
}

fn options(cluster: &Cluster) -> EtcdOptions {
    EtcdOptions {
        limits: limits(),
        ..EtcdOptions::new(cluster.urls_from(0))
    }
}

/// Connects as soon as etcd is ready.
async fn copy(options: &EtcdOptions) -> EtcdCopy {
    connect(&EtcdOptions {
        prefix: "/other".to_owned(),
        ..options.clone()
    })
    .await;
    EtcdCopy::connect(options).await.unwrap()
}

/// Copies pairs, which continue at the revision of their store.
async fn fill(copy: &mut EtcdCopy, count: usize) {
    let begun = copy.begin("instance").await.unwrap();
    for number in 0..count {
        copy.put(&begun, &pair(number)).await.unwrap();
    }
    let written = copy.finish(&begun).await.unwrap();
    let written: Vec<KeyValue> = written.values().map(|pair| KeyValue::clone(pair)).collect();
    assert_eq!(written, (0..count).map(pair).collect::<Vec<_>>());
    copy.complete(begun, SOURCE).await.unwrap();
}

fn replace(key: &str, revision: Revision) -> Txn {
    Txn {
        compare: vec![Compare::ModRevision(key.into(), revision)],
        operations: vec![put(key, "new")],
    }
}

/// Clients that know the former revisions never see a smaller one, and their watches are told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copied_pairs_keep_their_revisions_and_new_ones_are_above() {
    let cluster = Cluster::start(1, None);
    let options = options(&cluster);
    let mut copy = copy(&options).await;
    fill(&mut copy, 300).await;
    let (one, other) = (connect(&options).await, connect(&options).await);
    for store in [&one, &other] {
        assert!(store.current_revision() > SOURCE);
        assert_eq!(get(&**store, "k007").await.unwrap(), pair(7));
    }
    for from in [Revision(1007), SOURCE, Revision(SOURCE.0 + 1)] {
        let watch = one.watch(b"k".to_vec(), from).err();
        assert!(
            matches!(watch, Some(StoreError::Compacted { .. })),
            "{from:?}"
        );
    }
    let next = Revision(one.current_revision().0 + 1);
    let mut watch = other.watch(b"k".to_vec(), next).unwrap();
    // A precondition of the former time holds until the pair changes.
    let wrong = one.txn(replace("k007", Revision(1008))).await.unwrap();
    let TxnResult::Refused { present, revision } = wrong else {
        panic!("{wrong:?}")
    };
    assert_eq!(present, [Some(pair(7))]);
    assert!(revision > SOURCE);
    let written = one.txn(replace("k007", Revision(1007))).await.unwrap();
    let TxnResult::Committed { revision, .. } = written else {
        panic!("{written:?}")
    };
    assert!(revision >= next);
    assert_eq!(next_events(&mut watch).await[0].revision, revision);
    assert_eq!(get(&*other, "k007").await.unwrap().mod_revision, revision);
    for store in [&one, &other] {
        let again = store.txn(replace("k007", Revision(1007))).await.unwrap();
        assert!(matches!(again, TxnResult::Refused { .. }), "{again:?}");
        let newest = store.newest().await.unwrap();
        assert!(newest >= revision);
        store.reached(newest).await.unwrap();
    }
    let again = other.txn(replace("k007", revision)).await.unwrap();
    assert!(matches!(again, TxnResult::Committed { .. }), "{again:?}");
    // A deleted pair does not come back by its former revision.
    commit(&*one, vec![delete("k008")]).await;
    let deleted = other.txn(replace("k008", Revision(1008))).await.unwrap();
    assert!(matches!(deleted, TxnResult::Refused { .. }), "{deleted:?}");
    // A later server sees the same.
    let later = connect(&options).await;
    assert_eq!(get(&*later, "k009").await.unwrap(), pair(9));
    assert_eq!(get(&*later, "k007").await, get(&*one, "k007").await);
    one.compact(later.current_revision()).await.unwrap();
}

/// Of two servers, one replaces a copied pair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_pair_is_replaced_once() {
    let cluster = Cluster::start(1, None);
    let options = options(&cluster);
    let mut copy = copy(&options).await;
    fill(&mut copy, 40).await;
    let (one, other) = (connect(&options).await, connect(&options).await);
    for number in 0..40 {
        let key = format!("k{number:03}");
        let former = pair(number).mod_revision;
        let both = tokio::join!(
            one.txn(replace(&key, former)),
            other.txn(replace(&key, former))
        );
        let both = [both.0.unwrap(), both.1.unwrap()];
        let committed = both
            .iter()
            .filter(|result| matches!(result, TxnResult::Committed { .. }));
        assert_eq!(committed.count(), 1, "{both:?}");
    }
}

/// Servers refuse what is not complete; it is started again, and what is not empty is not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_copy_is_refused_and_begun_again() {
    let cluster = Cluster::start(1, None);
    let options = options(&cluster);
    let mut copy = copy(&options).await;
    assert_eq!(copy.contents().await.unwrap(), PrefixContents::Nothing);
    let former = copy.begin("instance").await.unwrap();
    for number in 0..250 {
        copy.put(&former, &pair(number + 500)).await.unwrap();
    }
    let refused = EtcdStore::connect(&options).await.err();
    assert!(
        matches!(refused, Some(ConnectError::Incomplete)),
        "{refused:?}"
    );
    let refused = copy.pairs().await.unwrap_err();
    assert!(matches!(refused, CopyError::Etcd(ConnectError::Incomplete)));
    let mut again = EtcdCopy::connect(&options).await.unwrap();
    let instance = "instance".to_owned();
    assert_eq!(
        again.contents().await.unwrap(),
        PrefixContents::Incomplete { instance }
    );
    fill(&mut again, 120).await;
    // The one that was interrupted can write nothing any more.
    assert!(matches!(
        copy.finish(&former).await,
        Err(CopyError::Written)
    ));
    assert!(matches!(
        copy.complete(former, Revision(1)).await,
        Err(CopyError::Written)
    ));
    let refused = copy.begin("instance").await.err();
    assert!(matches!(refused, Some(CopyError::Written)));
    assert!(matches!(
        again.contents().await.unwrap(),
        PrefixContents::Data { .. }
    ));
    let store = connect(&options).await;
    assert_eq!(get(&*store, "k119").await.unwrap(), pair(119));
    assert_eq!(get(&*store, "k500").await, None);
    let raw = Raw::connect(&cluster).await;
    assert_eq!(raw.keys("/mainstay/data/").await.len(), 120);
}

/// A prefix with keys, also of a server that begins at the same time, is no target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_not_overwritten() {
    let cluster = Cluster::start(1, None);
    let options = options(&cluster);
    let copy = copy(&options).await;
    // This server is there before the copy, and has written nothing yet.
    let server = connect(&options).await;
    let begun = copy.begin("instance").await.unwrap();
    let refused = server
        .txn(Txn {
            compare: Vec::new(),
            operations: vec![put("a", "1")],
        })
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::Replaced(_)), "{refused}");
    assert!(server.failure().is_some());
    copy.complete(begun, SOURCE).await.unwrap();
    assert!(server.newest().await.is_err());
    let other = EtcdOptions {
        prefix: "/second".to_owned(),
        ..options.clone()
    };
    let store = connect(&other).await;
    commit(&*store, vec![put("a", "1")]).await;
    let copy = EtcdCopy::connect(&other).await.unwrap();
    assert!(matches!(
        copy.contents().await.unwrap(),
        PrefixContents::Data { keys: 2 }
    ));
    assert!(matches!(
        copy.begin("instance").await.err(),
        Some(CopyError::Written)
    ));
    assert_eq!(get(&*store, "a").await.unwrap().value, "1");
    assert!(store.failure().is_none());
}

/// The data continues elsewhere only if no server has written meanwhile, and then none can write here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_was_copied_elsewhere_is_left() {
    let cluster = Cluster::start(1, None);
    let options = options(&cluster);
    let mut copy = copy(&options).await;
    fill(&mut copy, 10).await;
    let server = connect(&options).await;
    commit(&*server, vec![put("k001", "changed")]).await;
    let pairs = copy.pairs().await.unwrap();
    assert!(copy.is_unchanged(&pairs).await.unwrap());
    assert_eq!(pairs.revision, server.current_revision());
    commit(&*server, vec![delete("k002")]).await;
    assert!(!copy.is_unchanged(&pairs).await.unwrap());
    let overlooked = copy.leave(&pairs, "host /data").await;
    assert!(matches!(overlooked, Err(CopyError::Written)));
    // Nothing is lost by that: servers start again.
    let server = connect(&options).await;
    let idle = connect(&options).await;
    let pairs = copy.pairs().await.unwrap();
    assert_eq!(pairs.live.len(), 9);
    copy.leave(&pairs, "host /data").await.unwrap();
    // Again after an interruption, to the same place only.
    copy.leave(&copy.pairs().await.unwrap(), "host /data")
        .await
        .unwrap();
    assert!(matches!(
        copy.leave(&pairs, "host /else").await,
        Err(CopyError::Written)
    ));
    for store in [&server, &idle] {
        let refused = store
            .txn(Txn {
                compare: Vec::new(),
                operations: vec![put("late", "1")],
            })
            .await;
        assert!(
            matches!(refused, Err(StoreError::Replaced(_))),
            "{refused:?}"
        );
        eventually(|| async { store.failure().is_some() }).await;
    }
    let refused = EtcdStore::connect(&options).await.err();
    assert!(
        matches!(&refused, Some(ConnectError::Moved(to)) if to == "host /data"),
        "{refused:?}"
    );
    // Into another engine, as it is.
    let directory = tempfile::tempdir().unwrap();
    let retained = pairs.live.values().map(|pair| Ok(KeyValue::clone(pair)));
    mvcc_store::embedded::import(directory.path(), pairs.revision, retained).unwrap();
    let options = mvcc_store::embedded::EmbeddedOptions::new(directory.path());
    let embedded = EmbeddedStore::open(options).unwrap();
    assert_eq!(get(&*embedded, "k003").await.unwrap(), pair(3));
    assert_eq!(embedded.current_revision(), pairs.revision);
    embedded.close();
}
