//! Several servers over one cluster, and the ways to connect.

use std::{fs, path::Path, sync::Arc, time::Duration};

use etcd_store::{EtcdOptions, EtcdStore};
use mvcc_store::{Compare, Range, Revision, Store, StoreError, Txn, TxnResult, WatchEvents};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};

use crate::{
    etcd::{Cluster, Files, connect, limits, own_address},
    suite::{commit, delete, describe, eventually, get, next_events, put, put_leased},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_read_has_the_writes_of_other_servers() {
    let cluster = Cluster::start(1, None);
    let (one, other) = (cluster.store(0).await, cluster.store(0).await);
    let mut watch = other.watch(b"a".to_vec(), Revision(2)).unwrap();
    for number in 2..100_u64 {
        let written = commit(&*one, vec![put("a", &number.to_string())]).await;
        assert_eq!(written, Revision(number));
        if number % 2 == 0 {
            assert!(other.newest().await.unwrap() >= written);
        } else {
            other.reached(written).await.unwrap();
        }
        let read = get(&*other, "a").await.unwrap();
        assert_eq!(read.mod_revision, written);
        assert_eq!(get(&*one, "a").await.unwrap(), read);
        assert_eq!(next_events(&mut watch).await[0].revision, written);
    }
}

/// The revision of the cluster also grows by keys of others, which have no events here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_outside_of_the_prefix_only_move_the_revision() {
    let cluster = Cluster::start(1, None);
    let store = cluster.store(0).await;
    let strangers = connect(&EtcdOptions {
        prefix: "/mainstay-too".to_owned(),
        limits: limits(),
        ..EtcdOptions::new(cluster.urls_from(0))
    })
    .await;
    let mut watch = store.watch(b"".to_vec(), Revision(1)).unwrap();
    let theirs = commit(&*strangers, vec![put("a", "theirs")]).await;
    assert_eq!(store.newest().await.unwrap(), theirs);
    assert_eq!(get(&*store, "a").await, None);
    let local = commit(&*store, vec![put("a", "own")]).await;
    assert_eq!(local, Revision(theirs.0 + 1));
    let observed = next_events(&mut watch).await;
    assert_eq!(describe(&observed[0]), "3 a: nothing -> own");
    assert_eq!(strangers.newest().await.unwrap(), local);
    assert_eq!(&get(&*strangers, "a").await.unwrap().value[..], b"theirs");
}

/// Many servers create the same key: one of them does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_servers_creates_a_key() {
    let cluster = Cluster::start(1, None);
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(cluster.store(0).await);
    }
    for number in 0..30 {
        let key = format!("k{number}");
        let creations = stores.iter().map(|store| {
            store.txn(Txn {
                compare: vec![Compare::Absent(key.clone().into())],
                operations: vec![put(&key, "x")],
            })
        });
        let results = futures::future::join_all(creations).await;
        let created = results
            .iter()
            .filter(|result| matches!(result, Ok(TxnResult::Committed { .. })));
        assert_eq!(created.count(), 1, "{results:?}");
        // Those that were refused have the key by now.
        for (store, result) in stores.iter().zip(&results) {
            assert!(get(&**store, &key).await.is_some(), "{result:?}");
        }
    }
}

/// A store that begins later has all keys, also those in later pages, with leases and revisions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_server_reads_all_keys() {
    let cluster = Cluster::start(1, None);
    let first = cluster.store(0).await;
    let lease = first.lease_grant(Duration::from_secs(600)).await.unwrap();
    for page in 0..7 {
        let puts = (0..100).map(|number| put(&format!("k{page}{number:02}"), "x"));
        commit(&*first, puts.collect()).await;
    }
    commit(&*first, vec![put_leased("leased", lease)]).await;
    commit(&*first, vec![delete("k000")]).await;
    let later = cluster.store(0).await;
    assert_eq!(later.current_revision(), first.current_revision());
    let all = Range {
        start: b"a".to_vec(),
        end: Some(b"z".to_vec()),
        ..Range::default()
    };
    let (theirs, ours) = (first.range(all.clone()).await, later.range(all).await);
    assert_eq!(theirs.unwrap(), ours.clone().unwrap());
    assert_eq!(ours.unwrap().count, 700);
    later.lease_keep_alive(lease).await.unwrap();
    let before = Revision(later.current_revision().0);
    assert!(matches!(
        later.watch(b"".to_vec(), before).err(),
        Some(StoreError::Compacted { .. })
    ));
    later.lease_revoke(lease).await.unwrap();
    assert_eq!(get(&*later, "leased").await, None);
}

