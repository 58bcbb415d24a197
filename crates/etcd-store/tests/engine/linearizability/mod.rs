//! Clients of several servers while members and servers die, pause and lose their links: the answers are those
//! of one store with one copy (linearizability), and watches see each change once.

mod mistakes;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_store::{EtcdOptions, EtcdStore};
use futures::{StreamExt as _, future::join_all};
use mvcc_store::{
    Compare, EventKind, KeyValue, Omittable, Operation, Range, Revision, Store, StoreError, Txn,
    TxnResult, Value, WatchEvents,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    changes::{Changes, WatchEntry},
    etcd::{Cluster, connect, limits},
    faults::{Relay, progress},
    history::{self, History, KEYS, Key, Op, Pair, Present, Random, Ret},
    own_keys,
    suite::{commit, put},
    watched,
};

/// Clients of a round, and the operations of each: the search for an order grows exponentially with both.
const CLIENTS: usize = 4;
const OPERATIONS: u64 = 3;
/// Rounds at the same time, each on keys of its own.
const LANES: usize = 2;
const FAULTS: usize = 2 * KINDS.len();
const SERVERS: usize = 3;
const WATCHERS: usize = 3;
const ALL: &str = "rounds/";

/// The way of a server's reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// As the API server's: after a look for the newest revision.
    Fresh,
    /// An injected mistake: from the copy of this server, as it is.
    OfTheMirror,
}

/// A server: its process can be killed, its first link be cut.
struct Server {
    relay: Relay,
    options: EtcdOptions,
    process: RwLock<Option<Process>>,
    /// The operations that wait for an answer.
    waiting: AtomicUsize,
}

#[derive(Clone)]
struct Process {
    store: Arc<EtcdStore>,
    killed: CancellationToken,
}

impl Server {
    /// Uses the member through a relay, and the others if they are named.
    async fn start(cluster: &Cluster, first: usize, others: usize) -> Self {
        let relay = Relay::start(&cluster.members[first].client_url).await;
        let mut urls = cluster.urls_from(first);
        urls[0] = relay.url();
        urls.truncate(1 + others);
        let server = Self {
            relay,
            options: EtcdOptions {
                limits: limits(),
                ..EtcdOptions::new(urls)
            },
            process: RwLock::new(None),
            waiting: AtomicUsize::new(0),
        };
        server.start_again().await;
        server
    }

    async fn start_again(&self) {
        let process = Process {
            store: connect(&self.options).await,
            killed: CancellationToken::new(),
        };
        *self.process.write().unwrap() = Some(process);
    }

    /// Ends all that the process does. Its requests may still arrive at etcd.
    fn kill(&self) {
        if let Some(process) = self.process.write().unwrap().take() {
            process.killed.cancel();
        }
    }

    fn process(&self) -> Option<Process> {
        self.process.read().unwrap().clone()
    }

    fn store(&self) -> Arc<EtcdStore> {
        self.process().unwrap().store
    }
}

/// The servers with their clients.
struct Clients {
    servers: Vec<Server>,
    reads: Reads,
    rounds: AtomicU64,
    answers: AtomicU64,
    unknown: AtomicU64,
}

impl Clients {
    async fn of(cluster: &Cluster, reads: Reads) -> Arc<Self> {
        let servers = (0..SERVERS).map(|first| Server::start(cluster, first, 2));
        Arc::new(Self {
            servers: join_all(servers).await,
            reads,
            rounds: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
        })
    }

    /// Several clients send operations on the keys below a prefix, which no round had before.
    async fn round(&self, prefix: &str, random: &mut Random) -> History {
        let history = History::default();
        let revisions = Mutex::new(BTreeMap::new());
        let clients = (0..CLIENTS).map(|client| {
            let random = random.part();
            self.client(client, prefix, &history, &revisions, random)
        });
        join_all(clients).await;
        self.rounds.fetch_add(1, Ordering::SeqCst);
        history
    }

