//! The cost of a Service: connections and throughput through its address, compared with the pod's own address in the
//! same run, with 10, 1,000 and 10,000 Services; and the time until all Services, and one more Service, accept
//! connections.
//!
//! All Services have one pod behind them. Clients and servers are threads of this process in the networks of two pods.
//! Run the benchmark on an idle machine with `cargo xtask bench services`.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use end_to_end::api::first_match;
use end_to_end::applications::busybox;
use end_to_end::cluster::is_ready;
use end_to_end::samples::{Sample, sized};
use end_to_end::{Api, Kubectl, Network, process, streams, text, with_registry_of};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// A pod whose readiness the benchmark sets by a condition, and the Service in front of the pod.
const GATED: &str = "gated";
const GATE: &str = "example.com/serves";
/// The port of the server that accepts connections and closes them.
const CONNECTIONS: u16 = 8080;
/// The port of the server that reads all bytes.
const BYTES: u16 = 8081;
const PORT: u16 = 80;
/// The Service in front of [`BYTES`]; all other Services are in front of [`CONNECTIONS`].
const BULK: &str = "bulk";
const TIMEOUT: Duration = Duration::from_secs(600);
/// The interval between two connection attempts to an address.
const INTERVAL: Duration = Duration::from_millis(1);

pub(crate) fn bench() {
    let image = busybox();
    let (_registry, instance) = with_registry_of(&[("library/busybox", "1", &image)]);
    let kubectl = instance.kubectl();
    for name in ["server", "client"] {
        kubectl.apply(&pod(name).to_string());
    }
    let mut gated = pod(GATED);
    gated["spec"]["readinessGates"] = json!([{ "conditionType": GATE }]);
    kubectl.apply(&gated.to_string());
    kubectl.wait_pods_ready(&["pod/server", "pod/client"]);
    let server = Network::of_pod(&kubectl, "server", "sleep");
    let client = Network::of_pod(&kubectl, "client", "sleep");
    server.run(serve);
    Network::of_pod(&kubectl, GATED, "sleep").run(serve);
    let api = Api::new(&instance);
    let mut service_of_gated = service(GATED, CONNECTIONS);
    service_of_gated["spec"]["selector"]["app"] = GATED.into();
    let gated = address_of(&api.create(SERVICES, &service_of_gated));
    let pod_ip: Ipv4Addr = kubectl.pod_ip("server").parse().expect("an address");
    let bulk = address_of(&api.create(SERVICES, &service(BULK, BYTES)));
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for count in sized([10, 1_000, 10_000], [2, 10, 50]) {
        let new: Vec<Value> = (addresses.len()..count)
            .map(|number| service(&format!("service-{number}"), CONNECTIONS))
            .collect();
        println!("{count} Services");
        let used = process::processor_time(instance.pid());
        let started = Instant::now();
        let built = api.create_all(SERVICES, &new);
        let created = started.elapsed();
        addresses.extend(built.iter().map(address_of));
        client.run(|| built.iter().map(address_of).for_each(wait_until_served));
        println!(
            "  {} more: created in {created:.1?}, all served after {:.1?}",
            new.len(),
            started.elapsed()
        );
        // The work that follows from the creation of the Services has ended by then.
        sleep(Duration::from_secs(sized(10, 1)));
        let used = process::processor_time(instance.pid()) - used;
        println!("    processor time of the server: {used:.1?}");
        let one = one_more(&api, &client, sized(15, 3));
        println!("  one more among them, from its creation until it is served: {one}");
        let ready = readiness(&kubectl, &api, &client, gated, sized(15, 3));
        println!("  from a pod's Ready until its Service is served: {ready}");
        measure_connections(&client, &addresses, (pod_ip, CONNECTIONS).into());
        measure_bytes(&client, bulk, (pod_ip, BYTES).into());
        let memory = process::memory(instance.pid()).resident;
        println!("  resident memory of the server: {memory:.0} MiB");
    }
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": "busybox:1", "command": ["sleep", "100000"]}]}})
}

fn service(name: &str, target: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "selector": {"app": "server"}, "ports": [{"port": PORT, "targetPort": target}]}})
}

fn address_of(service: &Value) -> SocketAddr {
    let ip: IpAddr = text(service, "/spec/clusterIP")
        .parse()
        .expect("an address");
    (ip, PORT).into()
}

/// Serves in the network of the calling thread, as long as this process lives.
fn serve() {
    let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("listen");
    let connections = listen(CONNECTIONS);
    std::thread::spawn(move || connections.incoming().for_each(drop));
    let bytes = listen(BYTES);
    std::thread::spawn(move || streams::read_all(&bytes));
}