/// An etcd that was replaced by an older one is told, and its state never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_went_back_is_told() {
    let mut cluster = Cluster::start(1, None);
    let store = cluster.store(0).await;
    for number in 0..5 {
        commit(&*store, vec![put("a", &number.to_string())]).await;
    }
    assert!(store.failure().is_none());
    cluster.members[0].kill();
    cluster.members[0].wipe();
    cluster.members[0].restart();
    eventually(|| async {
        let refused = store.newest().await.unwrap_err().to_string();
        refused.contains("an older state")
    })
    .await;
    assert!(store.failure().is_some());
}

/// findings-2 S44: each server counts the bytes of each owner, of its own writes and of those of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_of_an_owner_are_known_to_each_server() {
    fn owner(key: &[u8]) -> Option<&[u8]> {
        let end = key.iter().position(|byte| *byte == b'/')?;
        key.get(..end)
    }
    let cluster = Cluster::start(1, None);
    let (writer, reader) = (cluster.store(0).await, cluster.store(0).await);
    commit(
        &*writer,
        vec![put("a/1", &"x".repeat(1000)), put("b/1", "x")],
    )
    .await;
    for store in [&writer, &reader] {
        store.newest().await.unwrap();
        assert_eq!(store.bytes_of_owner(b"a"), 0);
        store.count_by_owner(owner);
    }
    commit(&*writer, vec![put("a/2", &"x".repeat(500)), delete("b/1")]).await;
    let late = cluster.store(0).await;
    late.count_by_owner(owner);
    for store in [&writer, &reader, &late] {
        store.newest().await.unwrap();
        let bytes = store.bytes_of_owner(b"a");
        assert!((1500..3000).contains(&bytes), "{bytes}");
        assert_eq!(store.bytes_of_owner(b"b"), 0);
        assert_eq!(
            store.largest_owner().unwrap(),
            (Arc::from(&b"a"[..]), bytes)
        );
    }
}

/// The quota of each server's memory stops what is new, and lets deletions pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_stops_what_is_new() {
    let cluster = Cluster::start(1, None);
    let mut options = EtcdOptions {
        limits: limits(),
        ..EtcdOptions::new(cluster.urls_from(0))
    };
    options.limits.live_bytes_max = 2000;
    let store = connect(&options).await;
    commit(&*store, vec![put("a", &"x".repeat(1000))]).await;
    let more = Txn {
        compare: Vec::new(),
        operations: vec![put("b", &"x".repeat(1000))],
    };
    let refused = store.txn(more.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Quota { .. }), "{refused}");
    commit(&*store, vec![delete("a")]).await;
    store.txn(more).await.unwrap();
}

/// The history of etcd is compacted while a server does not follow: it reads everything again, its
/// watchers are told, and nothing is invented.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_missed_events_begins_anew() {
    let mut cluster = Cluster::start(1, None);
    let relay = crate::faults::Relay::start(&cluster.members[0].client_url).await;
    let behind = relay.store().await;
    let ahead = cluster.store(0).await;
    commit(&*ahead, vec![put("a", "1"), put("b", "1")]).await;
    behind.newest().await.unwrap();
    let mut watch = behind.watch(b"a".to_vec(), Revision(2)).unwrap();
    assert_eq!(next_events(&mut watch).await[0].revision, Revision(2));
    relay.close(true);
    eventually(|| async { behind.failure().is_some() }).await;
    commit(&*ahead, vec![put("a", "2")]).await;
    commit(&*ahead, vec![delete("a"), put("c", "1")]).await;
    let newest = commit(&*ahead, vec![put("b", "2")]).await;
    ahead.compact(newest).await.unwrap();
    relay.close(false);
    let end = loop {
        match futures::StreamExt::next(&mut watch).await {
            Some(Ok(WatchEvents::Progress(_))) => {}
            other => break other,
        }
    };
    assert!(
        matches!(end, Some(Err(StoreError::WatcherTooSlow))),
        "{end:?}"
    );
    behind.newest().await.unwrap();
    assert_eq!(get(&*behind, "a").await, None);
    assert_eq!(get(&*behind, "c").await, get(&*ahead, "c").await);
    assert!(matches!(
        behind.watch(b"a".to_vec(), newest).err(),
        Some(StoreError::Compacted { .. })
    ));
    let mut watch = behind.watch(b"b".to_vec(), Revision(newest.0 + 1)).unwrap();
    commit(&*behind, vec![put("b", "3")]).await;
    assert_eq!(describe(&next_events(&mut watch).await[0]), "6 b: 2 -> 3");
    cluster.members[0].kill();
}