    async fn client(
        &self,
        client: usize,
        prefix: &str,
        history: &History,
        revisions: &Mutex<BTreeMap<Key, u64>>,
        mut random: Random,
    ) {
        for number in 0..OPERATIONS {
            let index = random.place(self.servers.len());
            let server = &self.servers[index];
            let Some(process) = server.process() else {
                continue;
            };
            let value = client as u64 * OPERATIONS + number;
            let op = {
                let revisions = revisions.lock().unwrap_or_else(PoisonError::into_inner);
                random.operation(value, &revisions)
            };
            history.called(client, op);
            server.waiting.fetch_add(1, Ordering::SeqCst);
            let response = tokio::select! {
                response = perform(&process.store, prefix, op, self.reads) => response,
                () = process.killed.cancelled() => None,
            };
            server.waiting.fetch_sub(1, Ordering::SeqCst);
            let Some(response) = response else {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                return;
            };
            let tells = response.tells(op);
            history.answered(client, response);
            let mut revisions = revisions.lock().unwrap_or_else(PoisonError::into_inner);
            revisions.extend(tells);
            self.answers.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Rounds until the end, each checked.
    async fn lane(&self, lane: usize, mut random: Random, is_over: &AtomicBool) {
        for number in 0.. {
            if is_over.load(Ordering::SeqCst) {
                return;
            }
            let prefix = format!("{ALL}{lane}-{number}/");
            let history = self.round(&prefix, &mut random).await;
            if let Err(text) = tokio::task::block_in_place(|| history.check()) {
                panic!("{prefix}: {text}");
            }
            self.remove(&prefix, &mut random).await;
        }
    }

    /// Deletes the keys of a round.
    async fn remove(&self, prefix: &str, random: &mut Random) {
        let operations = KEYS.map(|key| Operation::Delete {
            key: format!("{prefix}{key}").into(),
        });
        let txn = Txn {
            compare: Vec::new(),
            operations: operations.into(),
        };
        loop {
            let index = random.place(self.servers.len());
            if let Some(process) = self.servers[index].process() {
                tokio::select! {
                    done = process.store.txn(txn.clone()) => if done.is_ok() { return },
                    () = process.killed.cancelled() => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Carries an operation out; `None` if its outcome is unknown.
async fn perform(store: &EtcdStore, prefix: &str, op: Op, reads: Reads) -> Option<Ret> {
    let done = match op {
        Op::Get(_) | Op::List => read(store, prefix, op, reads).await,
        _ => write(store, prefix, op).await,
    };
    match done {
        Ok(ret) => Some(ret),
        Err(StoreError::Unavailable(_) | StoreError::Closed) => Some(Ret::Nothing),
        Err(StoreError::OutcomeUnknown(_)) => None,
        Err(error) => panic!("{op:?}: {error}"),
    }
}

async fn read(store: &EtcdStore, prefix: &str, op: Op, reads: Reads) -> Result<Ret, StoreError> {
    if reads == Reads::Fresh {
        store.newest().await?;
    }
    let range = match op {
        Op::Get(key) => Range {
            start: name(prefix, key),
            ..Range::default()
        },
        _ => below(prefix),
    };
    let result = store.range(range).await?;
    Ok(match op {
        Op::Get(_) => Ret::Got(result.items.first().map(pair)),
        _ => Ret::Listed {
            revision: result.revision.0,
            pairs: result
                .items
                .iter()
                .map(|one| (key_of(one), pair(one)))
                .collect(),
        },
    })
}

async fn write(store: &EtcdStore, prefix: &str, op: Op) -> Result<Ret, StoreError> {
    let (key, value, observed) = match op {
        Op::Create(key, value) => (key, Some(value), None),
        Op::Update(key, value, observed) => (key, Some(value), Some(observed)),
        Op::Delete(key, observed) => (key, None, Some(observed)),
        Op::Get(_) | Op::List => panic!("{op:?} writes nothing"),
    };
    let key = name(prefix, key);
    let compare = match observed {
        Some(observed) => Compare::ModRevision(key.clone(), Revision(observed)),
        None => Compare::Absent(key.clone()),
    };
    let operation = match value {
        Some(value) => Operation::Put {
            key,
            value: Value::Stamped {
                before: format!("{value}@").into(),
                after: "".into(),
                omittable: Omittable::UNKNOWN,
            },
            lease: None,
        },
        None => Operation::Delete { key },
    };
    let txn = Txn {
        compare: vec![compare],
        operations: vec![operation],
    };
    Ok(match store.txn(txn).await? {
        TxnResult::Committed { revision, .. } => Ret::Done(Some(revision.0)),
        TxnResult::Refused { present, .. } => Ret::Refused(match &present[0] {
            Some(result) => Present::Pair(pair(result)),
            None => Present::Nothing,
        }),
    })
}

fn name(prefix: &str, key: Key) -> Vec<u8> {
    format!("{prefix}{}", KEYS[key]).into_bytes()
}

fn below(prefix: &str) -> Range {
    Range {
        start: prefix.into(),
        end: Some(format!("{prefix}\u{7f}").into()),
        ..Range::default()
    }
}

fn key_of(result: &KeyValue) -> Key {
    let key = KEYS
        .iter()
        .position(|key| result.key.ends_with(key.as_bytes()));
    key.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The value and the revision of a pair, whose value contains both.
fn pair(result: &KeyValue) -> Pair {
    let stored = text(&result.value);
    let (value, revision) = stored.split_once('@').unwrap();
    assert_eq!(revision, result.mod_revision.0.to_string());
    Pair {
        value: value.parse().unwrap(),
        revision: result.mod_revision.0,
    }
}

/// Follows all keys until a revision, and continues at another server now and then.
struct Watcher {
    clients: Arc<Clients>,
    random: Random,
    end: Arc<AtomicU64>,
    seen: Vec<WatchEntry>,
    at: Option<u64>,
    /// The moves that went on with the last revision.
    moves: usize,
}

impl Watcher {
    async fn follow(mut self) -> (Vec<WatchEntry>, usize) {
        let mut refused = 0;
        while self
            .at
            .is_none_or(|at| at < self.end.load(Ordering::SeqCst))
        {
            let index = self.random.place(SERVERS);
            let Some(process) = self.clients.servers[index].process() else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let killed = process.killed.clone();
            let followed = tokio::select! {
                followed = self.follow_at(&process.store) => followed,
                () = killed.cancelled() => Ok(()),
            };
            match followed {
                Ok(()) => refused = 0,
                // A server that was started later does not have the events; the others may.
                Err(StoreError::Compacted { .. }) if refused < 2 * SERVERS => refused += 1,
                Err(StoreError::Compacted { .. }) => self.at = None,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        (self.seen, self.moves)
    }

    async fn follow_at(&mut self, store: &EtcdStore) -> Result<(), StoreError> {
        let at = match self.at {
            Some(at) => {
                store.reached(Revision(at)).await?;
                at
            }
            None => self.list(store).await?,
        };
        let mut watch = store.watch(ALL.into(), Revision(at + 1))?;
        self.moves += 1;
        for _ in 0..20 + self.random.below(200) {
            match watch.next().await {
                Some(Ok(WatchEvents::Events(events))) => {
                    let revision = events[0].revision.0;
                    let mut changes = Changes::new();
                    for event in &events {
                        assert_eq!(event.revision.0, revision);
                        let value = match &event.kind {
                            EventKind::Put(pair) => Some(text(&pair.value)),
                            EventKind::Delete => None,
                        };
                        changes.insert(text(&event.key), value);
                    }
                    self.see(revision, WatchEntry::Changed(revision, changes));
                }
                Some(Ok(WatchEvents::Progress(revision))) => {
                    self.see(revision.0, WatchEntry::Progress(revision.0));
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
            if self.at >= Some(self.end.load(Ordering::SeqCst)) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn list(&mut self, store: &EtcdStore) -> Result<u64, StoreError> {
        store.newest().await?;
        let result = store.range(below(ALL)).await?;
        let pairs = result
            .items
            .iter()
            .map(|one| (text(&one.key), text(&one.value)));
        let revision = result.revision.0;
        self.see(revision, WatchEntry::Listed(revision, pairs.collect()));
        Ok(revision)
    }

    fn see(&mut self, revision: u64, observed: WatchEntry) {
        self.seen.push(observed);
        self.at = Some(revision);
    }
}

/// A fault, which is over after a time.
#[derive(Clone, Copy, Debug)]
enum Fault {
    MemberKilled,
    MemberPaused,
    LeaderKilled,
    LeaderPaused,
    LinkCut,
    AnswerLost,
    ServerKilled,
}

const KINDS: [Fault; 7] = [
    Fault::MemberKilled,
    Fault::MemberPaused,
    Fault::LeaderKilled,
    Fault::LeaderPaused,
    Fault::LinkCut,
    Fault::AnswerLost,
    Fault::ServerKilled,
];

async fn inject(fault: Fault, cluster: &mut Cluster, clients: &Clients, random: &mut Random) {
    let pause = Duration::from_millis(200 + random.below(3000));
    let index = random.place(SERVERS);
    let server = &clients.servers[index];
    let member = match fault {
        Fault::LeaderKilled | Fault::LeaderPaused => {
            own_keys::leader(cluster).await.unwrap_or(index)
        }
        _ => index,
    };
    match fault {
        Fault::MemberKilled | Fault::LeaderKilled => {
            cluster.members[member].kill();
            tokio::time::sleep(pause).await;
            cluster.members[member].restart();
        }
        Fault::MemberPaused | Fault::LeaderPaused => {
            cluster.members[member].pause();
            tokio::time::sleep(pause).await;
            cluster.members[member].resume();
        }
        Fault::LinkCut => {
            server.relay.close(true);
            tokio::time::sleep(pause).await;
            server.relay.close(false);
        }
        Fault::AnswerLost => {
            for _ in 0..10 {
                server.relay.cut_next();
                tokio::time::sleep(pause / 20).await;
            }
        }
        Fault::ServerKilled => {
            // In the middle of something.
            let attempts = 0..2000;
            for _ in attempts.take_while(|_| server.waiting.load(Ordering::SeqCst) == 0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            server.kill();
            tokio::time::sleep(pause / 4).await;
            server.start_again().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn operations_are_linearizable_and_watches_complete_under_faults() {
    let mut random = Random(history::seed());
    let mut cluster = Cluster::start(3, None);
    let clients = Clients::of(&cluster, Reads::Fresh).await;
    let end = Arc::new(AtomicU64::new(u64::MAX));
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let watcher = Watcher {
                clients: Arc::clone(&clients),
                random: random.part(),
                end: Arc::clone(&end),
                seen: Vec::new(),
                at: None,
                moves: 0,
            };
            AbortOnDropHandle::new(tokio::spawn(watcher.follow()))
        })
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let (clients, random) = (Arc::clone(&clients), random.part());
            let is_over = Arc::clone(&is_over);
            let lane = async move { clients.lane(lane, random, &is_over).await };
            AbortOnDropHandle::new(tokio::spawn(lane))
        })
        .collect();
    let first = random.place(KINDS.len());
    let count = |number: &AtomicU64| number.load(Ordering::SeqCst);
    for number in 0..3 * FAULTS {
        let fault = match number < FAULTS {
            true => KINDS[(number + first) % KINDS.len()],
            // Until an operation has lost its answer.
            false if count(&clients.unknown) == 0 => Fault::ServerKilled,
            false => break,
        };
        eprintln!("{number}: {fault:?}");
        inject(fault, &mut cluster, &clients, &mut random).await;
        if lanes.iter().any(|lane| lane.is_finished()) {
            break;
        }
        let rounds = clients.rounds.load(Ordering::SeqCst);
        progress(&clients.rounds, rounds + 2 * LANES as u64).await;
    }
    is_over.store(true, Ordering::SeqCst);
    for lane in lanes {
        lane.await.unwrap();
    }
    let store = clients.servers[0].store();
    let last = commit(&*store, vec![put(&format!("{ALL}last"), "x")]).await;
    end.store(last.0, Ordering::SeqCst);
    // Watchers that have seen the last revision already look at the end again.
    let after = commit(&*store, vec![put(&format!("{ALL}after"), "x")]).await;
    let (mut moves, mut observed) = (0, Vec::new());
    for watcher in watchers {
        let waiting = tokio::time::timeout(Duration::from_secs(240), watcher);
        let (its, moved) = waiting.await.expect("the watcher gets there").unwrap();
        observed.push(its);
        moves += moved;
    }
    let truth = watched::read(&cluster, after.0).await;
    for observed in &observed {
        truth.check(observed, last.0).unwrap();
    }
    let lists = observed
        .iter()
        .flatten()
        .filter(|observed| matches!(observed, WatchEntry::Listed(..)))
        .count();
    eprintln!(
        "{} rounds, {} answers, {} operations without one; {last:?}; {moves} moves of watches, {lists} lists",
        count(&clients.rounds),
        count(&clients.answers),
        count(&clients.unknown),
    );
    assert!(count(&clients.unknown) > 0, "no operation lost its answer");
    assert!(
        moves >= lists + WATCHERS,
        "watches go on elsewhere: {moves} moves, {lists} lists"
    );
}
