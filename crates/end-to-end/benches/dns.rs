//! Responses per second of the DNS server, queried from a pod and from the machine, and the time from a pod's readiness
//! until its name resolves; with few and with 10,000 Services. Compared with a plain echo of packets on an equal path.
//!
//! Clients are threads of this process in the network of a pod. Run the benchmark on an idle machine with `cargo xtask
//! bench dns`.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use end_to_end::api::first_match;
use end_to_end::applications::busybox;
use end_to_end::cluster::is_ready;
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, Network, text, with_registry_of};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const HEADER_BYTES: usize = 12;
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;
const A: u16 = 1;
const SRV: u16 = 33;
/// The number of concurrent queries when responses per second are counted.
const WINDOW: u16 = 32;
const TIMEOUT: Duration = Duration::from_secs(60);
/// The time between two rounds in which an endpoint is the only change.
const QUIET: Duration = Duration::from_secs(1);

/// The query, and the code of the response.
const QUESTIONS: [(&str, &str, u16, u8); 4] = [
    ("a Service", "front.default.svc.cluster.local", A, NO_ERROR),
    (
        "a peer",
        "peer-0.peers.default.svc.cluster.local",
        A,
        NO_ERROR,
    ),
    (
        "ports of peers (SRV)",
        "_peer._tcp.peers.default.svc.cluster.local",
        SRV,
        NO_ERROR,
    ),
    (
        "no such name",
        "nobody.default.svc.cluster.local",
        A,
        NO_SUCH_NAME,
    ),
];

pub(crate) fn bench() {
    let image = busybox();
    let (_registry, instance) = with_registry_of(&[("library/busybox", "1", &image)]);
    let kubectl = instance.kubectl();
    let api = Api::new(&instance);
    api.create(SERVICES, &service("peers", "None"));
    api.create(SERVICES, &service("front", ""));
    for name in ["peer-0", "peer-1", "peer-2"] {
        api.create(PODS, &pod(name));
    }
    kubectl.wait_pods_ready(&["pod/peer-0", "pod/peer-1", "pod/peer-2"]);
    let inside = Network::of_pod(&kubectl, "peer-0", "sleep");
    let outside = Network::of_machine();
    let server = server_of(&kubectl);
    let echo = echo(server.ip());
    let mut services = 0;
    for count in sized([10, 10_000], [2, 20]) {
        let new: Vec<Value> = (services..count).map(one_of_many).collect();
        api.create_all(SERVICES, &new);
        services = count;
        let last = format!("service-{}.default.svc.cluster.local", count - 1);
        inside.run(|| wait_for(server, &last, A, |code| code == NO_ERROR));
        // The work that follows from the creation of the Services has ended by then.
        sleep(Duration::from_secs(sized(10, 1)));
        println!("{count} Services");
        for (from, network) in [("a pod", &inside), ("the machine", &outside)] {
            println!("  asked from {from}");
            network.run(|| measure(server, echo));
        }
        measure_ready(&api, &inside, server, sized(15, 3));
    }
}

/// A pod that the Service `peers` selects.
fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "peer", "name": name}},
        "spec": {"hostname": name, "subdomain": "peers", "terminationGracePeriodSeconds": 0,
            // The variables of 10,000 Services exceed a limit of the kernel.
            "enableServiceLinks": false,
            "containers": [{"name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                "command": ["sleep", "100000"]}]}})
}

/// A Service that selects all pods.
fn service(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "clusterIP": address, "selector": {"app": "peer"},
        "ports": [{"name": "peer", "port": 80}]}})
}

/// One of many Services, each with one permanent pod.
fn one_of_many(number: usize) -> Value {
    let mut service = service(&format!("service-{number}"), "");
    service["spec"]["selector"] = json!({"name": "peer-0"});
    service
}

/// The DNS server in the configuration of pods.
fn server_of(kubectl: &Kubectl) -> SocketAddr {
    let file = kubectl.ok(&["exec", "peer-0", "--", "cat", "/etc/resolv.conf"]);
    let address = file
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "));
    let ip: IpAddr = address.and_then(|ip| ip.parse().ok()).expect("a server");
    (ip, 53).into()
}

/// Returns each packet to its sender, as long as this process lives.
fn echo(ip: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).expect("listen");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], client));
        }
    });
    address
}

