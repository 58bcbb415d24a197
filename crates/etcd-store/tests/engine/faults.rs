//! Broken connections, killed members: no acknowledged write is lost, and none is carried out twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_store::{EtcdOptions, EtcdStore};
use futures::StreamExt as _;
use mvcc_store::{Compare, Revision, Store, StoreError, Txn, TxnResult, WatchEvents};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    etcd::{Cluster, connect, limits},
    suite::{commit, delete, get, put},
};

/// A server between a store and etcd, whose connections can be cut.
pub struct Relay {
    port: u16,
    /// New connections are refused, and old ones cut.
    closed: watch::Sender<bool>,
    /// The next bytes from etcd cut the connection instead of passing.
    cuts_next: Arc<AtomicBool>,
    /// The time that bytes from etcd wait, in milliseconds.
    delay: Arc<AtomicU64>,
}

impl Relay {
    pub async fn start(member: &str) -> Self {
        let member = member.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let closed = watch::Sender::new(false);
        let cuts_next = Arc::new(AtomicBool::new(false));
        let delay = Arc::new(AtomicU64::new(0));
        let faults = Faults {
            closed: closed.subscribe(),
            cuts_next: Arc::clone(&cuts_next),
            delay: Arc::clone(&delay),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&member).await else {
                    continue;
                };
                tokio::spawn(pass(client, server, faults.clone()));
            }
        });
        Self {
            port,
            closed,
            cuts_next,
            delay,
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A store that reaches its member through the relay only.
    pub async fn store(&self) -> Arc<EtcdStore> {
        connect(&EtcdOptions {
            limits: limits(),
            ..EtcdOptions::new([self.url()])
        })
        .await
    }

    pub fn close(&self, closed: bool) {
        self.closed.send_replace(closed);
    }

    pub fn cut_next(&self) {
        self.cuts_next.store(true, Ordering::SeqCst);
    }

    fn delay(&self, milliseconds: u64) {
        self.delay.store(milliseconds, Ordering::SeqCst);
    }
}

/// The faults of the connections through a relay.
#[derive(Clone)]
struct Faults {
    closed: watch::Receiver<bool>,
    cuts_next: Arc<AtomicBool>,
    delay: Arc<AtomicU64>,
}

async fn pass(client: TcpStream, server: TcpStream, mut faults: Faults) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::io::copy(&mut from_client, &mut to_server);
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from_server.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if faults.cuts_next.swap(false, Ordering::SeqCst) {
                        return;
                    }
                    let delay = faults.delay.load(Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                    if to_client.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    // A closed relay passes nothing on, not even what was sent before.
    tokio::select! {
        biased;
        _ = faults.closed.wait_for(|closed| *closed) => {}
        _ = up => {}
        () = down => {}
    }
}

/// etcd carries the transaction out, and its answer is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_answer_is_lost_is_found() {
    let cluster = Cluster::start(1, None);
    let relay = Relay::start(&cluster.members[0].client_url).await;
    let store = relay.store().await;
    let mut watch = store.watch(b"k".to_vec(), Revision(2)).unwrap();
    for number in 0..40 {
        let key = format!("k{number}");
        relay.cut_next();
        let created = store
            .txn(Txn {
                compare: vec![Compare::Absent(key.clone().into())],
                operations: vec![put(&key, "x")],
            })
            .await
            .unwrap();
        // A refusal would come from the first attempt.
        let TxnResult::Committed { revision, results } = created else {
            panic!("{number}: {created:?}")
        };
        let stored = get(&*store, &key).await.unwrap();
        assert_eq!(stored.mod_revision, revision);
        assert_eq!(stored.create_revision, revision);
        assert_eq!(results, [mvcc_store::OperationResult::Put(stored.clone())]);
        relay.cut_next();
        let removed = store
            .txn(Txn {
                compare: vec![Compare::ModRevision(key.clone().into(), revision)],
                operations: vec![delete(&key)],
            })
            .await
            .unwrap();
        let TxnResult::Committed { results, .. } = removed else {
            panic!("{number}: {removed:?}")
        };
        assert_eq!(results, [mvcc_store::OperationResult::Delete(Some(stored))]);
    }
    let mut observed = 0;
    while observed < 80 {
        if let WatchEvents::Events(events) = watch.next().await.unwrap().unwrap() {
            assert_eq!(events.len(), 1);
            observed += 1;
        }
    }
    assert_eq!(get(&*store, "k0").await, None);
}

