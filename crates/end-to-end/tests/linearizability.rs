//! Clients of three servers over one etcd (DESIGN §14), while a server and members of etcd are killed and paused:
//! the answers about ConfigMaps are those of one server with one copy. The specification is that of the test
//! of the store.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use end_to_end::lan::Role;
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Api, Network, text, wait_for};
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[expect(dead_code, reason = "refusals of the API do not contain the object")]
#[path = "../../etcd-store/tests/engine/history.rs"]
mod history;

use history::{History, KEYS, Key, Op, Pair, Present, Random, Ret};

/// Clients of a round, and the operations of each: the search for an order grows exponentially with both.
const CLIENTS: usize = 4;
const OPERATIONS: u64 = 3;
/// Longest wait of a client for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// The clients, on a machine of their own.
struct Clients {
    network: Network,
    servers: Vec<Api>,
    is_over: AtomicBool,
    rounds: AtomicUsize,
    answers: AtomicUsize,
    unknown: AtomicUsize,
}

impl Clients {
    fn new(network: Network, machines: &ServersOnEtcd, third: &Role) -> Self {
        let kubeconfigs = machines.servers.iter().chain([third]).map(|server| {
            let own = std::fs::read_to_string(format!("{}/kubeconfig", server.data()));
            let own = own.expect("read a kubeconfig");
            // It is for its own machine.
            let lines = own
                .lines()
                .map(|line| match line.split_once("server: https://") {
                    Some((indent, place)) => {
                        let (_, port) = place.rsplit_once(':').expect("a port");
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
            answers: AtomicUsize::new(0),
            unknown: AtomicUsize::new(0),
        }
    }

    /// Rounds until the end, each checked.
    fn rounds(&self, mut random: Random) {
        while !self.is_over.load(Ordering::SeqCst) {
            let number = self.rounds.load(Ordering::SeqCst);
            let (history, known) = (History::default(), Mutex::default());
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let (history, known, random) = (&history, &known, random.part());
                    scope.spawn(move || {
                        let work = || self.client(client, number, history, known, random);
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
        known: &Mutex<BTreeMap<Key, u64>>,
        mut random: Random,
    ) {
        for number in 0..OPERATIONS {
            let value = client as u64 * OPERATIONS + number;
            let op = random.operation(value, &known.lock().expect("the lock"));
            let server = &self.servers[random.place(self.servers.len())];
            history.called(client, op);
            let Some(answer) = perform(server, round, op) else {
                self.unknown.fetch_add(1, Ordering::SeqCst);
                return;
            };
            let tells = answer.tells(op);
            history.answered(client, answer);
            known.lock().expect("the lock").extend(tells);
            self.answers.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits until clients have got some answers since.
    fn go_on(&self) {
        let before = self.rounds.load(Ordering::SeqCst);
        wait_for("rounds of operations", 120, || {
            match self.rounds.load(Ordering::SeqCst) {
                now if now >= before + 3 => Ok(()),
                now => Err(now),
            }
        });
    }
}

/// Carries an operation out; `None` if its outcome is unknown.
fn perform(server: &Api, round: usize, op: Op) -> Option<Ret> {
    let (request, body) = request(round, op);
    let (method, path) = request;
    let answer = server.ask_within(PATIENCE, (method, &path), body.as_ref());
    let is_read = matches!(op, Op::Get(_) | Op::List);
    match answer {
        Some(Ok(found)) => Some(done(op, &found)),
        Some(Err(kube::Error::Api(status))) => match (status.code, op) {
            (404, Op::Get(_)) => Some(Ret::Got(None)),
            (404, _) => Some(Ret::Refused(Present::Nothing)),
            (409, _) => Some(Ret::Refused(Present::Something)),
            (code, _) if code >= 429 => is_read.then_some(Ret::Nothing),
            _ => panic!("{op:?}: {status:?}"),
        },
        Some(Err(_)) | None => is_read.then_some(Ret::Nothing),
    }
}

fn request(round: usize, op: Op) -> ((Method, String), Option<Value>) {
    let name = |key: Key| format!("r{round}-{}", KEYS[key]);
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

/// The answer of a request that succeeded.
fn done(op: Op, found: &Value) -> Ret {
    match op {
        Op::Get(_) => Ret::Got(Some(pair(found))),
        Op::List => {
            let items = found["items"].as_array().expect("items").iter();
            let pairs = items.map(|item| {
                let name = text(item, "/metadata/name");
                let key = KEYS.iter().position(|key| name.ends_with(key));
                (key.expect("a key"), pair(item))
            });
            let revision = version(found);
            let pairs = pairs.collect();
            Ret::Listed { revision, pairs }
        }
        Op::Create(..) | Op::Update(..) => Ret::Done(Some(version(found))),
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
fn answers_of_three_servers_are_linearizable_under_faults() {
    let mut random = Random(history::seed());
    let mut machines = ServersOnEtcd::new();
    let mut third = Role::new(&mut machines.lan, "c", machines.directory.path());
    machines.etcd.wait_until_ready();
    machines.start(0, 0, &[]);
    let token = format!(
        "--server-token-file={}/server-token",
        machines.servers[0].data()
    );
    machines.start(1, 1, std::slice::from_ref(&token));
    let mut arguments = machines.arguments(2);
    arguments.push(token);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    third.start(&arguments);
    let (network, _) = machines.lan.machine();
    let clients = Clients::new(network, &machines, &third);
    let of_rounds = random.part();
    thread::scope(|scope| {
        let rounds = scope.spawn(|| clients.rounds(of_rounds));
        let faults = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            clients.go_on();
            let member = random.place(3);
            machines.etcd.kill(member);
            clients.go_on();
            machines.etcd.start_again(member);
            // A member that is paused may lead: it still believes so when it goes on.
            for paused in [(member + 1) % 3, (member + 2) % 3] {
                machines.etcd.pause(paused);
                clients.go_on();
                machines.etcd.resume(paused);
                clients.go_on();
            }
            machines.servers[1].signal(Signal::SIGSTOP);
            clients.go_on();
            machines.servers[1].signal(Signal::SIGCONT);
            third.kill();
            clients.go_on();
            third.start(&arguments);
            clients.go_on();
        }));
        clients.is_over.store(true, Ordering::SeqCst);
        rounds.join().expect("the answers are linearizable");
        if let Err(panic) = faults {
            std::panic::resume_unwind(panic);
        }
    });
    let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
    eprintln!(
        "{} rounds, {} answers, {} operations without one",
        count(&clients.rounds),
        count(&clients.answers),
        count(&clients.unknown),
    );
}