fn write_certificate(
    dir: &Path,
    name: &str,
    ca: &CertifiedIssuer<'_, KeyPair>,
    usage: ExtendedKeyUsagePurpose,
) -> Files {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([own_address().to_string()]).unwrap();
    // etcd speaks to itself with its own certificate.
    params.extended_key_usages = vec![usage, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, ca).unwrap();
    let files = Files {
        ca: dir.join("ca.pem"),
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}-key.pem")),
    };
    fs::write(&files.ca, ca.pem()).unwrap();
    fs::write(&files.certificate, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_spoken_to_by_tls_with_a_certificate_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority();
    let server = write_certificate(
        dir.path(),
        "server",
        &ca,
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    let client = write_certificate(
        dir.path(),
        "client",
        &ca,
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    let cluster = Cluster::start(1, Some(&server));
    let options = EtcdOptions {
        cafile: Some(client.ca.clone()),
        identity: Some((client.certificate.clone(), client.key.clone())),
        limits: limits(),
        ..EtcdOptions::new(cluster.urls_from(0))
    };
    let store = connect(&options).await;
    commit(&*store, vec![put("a", "1")]).await;
    assert!(get(&*store, "a").await.is_some());
    let anonymous = EtcdOptions {
        identity: None,
        ..options.clone()
    };
    assert!(EtcdStore::connect(&anonymous).await.is_err());
    let others = dir.path().join("others.pem");
    fs::write(&others, authority().pem()).unwrap();
    let trusts_others = EtcdOptions {
        cafile: Some(others),
        ..options
    };
    assert!(EtcdStore::connect(&trusts_others).await.is_err());
}

/// Renewed certificates are used for the next connection; those that cannot be read are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificates_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, renewed) = (authority(), authority());
    let of_client = ExtendedKeyUsagePurpose::ClientAuth;
    let mut server = write_certificate(
        dir.path(),
        "server",
        &ca,
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    let ca_of_servers = server.ca.clone();
    let client = write_certificate(dir.path(), "client", &ca, of_client.clone());
    // The authority of clients, which is replaced.
    server.ca = dir.path().join("clients.pem");
    fs::write(&server.ca, ca.pem()).unwrap();
    let mut cluster = Cluster::start(1, Some(&server));
    let store = connect(&EtcdOptions {
        cafile: Some(ca_of_servers.clone()),
        identity: Some((client.certificate.clone(), client.key.clone())),
        limits: limits(),
        ..EtcdOptions::new(cluster.urls_from(0))
    })
    .await;
    commit(&*store, vec![put("a", "1")]).await;
    // Half of a renewal: the former one is used.
    fs::write(&client.key, "").unwrap();
    cluster.members[0].kill();
    cluster.members[0].restart();
    eventually(|| async { store.newest().await.is_ok() }).await;
    cluster.members[0].kill();
    fs::write(&server.ca, renewed.pem()).unwrap();
    write_certificate(dir.path(), "client", &renewed, of_client);
    fs::write(&ca_of_servers, ca.pem()).unwrap();
    cluster.members[0].restart();
    eventually(|| async { store.newest().await.is_ok() }).await;
    commit(&*store, vec![put("a", "2")]).await;
}