/// A slow etcd is back just before the transaction would be given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_attempt_has_its_whole_time() {
    /// Time until etcd is back. Attempts begin for 17 s, and the connection alone takes the rest of them.
    const AWAY: Duration = Duration::from_secs(16);
    /// Time until etcd is fast again: the outcome of a failed attempt is looked for over a fast connection.
    const SLOW: Duration = Duration::from_secs(19);
    /// The time for that search.
    const FINDING_OUT: Duration = Duration::from_secs(10);
    let cluster = Cluster::start(1, None);
    let relay = Relay::start(&cluster.members[0].client_url).await;
    let store = relay.store().await;
    commit(&*store, vec![put("before", "x")]).await;
    relay.close(true);
    // The first attempt must not use the old connection: its outcome would be unknown.
    while store.newest().await.is_ok() {}
    let begun = Instant::now();
    let late = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let operations = vec![put("late", "x")];
            let compare = vec![Compare::Absent(b"late".to_vec())];
            let result = store
                .txn(Txn {
                    compare,
                    operations,
                })
                .await;
            (result, begun.elapsed())
        }
    });
    tokio::time::sleep_until((begun + AWAY).into()).await;
    relay.delay(600);
    relay.close(false);
    tokio::time::sleep_until((begun + SLOW).into()).await;
    relay.delay(0);
    let (late, took) = late.await.unwrap();
    while let Err(StoreError::Unavailable(_)) = store.newest().await {}
    let stored = get(&*store, "late").await.map(|pair| pair.mod_revision);
    match late {
        Ok(TxnResult::Committed { revision, .. }) => assert_eq!(stored, Some(revision)),
        // The client came too late, on a busy machine.
        Err(StoreError::Unavailable(_)) => assert_eq!(stored, None),
        // A machine that is busy all that time does not find the outcome out. No attempt ends while etcd is away.
        Err(StoreError::OutcomeUnknown(_)) if took >= AWAY + FINDING_OUT => {}
        other => panic!("after {took:?}: {other:?}"),
    }
}

/// Tasks that create keys and count, while members are killed.
struct Load {
    stop: AtomicBool,
    created: AtomicU64,
    counted: AtomicU64,
    /// The transactions whose outcome could not be found out: a busy machine elects no leader for long.
    unknown: AtomicU64,
    /// The longest time of one transaction, in milliseconds.
    longest: AtomicU64,
}

impl Load {
    /// The result of the transaction, if it could be found out.
    async fn txn(&self, store: &EtcdStore, txn: Txn) -> Option<TxnResult> {
        let start = Instant::now();
        let result = loop {
            match store.txn(txn.clone()).await {
                // Nothing was written: a busy machine elects no leader in time.
                Err(StoreError::Unavailable(_)) => {}
                Err(StoreError::OutcomeUnknown(_)) => {
                    self.unknown.fetch_add(1, Ordering::SeqCst);
                    break None;
                }
                result => break Some(result.unwrap()),
            }
        };
        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
        self.longest.fetch_max(took, Ordering::SeqCst);
        result
    }

    async fn create(&self, store: Arc<EtcdStore>, task: usize) -> Vec<(String, Revision)> {
        let mut acknowledged = Vec::new();
        for number in 0_u64.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let key = format!("created/{task}/{number}");
            let txn = Txn {
                compare: vec![Compare::Absent(key.clone().into())],
                operations: vec![put(&key, "x")],
            };
            match self.txn(&store, txn).await {
                Some(TxnResult::Committed { revision, .. }) => acknowledged.push((key, revision)),
                Some(refused) => panic!("{key} was carried out before: {refused:?}"),
                None => {}
            }
            self.created.fetch_add(1, Ordering::SeqCst);
        }
        acknowledged
    }

    /// Adds one to the number in a key, which other tasks change, too.
    async fn count(&self, store: Arc<EtcdStore>) -> u64 {
        let mut added = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let now = get(&*store, "number").await.unwrap();
            let number: u64 = std::str::from_utf8(&now.value).unwrap().parse().unwrap();
            let txn = Txn {
                compare: vec![Compare::ModRevision(b"number".to_vec(), now.mod_revision)],
                operations: vec![put("number", &(number + 1).to_string())],
            };
            if let Some(TxnResult::Committed { .. }) = self.txn(&store, txn).await {
                added += 1;
                self.counted.fetch_add(1, Ordering::SeqCst);
            }
        }
        added
    }
}

