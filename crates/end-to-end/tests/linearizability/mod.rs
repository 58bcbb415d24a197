//! Clients of three servers over one etcd (docs/high-availability.md), while servers and members of etcd are killed,
//! paused and disconnected: the responses about ConfigMaps are those of one server with one copy, and watches that move
//! between the servers receive each change once, in order, as etcd itself reports it. The specification is that of the
//! store's test.

mod etcd_history;
mod faults;
mod watchers;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Api, Network, text, wait_for};
use http::Method;
use serde_json::{Value, json};

#[expect(dead_code, reason = "refusals of the API do not contain the object")]
#[path = "../../../etcd-store/tests/engine/history.rs"]
mod history;

#[path = "../../../etcd-store/tests/engine/changes.rs"]
mod changes;

use changes::Pairs;
use etcd_history::EtcdHistory;
use history::{History, KEYS, Key, Op, Pair, Present, Random, Ret};
use watchers::Watcher;

/// Clients of a round, and the operations of each: the search for an order grows exponentially with both numbers.
const CLIENTS: usize = 4;
const OPERATIONS: u64 = 3;
/// Maximum wait of a client for a response.
const PATIENCE: Duration = Duration::from_secs(4);
/// The message for `StoreError::Unavailable`, after which nothing was written.
const NOT_WRITTEN: &str = "the store does not answer";
const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// The clients, on a separate machine.
struct Clients {
    network: Network,
    servers: Vec<Api>,
    is_over: AtomicBool,
    rounds: AtomicUsize,
    responses: AtomicUsize,
    unknown: AtomicUsize,
    /// Resource versions of acknowledged writes, with names and written contents.
    acknowledged: Mutex<Vec<(u64, String, String)>>,
    /// The resource version at which watchers stop.
    end_revision: AtomicU64,
}

impl Clients {
    fn new(network: Network, machines: &ServersOnEtcd) -> Self {
        let kubeconfigs = machines.servers.iter().map(|server| {
            let kubeconfig = std::fs::read_to_string(format!("{}/kubeconfig", server.data()));
            let kubeconfig = kubeconfig.expect("read a kubeconfig");
            // The kubeconfig is written for the server's own machine.
            let lines = kubeconfig
                .lines()
                .map(|line| match line.split_once("server: https://") {
                    Some((indent, endpoint)) => {
                        let (_, port) = endpoint.rsplit_once(':').expect("a port");
                        format!("{indent}server: https://{}:{port}\n", server.address)
                    }
                    None => format!("{line}\n"),
                });
            let name = format!("kubeconfig-{}", server.address);
            let path = machines.directory.path().join(name);
            std::fs::write(&path, lines.collect::<String>()).expect("write a kubeconfig");
            path
        });
        let kubeconfigs: Vec<_> = kubeconfigs.collect();
        let servers = network.run(|| kubeconfigs.into_iter().map(Api::with).collect());
        Self {
            network,
            servers,
            is_over: AtomicBool::new(false),
            rounds: AtomicUsize::new(0),
            responses: AtomicUsize::new(0),
            unknown: AtomicUsize::new(0),
            acknowledged: Mutex::default(),
            end_revision: AtomicU64::new(u64::MAX),
        }
    }

    /// The ConfigMaps before all rounds.
    fn base(&self) -> (u64, Pairs) {
        let list = self
            .network
            .run(|| self.servers[0].request(Method::GET, PATH, None));
        watchers::listed(&list.expect("a list"))
    }

