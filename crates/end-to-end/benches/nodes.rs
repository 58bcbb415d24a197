//! Machines that join a server: the time until their nodes are Ready, the memory of an agent, and the
//! throughput between pods of two nodes, by a route and by VXLAN, against the machines themselves in the
//! same run.
//!
//! Machines are network namespaces on one bridge. Clients and servers are threads of this process in the
//! networks of pods and machines. Run it on an idle machine with `cargo xtask bench nodes`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use end_to_end::cluster::is_ready;
use end_to_end::lan::{Lan, Role, ip};
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, Network, process, streams};
use serde_json::{Value, json};

const NODES: &str = "/api/v1/nodes";
/// The process of the pods.
const PROGRAM: &str = "mainstay";
/// Takes bytes until there are no more.
const PORT: u16 = 8081;
const TIMEOUT: Duration = Duration::from_secs(60);
/// The pods of the agent whose memory is measured.
const PODS: usize = 3;

fn main() {
    let directory = tempfile::Builder::new().prefix("mainstay-bench-").tempdir();
    let directory = directory.expect("make a directory");
    let mut lan = Lan::default();
    let mut server = Role::new(&mut lan, "server", directory.path());
    server.start(&["server"]);
    let kubeconfig = Path::new(&server.data()).join("kubeconfig");
    let api = server.network.run(|| Api::with(kubeconfig));
    let token = server.token(&[]);

    let mut nodes: Vec<Role> = (0..sized(8, 4))
        .map(|number| Role::new(&mut lan, &format!("n{number}"), directory.path()))
        .collect();
    // Neighbours that are not on one link for the kernel: the nodes need a tunnel.
    for node in &nodes[2..4] {
        node.network.run(|| without_link(&node.address));
    }
    let mut joins = Sample::new("ms");
    for (number, node) in nodes.iter_mut().enumerate() {
        let name = format!("n{number}");
        joins.push_time(join(&server, &api, (node, &name), &token));
    }
    println!(
        "from the start of an agent on an empty data directory until its node is Ready: {joins}"
    );

    let kubectl = server.kubectl();
    server.network.run(|| {
        let on = |node: usize, count| (0..count).map(move |pod| (node, pod));
        for (node, pod) in on(0, PODS).chain(on(1, 1)).chain(on(2, 1)).chain(on(3, 1)) {
            kubectl.apply(&hello(&name(node, pod), &format!("n{node}")).to_string());
        }
        kubectl.ok(&[
            "wait",
            "--for=condition=Ready",
            "pods",
            "--all",
            "--timeout=300s",
        ]);
    });
    std::thread::sleep(Duration::from_secs(sized(30, 2)));
    let memory = process::memory(nodes[0].pid());
    println!(
        "an agent with {PODS} pods: resident {:.1} MiB, proportional {:.1} MiB",
        memory.resident, memory.proportional
    );
    between(&kubectl, &server, [&nodes[0], &nodes[1]], [0, 1], "a route");
    between(&kubectl, &server, [&nodes[2], &nodes[3]], [2, 3], "VXLAN");
    for node in &mut nodes {
        node.interrupt();
    }
    server.interrupt();
}

/// Leaves the machine its address without the addresses of the link.
fn without_link(address: &str) {
    ip(&format!("address del {address}/24 dev eth0"));
    ip(&format!("address add {address}/32 dev eth0"));
    ip("route add 192.0.2.0/24 dev eth0");
}

/// Starts an agent; the time until its node is Ready, as a watch of the API shows it.
fn join(server: &Role, api: &Api, (node, name): (&mut Role, &str), token: &str) -> Duration {
    let events = server.network.run(|| api.watch(NODES));
    let url = server.url();
    let join = ["--server", &url, "--token", token, "--node-name", name];
    let started = Instant::now();
    node.spawn(&[&["node"], &join[..]].concat());
    loop {
        let left = TIMEOUT.saturating_sub(started.elapsed());
        let (seen, object) = events.recv_timeout(left).expect("the node to be Ready");
        if object["metadata"]["name"] == name && is_ready(&object) {
            return seen - started;
        }
    }
}

fn name(node: usize, pod: usize) -> String {
    format!("hello-{node}-{pod}")
}

fn hello(name: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "nodeName": node,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "mainstay/hello",
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1}}],
    }})
}

/// Throughput from a pod of one node to a pod of the other, against that from machine to machine.
fn between(kubectl: &Kubectl, server: &Role, machines: [&Role; 2], numbers: [usize; 2], way: &str) {
    let names = numbers.map(|number| name(number, 0));
    // The processes of all pods are those of this machine; the client is one of the server's machine.
    let [client, target] = server.network.run(|| {
        names
            .each_ref()
            .map(|name| Network::of_pod(kubectl, name, PROGRAM))
    });
    let address = server.network.run(|| kubectl.pod_ip(&names[1]));
    let to_pod = address_of(&address);
    let to_machine = address_of(&machines[1].address);
    for network in [&target, &machines[1].network] {
        network.run(|| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("listen");
            std::thread::spawn(move || streams::take_all(&listener));
        });
    }
    let span = Duration::from_millis(sized(2_000, 100));
    let [mut pods, mut bare] = [(); 2].map(|()| Sample::new("MiB/s"));
    for _ in 0..sized(7, 2) {
        pods.push(client.run(|| streams::throughput(to_pod, span)));
        let machine = &machines[0].network;
        bare.push(machine.run(|| streams::throughput(to_machine, span)));
    }
    println!("bytes over one connection between two nodes, by {way}");
    println!("  from pod to pod: {pods}");
    println!("  from machine to machine: {bare}");
    println!("  against the machines: {}", pods.against(&bare));
}

fn address_of(text: &str) -> SocketAddr {
    let address: Ipv4Addr = text.parse().expect("an address");
    (address, PORT).into()
}