/// The revisions of the changes of the number, until it is `last`.
async fn follow(store: Arc<EtcdStore>) -> Vec<u64> {
    let mut watch = store.watch(b"number".to_vec(), Revision(3)).unwrap();
    let mut observed = Vec::new();
    while let Some(item) = watch.next().await {
        if let WatchEvents::Events(events) = item.unwrap() {
            let mvcc_store::EventKind::Put(pair) = &events[0].kind else {
                return observed;
            };
            observed.push(std::str::from_utf8(&pair.value).unwrap().parse().unwrap());
        }
    }
    panic!("the watch ended")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_members_lose_and_repeat_nothing() {
    const ROUNDS: usize = 6;
    let mut cluster = Cluster::start(3, None);
    let stores = [
        cluster.store(0).await,
        cluster.store(1).await,
        cluster.store(2).await,
    ];
    commit(&*stores[0], vec![put("number", "0")]).await;
    for store in &stores {
        store.newest().await.unwrap();
    }
    let load = Arc::new(Load {
        stop: AtomicBool::new(false),
        created: AtomicU64::new(0),
        counted: AtomicU64::new(0),
        unknown: AtomicU64::new(0),
        longest: AtomicU64::new(0),
    });
    let watchers: Vec<_> = stores
        .iter()
        .map(|store| tokio::spawn(follow(Arc::clone(store))))
        .collect();
    let (mut creators, mut counters) = (Vec::new(), Vec::new());
    for (task, store) in stores.iter().enumerate() {
        let (one, other) = (Arc::clone(&load), Arc::clone(&load));
        let (first, second) = (Arc::clone(store), Arc::clone(store));
        creators.push(tokio::spawn(async move { one.create(first, task).await }));
        counters.push(tokio::spawn(async move { other.count(second).await }));
    }
    // Each member in turn, so that the leader is among them.
    for round in 0..ROUNDS {
        let before = load.created.load(Ordering::SeqCst);
        cluster.members[round % 3].kill();
        progress(&load.created, before + 50).await;
        cluster.members[round % 3].restart();
        progress(&load.counted, load.counted.load(Ordering::SeqCst) + 20).await;
    }
    load.stop.store(true, Ordering::SeqCst);
    let mut added = 0;
    for counter in counters {
        added += counter.await.unwrap();
    }
    let mut acknowledged = Vec::new();
    for creator in creators {
        acknowledged.push(creator.await.unwrap());
    }
    let unknown = load.unknown.load(Ordering::SeqCst);
    let mut numbers = Vec::new();
    for store in &stores {
        while let Err(StoreError::Unavailable(_)) = store.newest().await {}
        let number = get(&**store, "number").await.unwrap();
        let number: u64 = std::str::from_utf8(&number.value).unwrap().parse().unwrap();
        assert!((added..=added + unknown).contains(&number), "{number}");
        numbers.push(number);
    }
    for created in acknowledged {
        for (key, revision) in created {
            for store in &stores {
                let pair = get(&**store, &key).await;
                assert_eq!(pair.map(|pair| pair.mod_revision), Some(revision), "{key}");
            }
        }
    }
    commit(&*stores[0], vec![delete("number")]).await;
    let last = numbers[0];
    assert_eq!(numbers, [last; 3]);
    let expected: Vec<u64> = (1..=last).collect();
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), expected);
    }
    eprintln!(
        "{added} counted, {} created, {unknown} unknown, the longest transaction took {} ms",
        load.created.load(Ordering::SeqCst),
        load.longest.load(Ordering::SeqCst)
    );
}

/// Waits until the count is reached.
pub async fn progress(count: &AtomicU64, expected: u64) {
    let reached = async {
        while count.load(Ordering::SeqCst) < expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(480), reached).await;
    reached.expect("transactions go on");
}