    /// Writes after all faults, and returns the resource version.
    fn write_last(&self) -> u64 {
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"generateName": "last-"},
            "data": {"value": "last"},
        });
        let written = wait_for("the last write", 120, || {
            self.network
                .run(|| self.servers[0].request(Method::POST, PATH, Some(&object)))
                .map_err(|error| error.to_string())
        });
        version(&written)
    }

    /// Runs and checks rounds until the faults are over.
    fn rounds(&self, mut random: Random) {
        while !self.is_over.load(Ordering::SeqCst) {
            let number = self.rounds.load(Ordering::SeqCst);
            let (history, revisions) = (History::default(), Mutex::default());
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let (history, revisions, random) = (&history, &revisions, random.part());
                    scope.spawn(move || {
                        let work = || self.client(client, number, history, revisions, random);
                        self.network.run(work);
                    });
                }
            });
            history
                .check()
                .unwrap_or_else(|text| panic!("{number}: {text}"));
            self.rounds.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn client(
        &self,
        client: usize,
        round: usize,
        history: &History,
        revisions: &Mutex<BTreeMap<Key, u64>>,
        mut random: Random,
    ) {
        for number in 0..OPERATIONS {
            let value = client as u64 * OPERATIONS + number;
            let op = random.operation(value, &revisions.lock().expect("the lock"));
            let server = &self.servers[random.place(self.servers.len())];
            history.called(client, op);
            let Some(result) = perform(server, round, op) else {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                return;
            };
            let informs = result.tells(op);
            if let (Op::Create(key, value) | Op::Update(key, value, _), Ret::Done(Some(revision))) =
                (op, &result)
            {
                let written = (*revision, name(round, key), format!("{value}@{revision}"));
                self.acknowledged.lock().expect("the lock").push(written);
            }
            history.answered(client, result);
            revisions.lock().expect("the lock").extend(informs);
            self.responses.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// The newest resource version of an acknowledged write.
    fn newest(&self) -> u64 {
        let acknowledged = self.acknowledged.lock().expect("the lock");
        watchers::newest(&[], &acknowledged)
    }

    /// Waits until clients have received some responses since the call.
    fn go_on(&self) {
        let before = self.rounds.load(Ordering::SeqCst);
        wait_for("rounds of operations", 120, || {
            match self.rounds.load(Ordering::SeqCst) {
                now if now >= before + 2 => Ok(()),
                now => Err(now),
            }
        });
    }
}

/// Executes an operation; `None` if its outcome is unknown.
fn perform(server: &Api, round: usize, op: Op) -> Option<Ret> {
    let (request, body) = request(round, op);
    let (method, path) = request;
    let result = server.request_within(PATIENCE, (method, &path), body.as_ref());
    let is_read = matches!(op, Op::Get(_) | Op::List);
    match result {
        Some(Ok(object)) => Some(done(op, &object)),
        Some(Err(kube::Error::Api(status))) => match (status.code, op) {
            (404, Op::Get(_)) => Some(Ret::Got(None)),
            (404, _) => Some(Ret::Refused(Present::Nothing)),
            (409, _) => Some(Ret::Refused(Present::Something)),
            // The refusal came before any work for the request.
            (429, _) => Some(Ret::Nothing),
            // For a write, this message guarantees that etcd has not executed the write and will not.
            (503, _) if status.message.contains(NOT_WRITTEN) => Some(Ret::Nothing),
            (code, _) if code >= 500 => is_read.then_some(Ret::Nothing),
            _ => panic!("{op:?}: {status:?}"),
        },
        Some(Err(_)) | None => is_read.then_some(Ret::Nothing),
    }
}

fn request(round: usize, op: Op) -> ((Method, String), Option<Value>) {
    let name = |key: Key| name(round, key);
    let object = |key: Key, value: u64, revision: Option<u64>| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": name(key),
                "labels": {"round": round.to_string()},
                "resourceVersion": revision.map(|revision| revision.to_string()),
            },
            "data": {"value": value.to_string()},
        })
    };
    let at = |key: Key| format!("{PATH}/{}", name(key));
    match op {
        Op::Get(key) => ((Method::GET, at(key)), None),
        Op::List => {
            let path = format!("{PATH}?labelSelector=round%3D{round}");
            ((Method::GET, path), None)
        }
        Op::Create(key, value) => {
            let request = (Method::POST, PATH.to_owned());
            (request, Some(object(key, value, None)))
        }
        Op::Update(key, value, revision) => {
            let request = (Method::PUT, at(key));
            (request, Some(object(key, value, Some(revision))))
        }
        Op::Delete(key, revision) => {
            let preconditions = json!({"resourceVersion": revision.to_string()});
            let options = json!({
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "preconditions": preconditions,
            });
            ((Method::DELETE, at(key)), Some(options))
        }
    }
}

