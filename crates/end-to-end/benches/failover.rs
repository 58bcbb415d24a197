//! Interruptions of clients during the loss of one of three servers or of one of three members of etcd: the longest
//! time between two responses around each fault, as a distribution. One client reads, one client writes, each without a
//! pause, and one client watches the written object. After a failure the clients continue at another server, the watch
//! at its last resource version. Requests have a time limit, which only a frozen server exceeds.
//!
//! Run the benchmark on an idle machine with `cargo xtask bench failover`.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use end_to_end::samples::{Sample, sized};
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Api, Network, wait_for};
use http::Method;
use kube::core::WatchEvent;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const OBJECT: &str = "/api/v1/namespaces/default/configmaps/failover";
/// The time after a fault in which the start of the longest interruption is searched.
const OBSERVATION: Duration = Duration::from_secs(4);
/// The time limit of requests, and of the silence of a watch.
const PATIENCE: Duration = Duration::from_secs(5);
/// The time between two checks for the work of controllers.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The number of responses of a client after that time.
const RESPONSES: usize = 20;

pub(crate) fn bench() {
    let mut machines = ServersOnEtcd::of(&["a", "b", "c"]);
    machines.etcd.wait_until_ready();
    machines.start_as_member(0);
    machines.start_as_member(1);
    let (network, _) = machines.lan.machine();
    let leading = controllers(&mut machines, &network);
    machines.start_as_member(2);
    let clients = Clients::new(&network, &machines);
    let rounds = sized(20, 1);
    println!("the longest time between two answers around each of {rounds} faults, by percentiles");
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            let clients = &clients;
            let work = move || match kind {
                Kind::Read | Kind::Write => clients.send(kind),
                Kind::Watch => clients.follow(),
            };
            scope.spawn(move || clients.network.run(work));
        }
        let work = std::panic::AssertUnwindSafe(|| {
            for fault in [
                Fault::ServerKilled,
                Fault::ServerFrozen,
                Fault::FollowerKilled,
                Fault::FollowerPaused,
                Fault::LeaderKilled,
                Fault::LeaderPaused,
            ] {
                let mut samples = Kind::ALL.map(|_| Sample::new("ms"));
                for _ in 0..rounds {
                    let gaps = clients.gaps(&mut machines, fault);
                    for (sample, gap) in samples.iter_mut().zip(gaps) {
                        sample.push_time(gap);
                    }
                }
                let [reads, writes, events] = samples.map(|sample| sample.percentiles());
                println!("{fault:?}: reads {reads}; writes {writes}; events of the watch {events}");
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
    /// The server of the clients is killed.
    ServerKilled,
    /// The server of the clients is suspended (SIGSTOP): it does not respond, and its connections stay open.
    ServerFrozen,
    FollowerKilled,
    FollowerPaused,
    LeaderKilled,
    LeaderPaused,
}

#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Watch,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Watch];
}

/// A client that reads, a client that writes, and a client that watches.
struct Clients<'a> {
    network: &'a Network,
    servers: Vec<Api>,
    /// The server in use.
    current: AtomicUsize,
    /// The times of the responses of each client.
    response_times: [Mutex<Vec<Instant>>; Kind::ALL.len()],
    is_over: AtomicBool,
}

