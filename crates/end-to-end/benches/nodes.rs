//! Machines that join a server: the time until their nodes are Ready, the memory of an agent, and the throughput
//! between pods of two nodes, by a route and by VXLAN; compared with the machines themselves and with namespaces behind
//! two plain routers, without any rules, in the same run.
//!
//! Machines are network namespaces on one bridge. Clients and servers are threads of this process in the networks of
//! pods and machines. Run the benchmark on an idle machine with `cargo xtask bench nodes`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use end_to_end::api::first_match;
use end_to_end::cluster::is_ready;
use end_to_end::lan::{Lan, Role, ip};
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, Network, process, streams};
use serde_json::{Value, json};

const NODES: &str = "/api/v1/nodes";
/// The name of the process in the pods.
const PROGRAM: &str = "mainstay";
/// The port of the server that reads all bytes.
const PORT: u16 = 8081;
const TIMEOUT: Duration = Duration::from_secs(60);
/// The number of pods of the agent whose memory is measured.
const PODS: usize = 3;

pub(crate) fn bench() {
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
    // For the kernel these neighbours are not on one link, so the nodes need a tunnel.
    for node in &nodes[2..4] {
        node.network.run(|| without_link(&node.address));
    }
    let alone = process::memory(server.pid());
    let mut joins = Sample::new("ms");
    for (number, node) in nodes.iter_mut().enumerate() {
        let name = format!("n{number}");
        joins.push_time(join(&server, &api, (node, &name), &token));
    }
    println!(
        "from the start of an agent on an empty data directory until its node is Ready: {joins}"
    );

    std::thread::sleep(Duration::from_secs(sized(30, 2)));
    println!(
        "the server for each agent without pods: {:.2} MiB of its own",
        (process::memory(server.pid()).private - alone.private) / nodes.len() as f64
    );
    let plain = Plain::on(&mut lan);
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
    for (numbers, transport) in [([0, 1], "a route"), ([2, 3], "VXLAN")] {
        between(&kubectl, &server, &nodes, &plain, numbers, transport);
    }
    for node in &mut nodes {
        node.interrupt();
    }
    server.interrupt();
}

/// Keeps the address of the machine, but removes the addresses of its link.
fn without_link(address: &str) {
    ip(&format!("address del {address}/24 dev eth0"));
    ip(&format!("address add {address}/32 dev eth0"));
    ip("route add 192.0.2.0/24 dev eth0");
}

/// Starts an agent; returns the time until a watch of the API reports its node as Ready.
fn join(server: &Role, api: &Api, (node, name): (&mut Role, &str), token: &str) -> Duration {
    let events = server.network.run(|| api.watch(NODES));
    let url = server.url();
    let join = ["--server", &url, "--token", token, "--node-name", name];
    let started = Instant::now();
    node.spawn(&[&["node"], &join[..]].concat());
    let (ready, _) = first_match(&events, TIMEOUT, |_, node| {
        node["metadata"]["name"] == name && is_ready(node)
    });
    ready - started
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

/// Two machines that only route, with a namespace behind each: equal links and hops as between two pods, but without
/// rules and without connection tracking.
struct Plain {
    behind: [Network; 2],
    target: SocketAddr,
    _routers: [Network; 2],
}

impl Plain {
    fn on(lan: &mut Lan) -> Self {
        let [(first, first_address), (second, second_address)] = [(); 2].map(|()| lan.machine());
        let behind = [Network::isolated(), Network::isolated()];
        let routers = [(&first, second_address), (&second, first_address)];
        for (number, ((router, other), inside)) in routers.into_iter().zip(&behind).enumerate() {
            let path = inside.path();
            router.run(|| {
                ip(&format!(
                    "link add pod type veth peer name eth0 netns {path}"
                ));
                ip("link set pod up");
                ip(&format!("address add 198.18.{number}.1/24 dev pod"));
                ip(&format!("route add 198.18.{}.0/24 via {other}", 1 - number));
                let forwarding = "/proc/sys/net/ipv4/ip_forward";
                std::fs::write(forwarding, "1").expect("forward packets");
            });
            inside.run(|| {
                ip("link set eth0 up");
                ip(&format!("address add 198.18.{number}.2/24 dev eth0"));
                ip(&format!("route add default via 198.18.{number}.1"));
            });
        }
        let target = address_of("198.18.1.2");
        read_all(&behind[1]);
        Self {
            behind,
            target,
            _routers: [first, second],
        }
    }
}

/// Reads all bytes of connections to a port in a network.
fn read_all(network: &Network) {
    network.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("listen");
        std::thread::spawn(move || streams::read_all(&listener));
    });
}

/// Throughput from a pod of one node to a pod of the other node; compared with that behind plain routers, and from
/// machine to machine.
fn between(
    kubectl: &Kubectl,
    server: &Role,
    nodes: &[Role],
    plain: &Plain,
    numbers: [usize; 2],
    transport: &str,
) {
    let machines = numbers.map(|number| &nodes[number]);
    let names = numbers.map(|number| name(number, 0));
    // The processes of all pods are visible on this machine; the client is a pod of the server's machine.
    let [client, target] = server.network.run(|| {
        names
            .each_ref()
            .map(|name| Network::of_pod(kubectl, name, PROGRAM))
    });
    let address = server.network.run(|| kubectl.pod_ip(&names[1]));
    read_all(&target);
    read_all(&machines[1].network);
    let paths = [
        (&client, address_of(&address)),
        (&plain.behind[0], plain.target),
        (&machines[0].network, address_of(&machines[1].address)),
    ];
    // Many short measurements, so that other work of the machine affects all of them.
    let span = Duration::from_millis(sized(500, 100));
    let mut samples = [(); 3].map(|()| Sample::new("MiB/s"));
    for _ in 0..sized(31, 2) {
        for ((network, target), sample) in paths.iter().zip(&mut samples) {
            sample.push(network.run(|| streams::throughput(*target, span)));
        }
    }
    let [pods, routed, bare] = samples;
    println!("bytes over one connection between two nodes, by {transport}");
    println!("  from pod to pod: {pods}");
    println!("  between namespaces behind plain routers: {routed}");
    println!("  from machine to machine: {bare}");
    println!("  pods against plain routers: {}", pods.against(&routed));
    println!("  pods against the machines: {}", pods.against(&bare));
    let hops = routed.against(&bare);
    println!("  plain routers against the machines: {hops}");
}

fn address_of(text: &str) -> SocketAddr {
    let address: Ipv4Addr = text.parse().expect("an address");
    (address, PORT).into()
}
