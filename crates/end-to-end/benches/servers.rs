//! One server with its own store, compared with one and three servers over an etcd of three members: the memory of
//! objects in each server, and the time until the last of many watchers receives a change.
//!
//! Run the benchmark on an idle machine with `cargo xtask bench servers`.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use end_to_end::lan::{Lan, Role};
use end_to_end::process::memory;
use end_to_end::samples::{Sample, sized};
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Api, Network};
use serde_json::{Value, json};

const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";
const WATCHED: &str = "/api/v1/namespaces/kube-node-lease/configmaps";
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn bench() {
    let directory = tempfile::tempdir().expect("make a directory");
    let mut lan = Lan::default();
    let mut alone = Role::new(&mut lan, "alone", directory.path());
    alone.start(&["server"]);
    let (network, _) = lan.machine();
    measure("a store of its own", &network, &[&alone]);
    alone.interrupt();
    alone.start(&["server"]);
    settle();
    println!(
        "a store of its own, started with the objects: {:.1} MiB",
        private(&alone)
    );
    drop(alone);
    let mut machines = ServersOnEtcd::of(&["a", "b", "c"]);
    machines.etcd.wait_until_ready();
    let (network, _) = machines.lan.machine();
    machines.start_as_member(0);
    measure("etcd", &network, &[&machines.servers[0]]);
    machines.start_as_member(1);
    machines.start_as_member(2);
    let all: Vec<&Role> = machines.servers.iter().collect();
    let apis = apis(&network, &all);
    settle();
    for server in &all[1..] {
        println!(
            "etcd, started with the objects, without the lead: {:.1} MiB",
            private(server)
        );
    }
    fan_out("etcd, three servers", &network, &apis);
}

fn apis(network: &Network, servers: &[&Role]) -> Vec<Api> {
    let kubeconfigs = servers
        .iter()
        .map(|server| Path::new(&server.data()).join("kubeconfig"));
    let kubeconfigs: Vec<PathBuf> = kubeconfigs.collect();
    network.run(|| kubeconfigs.into_iter().map(Api::with).collect())
}

/// Waits until a server has freed the memory of its start.
fn settle() {
    std::thread::sleep(sized(Duration::from_secs(75), Duration::ZERO));
}

/// The memory of a server that is not shared with another process, in MiB.
fn private(server: &Role) -> f64 {
    memory(server.pid()).private
}

fn measure(store: &str, network: &Network, servers: &[&Role]) {
    let apis = apis(network, servers);
    let count = sized(3000, 30);
    let value = "x".repeat(2000);
    let objects: Vec<Value> = (0..count)
        .map(|number| object(&format!("object-{number}"), &value))
        .collect();
    network.run(|| apis[0].create_all(OBJECTS, &objects));
    settle();
    let after = private(servers[0]);
    println!("{store}: {after:.1} MiB with {count} ConfigMaps of 2 KB");
    fan_out(store, network, &apis);
}

fn object(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"value": value},
    })
}

/// The time from a write until the first, the median and the last of many watchers receive it. The watchers are
/// distributed over the servers.
fn fan_out(store: &str, network: &Network, apis: &[Api]) {
    let (watchers, changes) = (sized(300, 6), sized(30, 2));
    network.run(|| {
        let watches: Vec<Receiver<(Instant, Value)>> = (0..watchers)
            .map(|watcher| apis[watcher % apis.len()].watch(WATCHED))
            .collect();
        let [mut first, mut middle, mut last] = [(); 3].map(|()| Sample::new("ms"));
        for change in 0..changes {
            let name = format!("change-{}-{change}", apis.len());
            let start = Instant::now();
            apis[0].create(WATCHED, &object(&name, "x"));
            let mut times: Vec<Duration> = watches
                .iter()
                .map(|watch| arrival(watch, &name) - start)
                .collect();
            times.sort_unstable();
            first.push_time(times[0]);
            middle.push_time(times[times.len() / 2]);
            last.push_time(times[times.len() - 1]);
            apis[0].delete(&format!("{WATCHED}/{name}"));
        }
        println!(
            "{store}: {watchers} watchers have a change, from its request on: first {first}, middle {middle}, last {last}"
        );
    });
}

/// The time at which a watcher received the object.
fn arrival(watch: &Receiver<(Instant, Value)>, name: &str) -> Instant {
    loop {
        let (time, object) = watch.recv_timeout(PATIENCE).expect("a change");
        if object["metadata"]["name"] == name {
            return time;
        }
    }
}