fn resource_version(object: &Value) -> String {
    end_to_end::text(object, "/metadata/resourceVersion").to_owned()
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
            response_times: Default::default(),
            is_over: AtomicBool::new(false),
        }
    }

    fn send(&self, kind: Kind) {
        for number in 0_u64.. {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            let (current, server) = self.server();
            let written = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "failover"},
                "data": {"number": number.to_string()},
            });
            let (method, object) = match kind {
                Kind::Write => (Method::PUT, Some(&written)),
                Kind::Read | Kind::Watch => (Method::GET, None),
            };
            match server.request_within(PATIENCE, (method, OBJECT), object) {
                Some(Ok(_)) => self.record_response(kind),
                Some(Err(_)) | None => self.go_on_after(current),
            }
        }
    }

    /// Watches the object, and continues at another server if a watch ends or delivers nothing.
    fn follow(&self) {
        let mut version = String::new();
        while !self.is_over.load(Ordering::SeqCst) {
            let (current, server) = self.server();
            if version.is_empty() {
                let list = server.request_within(PATIENCE, (Method::GET, CONFIG_MAPS), None);
                match list {
                    Some(Ok(list)) => version = resource_version(&list),
                    Some(Err(_)) | None => self.go_on_after(current),
                }
                continue;
            }
            let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}");
            let (mut received, mut is_refused) = (false, false);
            // Each request for the watch has a time limit, so only silence indicates a failure.
            let followed = server.follow(&path, PATIENCE, |event| {
                match event {
                    WatchEvent::Added(object)
                    | WatchEvent::Modified(object)
                    | WatchEvent::Deleted(object) => {
                        version = resource_version(&object);
                        received = true;
                        self.record_response(Kind::Watch);
                    }
                    WatchEvent::Bookmark(_) => {}
                    WatchEvent::Error(_) => is_refused = true,
                }
                !is_refused && !self.is_over.load(Ordering::SeqCst)
            });
            if is_refused {
                version.clear();
            }
            if followed.is_err() || !received {
                self.go_on_after(current);
            }
        }
    }

    /// The server in use, with its index.
    fn server(&self) -> (usize, &Api) {
        let current = self.current.load(Ordering::SeqCst);
        (current, &self.servers[current % self.servers.len()])
    }

    fn record_response(&self, kind: Kind) {
        let times = &self.response_times[kind as usize];
        times.lock().expect("the lock").push(Instant::now());
    }

    /// Continues at the next server, unless another client has done so already.
    fn go_on_after(&self, current: usize) {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        let _moved = self
            .current
            .compare_exchange(current, current + 1, success, failure);
    }

    fn count(&self, kind: Kind) -> usize {
        self.response_times[kind as usize]
            .lock()
            .expect("the lock")
            .len()
    }

    /// Waits for further responses of all clients.
    fn go_on(&self) {
        for kind in Kind::ALL {
            let target_count = self.count(kind) + RESPONSES;
            wait_for("responses", 120, || match self.count(kind) {
                count if count >= target_count => Ok(()),
                count => Err(count),
            });
        }
    }

    /// The longest interruption of each client around a fault.
    fn gaps(&self, machines: &mut ServersOnEtcd, fault: Fault) -> [Duration; Kind::ALL.len()] {
        self.go_on();
        let leader = machines.etcd.leader();
        let follower = (leader + 1) % 3;
        let server = self.current.load(Ordering::SeqCst) % self.servers.len();
        for times in &self.response_times {
            let mut times = times.lock().expect("the lock");
            let newest = times.pop();
            times.clear();
            times.extend(newest);
        }
        match fault {
            Fault::ServerKilled => machines.servers[server].kill(),
            Fault::ServerFrozen => machines.servers[server].signal(Signal::SIGSTOP),
            Fault::FollowerKilled => machines.etcd.kill(follower),
            Fault::FollowerPaused => machines.etcd.pause(follower),
            Fault::LeaderKilled => machines.etcd.kill(leader),
            Fault::LeaderPaused => machines.etcd.pause(leader),
        }
        std::thread::sleep(OBSERVATION);
        self.go_on();
        let gaps = Kind::ALL.map(|kind| {
            let times = self.response_times[kind as usize].lock().expect("the lock");
            let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
            gaps.max().expect("several responses")
        });
        match fault {
            Fault::ServerKilled => machines.start_as_member(server),
            Fault::ServerFrozen => machines.servers[server].signal(Signal::SIGCONT),
            Fault::FollowerKilled => machines.etcd.start_again(follower),
            Fault::FollowerPaused => machines.etcd.resume(follower),
            Fault::LeaderKilled => machines.etcd.start_again(leader),
            Fault::LeaderPaused => machines.etcd.resume(leader),
        }
        gaps
    }
}

/// The times from the death of the leading server, one of two, until a new namespace has its ServiceAccount.
fn controllers(machines: &mut ServersOnEtcd, network: &Network) -> String {
    let apis = apis(network, machines, &[0, 1]);
    let mut times = Sample::new("ms");
    let rounds = sized(20, 1);
    // The first server leads, and a killed server is restarted as the one that does not lead.
    for round in 0..rounds {
        let (leading, other) = (round % 2, &apis[(round + 1) % 2]);
        let act = |name: String| {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            network.run(|| {
                wait_for("a namespace", 120, || {
                    other
                        .request(Method::POST, "/api/v1/namespaces", Some(&object))
                        .map_err(|error| error.to_string())
                });
                let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
                let begin = Instant::now();
                while let Err(error) = other.request(Method::GET, &account, None) {
                    assert!(begin.elapsed() < Duration::from_secs(120), "{error}");
                    std::thread::sleep(POLL_INTERVAL);
                }
            });
        };
        act(format!("before-{round}"));
        machines.servers[leading].kill();
        let start = Instant::now();
        act(format!("after-{round}"));
        times.push_time(start.elapsed());
        machines.start_as_member(leading);
    }
    times.percentiles()
}