fn measure(server: SocketAddr, echo: SocketAddr) {
    let [mut bare, mut alone] = [Sample::new("/s"), Sample::new("ms")];
    let mut rows = QUESTIONS.map(|question| (question, bare.clone(), alone.clone()));
    // The measurements alternate in rounds, so that other work of the machine affects all of them.
    for _ in 0..sized(5, 1) {
        let (_, name, kind, _) = QUESTIONS[0];
        bare.push(per_second(echo, name, kind, NO_ERROR));
        alone.push(round_trip(echo, name, kind));
        for ((_, name, kind, code), rate, latency) in &mut rows {
            rate.push(per_second(server, name, *kind, *code));
            latency.push(round_trip(server, name, *kind));
        }
    }
    println!("    a bare echo: {bare}, one at a time {alone}");
    for ((what, ..), rate, latency) in &rows {
        println!("    {what}: {rate}, one at a time {latency}");
        println!("      of the bare echo: {}", rate.against(&bare));
    }
}

fn client_of(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
    socket
        .connect(server)
        .expect("the address of the DNS server");
    let patience = Some(Duration::from_secs(1));
    socket.set_read_timeout(patience).expect("set up");
    socket
}

/// Responses per second with several concurrent queries.
fn per_second(server: SocketAddr, name: &str, kind: u16, code: u8) -> f64 {
    let socket = client_of(server);
    let span = Duration::from_millis(sized(1_000, 50));
    let mut question = question(name, kind);
    let mut buffer = [0; 1500];
    for id in 0..WINDOW {
        question[..2].copy_from_slice(&id.to_be_bytes());
        socket.send(&question).expect("send a query");
    }
    let started = Instant::now();
    let mut responses = 0_u32;
    while started.elapsed() < span {
        let length = socket.recv(&mut buffer).expect("a response");
        assert!(length >= HEADER_BYTES && code_of(&buffer) == code, "{name}");
        responses += 1;
        question[..2].copy_from_slice(&buffer[..2]);
        socket.send(&question).expect("send a query");
    }
    f64::from(responses) / started.elapsed().as_secs_f64()
}

/// The median time of single queries, in milliseconds.
fn round_trip(server: SocketAddr, name: &str, kind: u16) -> f64 {
    let socket = client_of(server);
    let question = question(name, kind);
    let mut buffer = [0; 1500];
    let times = (0..sized(2_000, 20)).map(|_| {
        let started = Instant::now();
        socket.send(&question).expect("send a query");
        socket.recv(&mut buffer).expect("a response");
        started.elapsed()
    });
    Sample::of_times(times).median()
}

/// The time from the event of a watch with a Ready pod until the pod's name resolves; negative if the name resolves
/// before the event.
fn measure_ready(api: &Api, network: &Network, server: SocketAddr, rounds: usize) {
    let [mut running, mut after] = [(); 2].map(|()| Sample::new("ms"));
    for round in 0..rounds {
        let name = format!("late-{round}");
        let full = format!("{name}.peers.default.svc.cluster.local");
        let events = api.watch(PODS);
        let started = Instant::now();
        api.create(PODS, &pod(&name));
        let resolved = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                network.run(|| {
                    wait_for(server, &full, A, |code| code == NO_ERROR);
                    Instant::now()
                })
            });
            let (ready, _) = first_match(&events, TIMEOUT, |_, pod| {
                text(pod, "/metadata/name") == name && is_ready(pod)
            });
            running.push_time(ready - started);
            asking
                .join()
                .expect("the name resolves")
                .duration_since(ready)
        });
        after.push_time(resolved);
        api.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0"));
        network.run(|| wait_for(server, &full, A, |code| code == NO_SUCH_NAME));
        // Changes within the window after this change of the endpoints are collected (`controller_planners::batching`).
        sleep(QUIET);
    }
    println!("  a pod's name, {rounds} rounds");
    println!("    from the pod's creation to Ready: {running}");
    println!("    from Ready until its name resolves: {after}");
}

/// Repeats the query until the response has a matching code.
fn wait_for(server: SocketAddr, name: &str, kind: u16, is_expected: impl Fn(u8) -> bool) {
    let socket = client_of(server);
    let question = question(name, kind);
    let mut buffer = [0; 1500];
    let deadline = Instant::now() + TIMEOUT;
    loop {
        socket.send(&question).expect("send a query");
        socket.recv(&mut buffer).expect("a response");
        if is_expected(code_of(&buffer)) {
            return;
        }
        assert!(Instant::now() < deadline, "{name}");
        sleep(Duration::from_micros(200));
    }
}

/// A query as bytes (RFC 1035), with the ID 0.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    // The flag "recursion desired", which resolvers set, and the number of questions, which is 1.
    bytes[2] = 1;
    bytes[5] = 1;
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

fn code_of(response: &[u8]) -> u8 {
    response[3] & 0xf
}
