//! Keys that live under a lease.

use std::{sync::Arc, time::Duration};

use mvcc_store::{Revision, Store, StoreError, Txn};

use crate::suite::{commit, describe, eventually, get, keys, next_events, put, put_leased, read};

/// Longer than a busy disk takes for a few writes.
const SHORT: Duration = Duration::from_secs(5);

pub async fn lease_expiry(store: Arc<dyn Store>) {
    let lease = store.lease_grant(SHORT).await.unwrap();
    let mut watch = store.watch(b"a".to_vec(), Revision(1)).unwrap();
    commit(
        &*store,
        vec![
            put_leased("a1", lease),
            put_leased("a2", lease),
            put("a3", ""),
        ],
    )
    .await;
    assert_eq!(get(&*store, "a1").await.unwrap().lease, Some(lease));
    assert_eq!(next_events(&mut watch).await.len(), 3);
    let events: Vec<_> = next_events(&mut watch).await.iter().map(describe).collect();
    assert_eq!(events, ["3 a1: leased -> gone", "3 a2: leased -> gone"]);
    assert_eq!(keys(&read(&*store, "a", "b").await), ["a3"]);
    let again = store.lease_keep_alive(lease).await;
    assert!(matches!(again, Err(StoreError::LeaseNotFound(id)) if id == lease));
    let txn = Txn {
        compare: vec![],
        operations: vec![put_leased("a", lease)],
    };
    assert!(matches!(
        store.txn(txn).await,
        Err(StoreError::LeaseNotFound(_))
    ));
}

pub async fn lease_life(store: Arc<dyn Store>) {
    let lease = store.lease_grant(Duration::from_secs(3600)).await.unwrap();
    let short = store.lease_grant(SHORT).await.unwrap();
    assert_ne!(lease, short);
    commit(&*store, vec![put_leased("kept", lease)]).await;
    commit(&*store, vec![put_leased("freed", short)]).await;
    commit(&*store, vec![put_leased("moved", short)]).await;
    commit(&*store, vec![put_leased("lost", short)]).await;
    commit(&*store, vec![put("freed", "")]).await;
    commit(&*store, vec![put_leased("moved", lease)]).await;
    eventually(|| async { get(&*store, "lost").await.is_none() }).await;
    store.lease_keep_alive(lease).await.unwrap();
    assert_eq!(
        keys(&read(&*store, "a", "z").await),
        ["freed", "kept", "moved"]
    );
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(keys(&read(&*store, "a", "z").await), ["freed"]);
    assert!(matches!(
        store.lease_revoke(lease).await,
        Err(StoreError::LeaseNotFound(_))
    ));
    let zero = store.lease_grant(Duration::ZERO).await;
    assert!(matches!(zero, Err(StoreError::Invalid(_))));
}