fn wait_until_served(address: SocketAddr) {
    let deadline = Instant::now() + TIMEOUT;
    while let Err(error) = connect(address) {
        let refused = error.kind() == ErrorKind::ConnectionRefused;
        assert!(refused, "connect to {address}: {error}");
        assert!(Instant::now() < deadline, "{address} is not served");
        sleep(INTERVAL);
    }
}

/// The time to set up a connection. The connection is closed when the function returns, so its port is free again.
fn connect(address: SocketAddr) -> std::io::Result<Duration> {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    let elapsed = started.elapsed();
    // Connections that are not accepted yet would fill the server's queue.
    let result = stream.read(&mut [0])?;
    assert_eq!(result, 0, "the server says nothing");
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once)?;
    Ok(elapsed)
}

/// The time from the response to the creation of a Service until a connection to it succeeds.
fn one_more(api: &Api, client: &Network, rounds: usize) -> Sample {
    let mut sample = Sample::new("ms");
    for round in 0..rounds {
        let name = format!("one-more-{round}");
        let address = address_of(&api.create(SERVICES, &service(&name, CONNECTIONS)));
        let started = Instant::now();
        client.run(|| wait_until_served(address));
        sample.push_time(started.elapsed());
        api.delete(&format!("{SERVICES}/{name}"));
        // A pause, because changes in quick succession are programmed together.
        sleep(Duration::from_millis(sized(1_000, 100)));
    }
    sample
}

/// The time from the event of a watch with a Ready pod until a connection to its Service succeeds.
fn readiness(
    kubectl: &Kubectl,
    api: &Api,
    client: &Network,
    address: SocketAddr,
    rounds: usize,
) -> Sample {
    let gate = |status: &str| {
        let conditions = json!([{ "type": GATE, "status": status }]);
        let patch = json!({ "status": { "conditions": conditions } }).to_string();
        kubectl.ok(&["patch", "pod", GATED, "--subresource=status", "-p", &patch]);
    };
    let mut sample = Sample::new("ms");
    for _ in 0..rounds {
        let events = api.watch(PODS);
        let served = std::thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                client.run(|| {
                    wait_until_served(address);
                    Instant::now()
                })
            });
            gate("True");
            let (ready, _) = first_match(&events, TIMEOUT, |_, pod| {
                text(pod, "/metadata/name") == GATED && is_ready(pod)
            });
            let served = connecting.join().expect("the Service is served");
            served.saturating_duration_since(ready)
        });
        sample.push_time(served);
        gate("False");
        client.run(|| wait_until_refused(address));
        // Changes within the window after this change of the endpoints are collected (`controller_planners::batching`).
        sleep(Duration::from_millis(sized(1_000, 200)));
    }
    sample
}

fn wait_until_refused(address: SocketAddr) {
    let deadline = Instant::now() + TIMEOUT;
    while connect(address).is_ok() {
        assert!(Instant::now() < deadline, "{address} is served still");
        sleep(INTERVAL);
    }
}

fn measure_connections(client: &Network, services: &[SocketAddr], pod: SocketAddr) {
    let count = sized(5_000, 200);
    let [mut latency_pod, mut latency_service] = [(); 2].map(|()| Sample::new("ms"));
    let [mut rate_pod, mut rate_service] = [(); 2].map(|()| Sample::new("/s"));
    client.run(|| {
        for _ in 0..sized(5, 2) {
            for (addresses, latency, rate) in [
                (&[pod][..], &mut latency_pod, &mut rate_pod),
                (services, &mut latency_service, &mut rate_service),
            ] {
                let started = Instant::now();
                let times = addresses.iter().cycle().take(count);
                let times = times.map(|address| connect(*address).expect("a connection"));
                latency.push(Sample::of_times(times).median());
                rate.push(count as f64 / started.elapsed().as_secs_f64());
            }
        }
    });
    println!("  connections by one client, {count} each round, medians of the rounds");
    println!("    to the pod's own address: {latency_pod}, one after the other {rate_pod}");
    println!("    to the Services in turn: {latency_service}, one after the other {rate_service}");
    let ratio = latency_service.against(&latency_pod);
    println!("    against the pod's own: {ratio}");
}

fn measure_bytes(client: &Network, service: SocketAddr, pod: SocketAddr) {
    let span = Duration::from_millis(sized(2_000, 100));
    let [mut to_pod, mut to_service] = [(); 2].map(|()| Sample::new("MiB/s"));
    client.run(|| {
        for _ in 0..sized(5, 2) {
            to_pod.push(streams::throughput(pod, span));
            to_service.push(streams::throughput(service, span));
        }
    });
    println!("  bytes over one connection");
    println!("    to the pod's own address: {to_pod}");
    println!("    to a Service: {to_service}");
    println!("    against the pod's own: {}", to_service.against(&to_pod));
}
