//! The keys that a process keeps in etcd for itself: they are gone with it, and their loss does no harm.

use std::time::Duration;

use mvcc_store::{Compare, Operation, Store, Txn, TxnResult};
use rpc_channel::{Channel, ChannelOptions};
use service_protocols::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, LeaseLeasesRequest,
    LeaseRevokeRequest, RangeRequest, StatusRequest, alarm_request::AlarmAction, kv, lease,
    maintenance,
};
use tokio::net::TcpStream;

use crate::{
    etcd::Cluster,
    faults::Relay,
    suite::{commit, delete, get, put},
};

const LIMIT: Duration = Duration::from_secs(60);

/// etcd itself, beside any store.
pub struct Raw(Channel);

impl Raw {
    pub async fn connect(cluster: &Cluster) -> Self {
        Self::of(cluster, 0).await.unwrap()
    }

    /// One of the members, if it answers.
    pub async fn of(cluster: &Cluster, member: usize) -> Option<Self> {
        let base = cluster.members[member].client_url.clone();
        let stream = TcpStream::connect(base.trim_start_matches("http://"));
        let options = ChannelOptions {
            keep_alive: None,
            headers: &[],
            message_bytes_max: 1 << 20,
        };
        let channel = Channel::over(stream.await.ok()?, base, options).await;
        channel.ok().map(Self)
    }

    /// Whether the member leads (`StatusResponse.leader` is its own id), if it answers.
    pub async fn leads(&self) -> Option<bool> {
        let status = StatusRequest::default();
        let limit = Duration::from_secs(3);
        let status = self.0.call(maintenance::STATUS, &status, limit);
        let status = status.await.ok()?;
        Some(status.leader == status.header?.member_id)
    }

    /// The keys with a prefix.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let pairs = self.pairs_at(prefix, 0).await;
        pairs.into_iter().map(|(key, ..)| key).collect()
    }

    /// The keys with a prefix, their stored values and the revisions of these; at the newest revision for 0.
    pub async fn pairs_at(&self, prefix: &str, revision: u64) -> Vec<(String, Vec<u8>, u64)> {
        let request = RangeRequest {
            key: prefix.into(),
            range_end: format!("{prefix}\u{7f}").into(),
            revision: revision.cast_signed(),
            ..RangeRequest::default()
        };
        let range = self.0.call(kv::RANGE, &request, LIMIT).await.unwrap();
        let pairs = range.kvs.into_iter().map(|pair| {
            let key = String::from_utf8(pair.key).unwrap();
            (key, pair.value, pair.mod_revision.cast_unsigned())
        });
        pairs.collect()
    }

    /// Gives the room of former revisions back, and clears the alarm NOSPACE.
    pub async fn make_room(&self, revision: u64) {
        let compact = CompactionRequest {
            revision: revision.cast_signed(),
            physical: true,
        };
        let compacted = self.0.call(kv::COMPACT, &compact, LIMIT);
        compacted.await.unwrap();
        let defragment = DefragmentRequest::default();
        let defragmented = self.0.call(maintenance::DEFRAGMENT, &defragment, LIMIT);
        defragmented.await.unwrap();
        let all = AlarmRequest::default();
        let alarms = self.0.call(maintenance::ALARM, &all, LIMIT);
        let alarm = alarms.await.unwrap().alarms.remove(0);
        let clear = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: AlarmType::Nospace.into(),
        };
        let cleared = self.0.call(maintenance::ALARM, &clear, LIMIT);
        cleared.await.unwrap();
    }

    /// Ends all leases.
    async fn end_leases(&self) -> usize {
        let request = LeaseLeasesRequest::default();
        let leases = self.0.call(lease::LEASE_LEASES, &request, LIMIT);
        let leases = leases.await.unwrap().leases;
        for lease in &leases {
            let request = LeaseRevokeRequest { id: lease.id };
            let ended = self.0.call(lease::LEASE_REVOKE, &request, LIMIT);
            ended.await.unwrap();
        }
        leases.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_process_are_gone_with_it() {
    let cluster = Cluster::start(1, None);
    let mut stores = Vec::new();
    for number in 0..3 {
        let store = cluster.store(0).await;
        commit(&*store, vec![put(&format!("k{number}"), "x")]).await;
        stores.push(store);
    }
    let raw = Raw::connect(&cluster).await;
    assert_eq!(raw.keys("/mainstay/marks/").await.len(), 3);
    stores.pop().unwrap().close().await;
    assert_eq!(raw.keys("/mainstay/marks/").await.len(), 2);
    // Those of a process that was killed have a lease, which expires.
    assert_eq!(raw.end_leases().await, 2);
    let left = raw.keys("/mainstay/").await;
    assert_eq!(
        left,
        [
            "/mainstay/data/k0",
            "/mainstay/data/k1",
            "/mainstay/data/k2"
        ]
    );
    // A process that was only away continues.
    commit(&*stores[0], vec![put("k0", "y")]).await;
    assert_eq!(get(&*stores[0], "k0").await.unwrap().value, "y");
}

/// The lease ends while answers are lost: each transaction is carried out once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_loses_and_repeats_nothing() {
    let cluster = Cluster::start(1, None);
    let relay = Relay::start(&cluster.members[0].client_url).await;
    let store = relay.store().await;
    let raw = Raw::connect(&cluster).await;
    let mut ended = 0;
    for number in 0..30 {
        let key = format!("k{number}");
        if number % 2 == 0 {
            ended += raw.end_leases().await;
        }
        if number % 3 != 0 {
            relay.cut_next();
        }
        let created = store.txn(Txn {
            compare: vec![Compare::Absent(key.clone().into())],
            operations: vec![put(&key, "x")],
        });
        let created = created.await.unwrap();
        let TxnResult::Committed { revision, .. } = created else {
            panic!("{number}: {created:?}")
        };
        let stored = get(&*store, &key).await.unwrap();
        assert_eq!(stored.mod_revision, revision);
        ended += raw.end_leases().await;
        let removed = store.txn(Txn {
            compare: vec![Compare::ModRevision(key.clone().into(), revision)],
            operations: vec![delete(&key)],
        });
        let removed = removed.await.unwrap();
        assert!(
            matches!(removed, TxnResult::Committed { .. }),
            "{removed:?}"
        );
    }
    assert!(ended >= 30, "{ended}");
    assert!(raw.keys("/mainstay/fences/").await.len() <= 1);
    // A lease of the user that does not exist is told.
    let leased = Operation::Put {
        key: b"leased".to_vec(),
        value: mvcc_store::Value::Plain("x".into()),
        lease: Some(mvcc_store::LeaseId(4711)),
    };
    let refused = store.txn(Txn {
        compare: Vec::new(),
        operations: vec![leased],
    });
    let refused = refused.await.unwrap_err();
    assert!(
        matches!(refused, mvcc_store::StoreError::LeaseNotFound(_)),
        "{refused}"
    );
}

/// The member that leads, if one says so.
pub async fn leader(cluster: &Cluster) -> Option<usize> {
    for member in 0..cluster.members.len() {
        if Raw::of(cluster, member).await?.leads().await == Some(true) {
            return Some(member);
        }
    }
    None
}
