//! Interruptions that clients see when one of three servers or one of three members of etcd is gone: the longest time
//! between two answers around each fault, as a distribution. One client reads and one writes, each without a
//! pause; after a failure they go on at another server. Requests have no time limit, as those of kubectl.
//!
//! Run it on an idle machine with `cargo xtask bench failover`.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use end_to_end::samples::{Sample, sized};
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Api, Network, wait_for};
use http::Method;
use serde_json::json;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const OBJECT: &str = "/api/v1/namespaces/default/configmaps/failover";
/// The time after a fault in which the longest interruption begins.
const LOOK: Duration = Duration::from_secs(4);
/// Answers of a client after that.
const ANSWERS: usize = 20;

fn main() {
    let mut machines = ServersOnEtcd::of(&["a", "b", "c"]);
    machines.etcd.wait_until_ready();
    machines.start_as_one_of_them(0);
    machines.start_as_one_of_them(1);
    let (network, _) = machines.lan.machine();
    let leading = controllers(&mut machines, &network);
    machines.start_as_one_of_them(2);
    let clients = Clients::new(&network, &machines);
    let rounds = sized(20, 1);
    println!("the longest time between two answers around each of {rounds} faults, by percentiles");
    std::thread::scope(|scope| {
        for kind in [Kind::Read, Kind::Write] {
            let clients = &clients;
            scope.spawn(move || clients.network.run(|| clients.send(kind)));
        }
        let work = std::panic::AssertUnwindSafe(|| {
            for fault in [
                Fault::ServerKilled,
                Fault::FollowerKilled,
                Fault::LeaderKilled,
                Fault::LeaderPaused,
            ] {
                let mut samples = [(); 2].map(|()| Sample::new("ms"));
                for _ in 0..rounds {
                    let gaps = clients.gaps(&mut machines, fault);
                    for (sample, gap) in samples.iter_mut().zip(gaps) {
                        sample.push_time(gap);
                    }
                }
                let [reads, writes] = samples.map(|sample| sample.percentiles());
                println!("{fault:?}: reads {reads}; writes {writes}");
            }
        });
        let done = std::panic::catch_unwind(work);
        clients.is_over.store(true, Ordering::SeqCst);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    println!(
        "the leading server is killed, until the controllers of another one have acted: {leading}"
    );
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The server that the clients use.
    ServerKilled,
    FollowerKilled,
    LeaderKilled,
    LeaderPaused,
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
}

/// A client that reads, and one that writes.
struct Clients<'a> {
    network: &'a Network,
    servers: Vec<Api>,
    /// The server in use.
    current: AtomicUsize,
    /// The times of the answers of each.
    answers: [Mutex<Vec<Instant>>; 2],
    is_over: AtomicBool,
}

/// Clients of servers, in a network.
fn apis(network: &Network, machines: &ServersOnEtcd, servers: &[usize]) -> Vec<Api> {
    let kubeconfigs = servers
        .iter()
        .map(|server| PathBuf::from(format!("{}/kubeconfig", machines.servers[*server].data())));
    let kubeconfigs: Vec<PathBuf> = kubeconfigs.collect();
    network.run(|| kubeconfigs.into_iter().map(Api::with).collect())
}

impl<'a> Clients<'a> {
    fn new(network: &'a Network, machines: &ServersOnEtcd) -> Self {
        let servers = apis(network, machines, &[0, 1, 2]);
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "failover"}});
        network.run(|| servers[0].create(CONFIG_MAPS, &object));
        Self {
            network,
            servers,
            current: AtomicUsize::new(0),
            answers: Default::default(),
            is_over: AtomicBool::new(false),
        }
    }

    fn send(&self, kind: Kind) {
        for number in 0_u64.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let current = self.current.load(Ordering::SeqCst);
            let server = &self.servers[current % self.servers.len()];
            let written = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "failover"},
                "data": {"number": number.to_string()},
            });
            let answer = match kind {
                Kind::Read => server.ask(Method::GET, OBJECT, None),
                Kind::Write => server.ask(Method::PUT, OBJECT, Some(&written)),
            };
            match answer {
                Ok(_) => {
                    let answers = &self.answers[kind as usize];
                    answers.lock().expect("the lock").push(Instant::now());
                }
                // Unless the other client has gone on already.
                Err(_) => drop(self.current.compare_exchange(
                    current,
                    current + 1,
                    Ordering::SeqCst,
                    Ordering::SeqCst,
                )),
            }
        }
    }

    fn count(&self, kind: Kind) -> usize {
        self.answers[kind as usize].lock().expect("the lock").len()
    }

    /// Waits for further answers of both.
    fn go_on(&self) {
        for kind in [Kind::Read, Kind::Write] {
            let wanted = self.count(kind) + ANSWERS;
            wait_for("answers", 120, || match self.count(kind) {
                count if count >= wanted => Ok(()),
                count => Err(count),
            });
        }
    }

    /// The longest interruption of each around a fault.
    fn gaps(&self, machines: &mut ServersOnEtcd, fault: Fault) -> [Duration; 2] {
        self.go_on();
        let leader = machines.etcd.leader();
        let server = self.current.load(Ordering::SeqCst) % self.servers.len();
        for answers in &self.answers {
            let mut answers = answers.lock().expect("the lock");
            let newest = answers.pop();
            answers.clear();
            answers.extend(newest);
        }
        match fault {
            Fault::ServerKilled => machines.servers[server].kill(),
            Fault::FollowerKilled => machines.etcd.kill((leader + 1) % 3),
            Fault::LeaderKilled => machines.etcd.kill(leader),
            Fault::LeaderPaused => machines.etcd.pause(leader),
        }
        std::thread::sleep(LOOK);
        self.go_on();
        let gaps = [Kind::Read, Kind::Write].map(|kind| {
            let answers = self.answers[kind as usize].lock().expect("the lock");
            let gaps = answers.windows(2).map(|pair| pair[1] - pair[0]);
            gaps.max().expect("several answers")
        });
        match fault {
            Fault::ServerKilled => machines.start_as_one_of_them(server),
            Fault::FollowerKilled => machines.etcd.start_again((leader + 1) % 3),
            Fault::LeaderKilled => machines.etcd.start_again(leader),
            Fault::LeaderPaused => machines.etcd.resume(leader),
        }
        gaps
    }
}

/// The times from the death of the leading one of two servers until a new namespace has its ServiceAccount.
fn controllers(machines: &mut ServersOnEtcd, network: &Network) -> String {
    let apis = apis(network, machines, &[0, 1]);
    let mut times = Sample::new("ms");
    let rounds = sized(20, 1);
    // The first server leads, and each that is killed comes back as the one that does not.
    for round in 0..rounds {
        let (leading, other) = (round % 2, &apis[(round + 1) % 2]);
        let act = |name: String| {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            network.run(|| {
                wait_for("a namespace", 120, || {
                    other
                        .ask(Method::POST, "/api/v1/namespaces", Some(&object))
                        .map_err(|error| error.to_string())
                });
                let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
                wait_for("controllers", 120, || {
                    other
                        .ask(Method::GET, &account, None)
                        .map_err(|error| error.to_string())
                });
            });
        };
        act(format!("before-{round}"));
        machines.servers[leading].kill();
        let start = Instant::now();
        act(format!("after-{round}"));
        times.push_time(start.elapsed());
        machines.start_as_one_of_them(leading);
    }
    times.percentiles()
}
