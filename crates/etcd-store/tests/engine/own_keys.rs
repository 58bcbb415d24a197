//! The keys that a process keeps in etcd for itself: they are gone with it, and their loss does no harm.

use std::time::Duration;

use grpc::{Channel, ChannelOptions};
use mvcc_store::{Compare, Operation, Store, Txn, TxnResult};
use object_model::protobuf::{Reader, Wire, Writer};
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
        let path = "/etcdserverpb.Maintenance/Status";
        let answer = self.0.call(path, &[], Duration::from_secs(3)).await.ok()?;
        let header = field(&answer, 1)?.bytes().ok()?;
        let own = field(header, 2)?.varint().ok()?;
        Some(field(&answer, 4)?.varint().ok()? == own)
    }

    /// The keys with a prefix.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let pairs = self.pairs_at(prefix, 0).await;
        pairs.into_iter().map(|(key, ..)| key).collect()
    }

    /// The keys with a prefix, their stored values and the revisions of these; at the newest revision for 0.
    pub async fn pairs_at(&self, prefix: &str, revision: u64) -> Vec<(String, Vec<u8>, u64)> {
        let mut request = Writer::default();
        request.bytes(1 << 3 | 2, prefix.as_bytes());
        request.bytes(2 << 3 | 2, format!("{prefix}\u{7f}").as_bytes());
        request.varint(4 << 3, revision);
        let call = self.0.call("/etcdserverpb.KV/Range", &request.0, LIMIT);
        let answer = call.await.unwrap();
        let mut pairs = Vec::new();
        let mut fields = Reader::new(&answer);
        while let Some((number, wire)) = fields.field().unwrap() {
            if number == 2 {
                let pair = wire.bytes().unwrap();
                let part = |number| field(pair, number).map(|wire| wire.bytes().unwrap().to_vec());
                let modified = field(pair, 3).unwrap().varint().unwrap();
                let key = String::from_utf8(part(1).unwrap()).unwrap();
                pairs.push((key, part(5).unwrap_or_default(), modified));
            }
        }
        pairs
    }

    /// Gives the room of former revisions back, and clears the alarm NOSPACE.
    pub async fn make_room(&self, revision: u64) {
        let mut compact = Writer::default();
        compact.varint(1 << 3, revision);
        compact.varint(2 << 3, 1);
        for (path, request) in [
            ("/etcdserverpb.KV/Compact", compact.0),
            ("/etcdserverpb.Maintenance/Defragment", Vec::new()),
        ] {
            self.0.call(path, &request, LIMIT).await.unwrap();
        }
        let path = "/etcdserverpb.Maintenance/Alarm";
        let alarms = self.0.call(path, &[], LIMIT).await.unwrap();
        let alarm = field(&alarms, 2).unwrap().bytes().unwrap();
        let mut clear = Writer::default();
        clear.varint(1 << 3, 2);
        clear.varint(2 << 3, field(alarm, 1).unwrap().varint().unwrap());
        clear.varint(3 << 3, 1);
        self.0.call(path, &clear.0, LIMIT).await.unwrap();
    }

    /// Ends all leases.
    async fn end_leases(&self) -> usize {
        let answer = self.0.call("/etcdserverpb.Lease/LeaseLeases", &[], LIMIT);
        let answer = answer.await.unwrap();
        let mut count = 0;
        let mut fields = Reader::new(&answer);
        while let Some((number, wire)) = fields.field().unwrap() {
            if number == 2 {
                let lease = wire.bytes().unwrap();
                let call = self.0.call("/etcdserverpb.Lease/LeaseRevoke", lease, LIMIT);
                call.await.unwrap();
                count += 1;
            }
        }
        count
    }
}

/// The first field with a number.
fn field(message: &[u8], wanted: u32) -> Option<Wire<'_>> {
    let mut fields = Reader::new(message);
    while let Some((number, wire)) = fields.field().unwrap() {
        if number == wanted {
            return Some(wire);
        }
    }
    None
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