fn name(round: usize, key: Key) -> String {
    format!("r{round}-{}", KEYS[key])
}

/// The result of a successful request.
fn done(op: Op, object: &Value) -> Ret {
    match op {
        Op::Get(_) => Ret::Got(Some(pair(object))),
        Op::List => {
            let items = object["items"].as_array().expect("items").iter();
            let pairs = items.map(|item| {
                let name = text(item, "/metadata/name");
                let key = KEYS.iter().position(|key| name.ends_with(key));
                (key.expect("a key"), pair(item))
            });
            let revision = version(object);
            let pairs = pairs.collect();
            Ret::Listed { revision, pairs }
        }
        Op::Create(..) | Op::Update(..) => Ret::Done(Some(version(object))),
        Op::Delete(..) => Ret::Done(None),
    }
}

fn pair(object: &Value) -> Pair {
    let value = text(object, "/data/value").parse();
    Pair {
        value: value.expect("a number"),
        revision: version(object),
    }
}

fn version(object: &Value) -> u64 {
    let version = text(object, "/metadata/resourceVersion").parse();
    version.expect("a resource version")
}

#[test]
fn three_servers_are_linearizable_under_faults() {
    let mut random = Random(history::seed());
    let mut machines = ServersOnEtcd::of(&["a", "b", "c"]);
    machines.etcd.wait_until_ready();
    for server in 0..machines.servers.len() {
        machines.start_as_member(server);
    }
    let (network, _) = machines.lan.machine();
    let clients = Clients::new(network, &machines);
    let start = clients.base();
    let mut history = EtcdHistory::after(start.0);
    let (of_rounds, mut of_faults) = (random.part(), random.part());
    let watched = thread::scope(|scope| {
        let watchers = [random.part(), random.part(), random.part()];
        let watchers =
            watchers.map(|random| scope.spawn(|| Watcher::new(&clients, random).follow()));
        let rounds = scope.spawn(|| clients.rounds(of_rounds));
        let work = std::panic::AssertUnwindSafe(|| {
            clients.go_on();
            for fault in faults::ALL {
                eprintln!("{fault:?}");
                let struck = fault.strike(&mut machines, &mut of_faults);
                clients.go_on();
                struck.repair(&mut machines);
                clients.go_on();
                history.read_to(clients.newest(), &machines.etcd, &clients.network);
            }
            clients.write_last()
        });
        let struck = std::panic::catch_unwind(work);
        clients.is_over.store(true, Ordering::SeqCst);
        let checked = rounds.join();
        let end_revision = struck.as_ref().map_or(0, |last| *last);
        clients.end_revision.store(end_revision, Ordering::SeqCst);
        let watched = watchers.map(|watcher| watcher.join().expect("the watcher gets to the end"));
        checked.expect("the responses are linearizable");
        if let Err(panic) = struck {
            std::panic::resume_unwind(panic);
        }
        watched
    });
    let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
    let end_revision = clients.end_revision.load(Ordering::SeqCst);
    let moves: usize = watched.iter().map(|watcher| watcher.moves).sum();
    let acknowledged = clients.acknowledged.lock().expect("the lock");
    let newest = watchers::newest(&watched, &acknowledged);
    history.read_to(newest, &machines.etcd, &clients.network);
    watchers::check(
        start,
        &watched,
        &acknowledged,
        &history.changes,
        end_revision,
    );
    let changes = history.changes.len();
    eprintln!(
        "{} rounds, {} responses, {} operations without a response; {changes} changes, {moves} watches",
        count(&clients.rounds),
        count(&clients.responses),
        count(&clients.unknown),
    );
    assert!(
        moves > 2 * watched.len(),
        "watches go on elsewhere: {moves}"
    );
}
