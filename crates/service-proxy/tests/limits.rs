//! Tests of the rules of any Services and policies, at every limit of their fields, in a real kernel. Also
//! tests of rules that the kernel rejects.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use controller_framework::{Cache, Object};
use futures::channel::mpsc;
use futures::{Stream, StreamExt};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{self as api, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube_api_client::Event;
use object_model::cidr::Cidr;
use process_telemetry::Health;
use process_telemetry::prometheus::Page;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use resource_kinds::pod_view::PodView;
use service_proxy::{
    Kernel, KernelError, LocalPods, Peers, PodAddresses, PolicySources, ServiceCaches, conntrack,
    serve_with_policies,
};
use service_routing::{
    Policy, PolicyObjects, PolicyPod, Table, TunnelGuard, changes, filters, guard, ports, table,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod harness;

use harness::{BOTH, Harness, Namespace, config, next_version, objects, to};

const A: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);

/// The number of tables with random objects; a hundred tables take some seconds.
const TABLES: u64 = 60;

/// A name with the maximum length of a namespace or of a Service.
fn long(letter: char) -> String {
    letter.to_string().repeat(63)
}

/// A number of items: zero, one, some, or very many.
fn count(numbers: &mut StdRng, max: usize) -> usize {
    match numbers.random_range(0..8) {
        0 => 0,
        1 | 2 => 1,
        3..=6 => numbers.random_range(0..=max / 50 + 1),
        _ => numbers.random_range(0..=max),
    }
}

/// Any range inside `within`, often at the first or the last address.
fn block(numbers: &mut StdRng, within: Cidr) -> Cidr {
    let prefix = numbers.random_range(within.prefix()..=32);
    let bits = match numbers.random_range(0..6) {
        0 => within.network().to_bits(),
        1 => within.last().to_bits(),
        _ => numbers.random_range(within.network().to_bits()..=within.last().to_bits()),
    };
    Cidr::new(Ipv4Addr::from_bits(bits), prefix)
}

fn peer(numbers: &mut StdRng) -> Value {
    let everything: Cidr = "0.0.0.0/0".parse().unwrap();
    match numbers.random_range(0..4) {
        0 => json!({"podSelector": {}}),
        1 => json!({"namespaceSelector": {}}),
        _ => {
            let range = block(numbers, everything);
            let except: Vec<String> = (0..count(numbers, 2000))
                .map(|_| block(numbers, range).to_string())
                .collect();
            json!({"ipBlock": {"cidr": range.to_string(), "except": except}})
        }
    }
}

fn port(numbers: &mut StdRng) -> Value {
    let protocol = *["TCP", "UDP", "SCTP"].choose(numbers).unwrap();
    let first = numbers.random_range(1..=65_535);
    match numbers.random_range(0..5) {
        0 => json!({"protocol": protocol}),
        1 => {
            let name = *["http", "fifteen-letters"].choose(numbers).unwrap();
            json!({"protocol": protocol, "port": name})
        }
        2 => {
            let last = numbers.random_range(first..=65_535);
            json!({"protocol": protocol, "port": first, "endPort": last})
        }
        _ => json!({"protocol": protocol, "port": first}),
    }
}

fn rules(numbers: &mut StdRng, side: &str) -> Value {
    let rule = |numbers: &mut StdRng| {
        let peers: Vec<Value> = (0..count(numbers, 20)).map(|_| peer(numbers)).collect();
        let ports: Vec<Value> = (0..count(numbers, 2000)).map(|_| port(numbers)).collect();
        json!({side: peers, "ports": ports})
    };
    (0..count(numbers, 10)).map(|_| rule(numbers)).collect()
}

fn policy(uid: &str, spec: &Value) -> NetworkPolicy {
    let metadata = json!({"namespace": "default", "name": uid, "uid": uid,
        "resourceVersion": next_version()});
    json_tree::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// A pod of this node with the label `app`; the name is also the UID.
fn pod(name: &str) -> PodView {
    let ports = json!([{"name": "http", "containerPort": 8080},
        {"name": "fifteen-letters", "containerPort": 65535, "protocol": "SCTP"}]);
    let metadata = json!({"namespace": "default", "name": name, "uid": name,
        "resourceVersion": next_version(), "labels": {"app": name}});
    let spec = json!({"nodeName": "here", "containers": [{"name": "c", "ports": ports}]});
    let pod: Pod = json_tree::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    PodView::try_from(pod).unwrap()
}

fn random_filters(numbers: &mut StdRng) -> Table {
    let mut state = PolicyObjects::default();
    state
        .namespaces
        .insert("default".to_owned(), Default::default());
    for number in 0..numbers.random_range(0..5) {
        let spec = json!({
            "podSelector": if numbers.random_bool(0.5) { json!({}) } else { json!({"matchLabels": {"app": "a"}}) },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": rules(numbers, "from"),
            "egress": rules(numbers, "to"),
        });
        let uid = format!("0b8f9a3e-6d0a-4c56-9a43-5a1e5bb5{number:04}");
        let policy = Policy::of(&policy(&uid, &spec));
        state.policies.insert(policy.uid.clone(), policy);
    }
    for number in 0..numbers.random_range(1..30_u8) {
        let name = if number == 0 {
            "a".to_owned()
        } else {
            format!("p{number}")
        };
        let address = Ipv4Addr::new(10, 244, 0, 2 + number);
        let pod = PolicyPod::of(&pod(&name), Some(address)).unwrap();
        state.pods.insert(name, pod);
    }
    filters(&state)
}

/// A Service with names of any length, ports, addresses, ranges and endpoints.
fn random_service(numbers: &mut StdRng, number: u8) -> (Service, EndpointSlice) {
    let everything: Cidr = "0.0.0.0/0".parse().unwrap();
    let protocol = *["TCP", "UDP", "SCTP"].choose(numbers).unwrap();
    let sources: Vec<String> = (0..count(numbers, 1000))
        .map(|_| block(numbers, everything).to_string())
        .collect();
    let addresses: Vec<String> = (0..count(numbers, 50))
        .map(|_| block(numbers, everything).network().to_string())
        .collect();
    let policy = |numbers: &mut StdRng| {
        if numbers.random_bool(0.5) {
            "Local"
        } else {
            "Cluster"
        }
    };
    let endpoints: Vec<Value> = (0..count(numbers, 400))
        .map(|_| {
            let ip = block(numbers, "10.244.0.0/16".parse().unwrap()).network();
            let node = if numbers.random_bool(0.5) {
                "here"
            } else {
                "there"
            };
            json!({"addresses": [ip.to_string()], "nodeName": node})
        })
        .collect();
    let name = match numbers.random_bool(0.5) {
        true => long('n'),
        false => format!("s{number}"),
    };
    let metadata = json!({"namespace": long('m'), "name": name, "uid": format!("u{number}"),
        "resourceVersion": next_version()});
    let service = json!({
        "metadata": metadata,
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": format!("10.96.1.{number}"),
            "ports": [{"name": "p", "port": 65535, "nodePort": 30000 + u32::from(number), "protocol": protocol}],
            "externalIPs": addresses,
            "loadBalancerSourceRanges": sources,
            "sessionAffinity": if numbers.random_bool(0.3) { "ClientIP" } else { "None" },
            "internalTrafficPolicy": policy(numbers),
            "externalTrafficPolicy": policy(numbers),
        },
        "status": {"loadBalancer": {"ingress": [{"ip": format!("203.0.113.{number}")}]}},
    });
    let slice = json!({
        "metadata": {"namespace": long('m'), "name": format!("{number}"),
            "uid": format!("slice-{number}"), "resourceVersion": next_version(),
            "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "p", "port": 65535, "protocol": protocol}],
        "endpoints": endpoints,
    });
    (
        json_tree::from_value(service).unwrap(),
        json_tree::from_value(slice).unwrap(),
    )
}

fn random_table(numbers: &mut StdRng) -> Table {
    let objects = (0..numbers.random_range(0..6)).map(|number| random_service(numbers, number));
    let (services, slices): (Vec<Service>, Vec<EndpointSlice>) = objects.collect();
    let mut whole = table(&ports(&services, &slices, "here"), &Harness::settings());
    let everything: Cidr = "0.0.0.0/0".parse().unwrap();
    let ends = (0..count(numbers, 500))
        .map(|_| block(numbers, everything).network())
        .collect();
    let tunnel = TunnelGuard {
        port: 8472,
        number: numbers.random_range(0..1 << 24),
        ends,
    };
    guard(&mut whole, Some(&tunnel));
    whole.include(random_filters(numbers));
    whole
}

fn accepted(done: Result<(), KernelError>, seed: u64, what: &str) {
    assert!(done.is_ok(), "seed {seed}, {what}: {}", done.unwrap_err());
}

// findings-2 S36
#[test]
fn the_kernel_accepts_the_rules_of_any_objects_and_each_change_of_them() {
    let host = Namespace::new();
    host.run(|| {
        let mut kernel = Kernel::open("a1b2c4").unwrap();
        let mut before = table(&[], &Harness::settings());
        kernel.replace(&before).unwrap();
        for seed in 1..=TABLES {
            let after = random_table(&mut StdRng::seed_from_u64(seed));
            assert!(kernel.accepts(&after).unwrap(), "seed {seed}: a trial");
            accepted(kernel.change(&changes(&before, &after)), seed, "a change");
            if seed % 8 == 0 {
                accepted(kernel.replace(&after).map(drop), seed, "a replacement");
            }
            before = after;
        }
        let none = table(&[], &Harness::settings());
        accepted(kernel.change(&changes(&before, &none)), 0, "the removal");
        kernel.remove().unwrap();
    });
}

// findings-2 S36
#[test]
fn twenty_thousand_exceptions_are_one_set_that_the_kernel_obeys() {
    let mut harness = Harness::new();
    harness
        .outside
        .ip("route add 10.244.0.0/24 via 198.51.100.1");
    let mut except: Vec<String> = (0..20_000_u32)
        .map(|number| format!("100.{}.{}.1/32", 64 + number / 256, number % 256))
        .collect();
    let mut allow = |except: &[String]| {
        let block = json!({"cidr": "0.0.0.0/0", "except": except});
        let spec = json!({"podSelector": {"matchLabels": {"app": "b"}},
            "ingress": [{"from": [{"ipBlock": block}]}]});
        let mut state = PolicyObjects::default();
        let policy = Policy::of(&policy("p", &spec));
        state.policies.insert("p".to_owned(), policy);
        let pod = PolicyPod::of(&pod("b"), Some(B)).unwrap();
        state.pods.insert("b".to_owned(), pod);
        let mut whole = table(&[], &Harness::settings());
        whole.include(filters(&state));
        harness.apply(whole);
        harness.outside.ask(to(B, 8080)).is_ok()
    };
    assert!(allow(&except));
    except.push("198.51.100.2/32".to_owned());
    assert!(!allow(&except), "the client is an exception now");
    assert!(allow(&except[..20_000]));
}

// findings-2 S45
#[test]
fn the_tunnel_takes_packets_of_its_other_ends_alone() {
    let mut harness = Harness::new();
    let socket = harness
        .host
        .run(|| std::net::UdpSocket::bind("0.0.0.0:8472"))
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let vxlan = |number: u8| [8, 0, 0, 0, 0, 0, number, 0, 7, 7];
    let mut guarded = |ends: &[&str], numbers: &[u8]| -> Vec<u8> {
        let mut whole = table(&[], &Harness::settings());
        let tunnel = TunnelGuard {
            port: 8472,
            number: 1,
            ends: ends.iter().map(|end| end.parse().unwrap()).collect(),
        };
        guard(&mut whole, Some(&tunnel));
        harness.apply(whole);
        harness.outside.run(|| {
            let client = std::net::UdpSocket::bind("198.51.100.2:0").unwrap();
            for number in numbers {
                client
                    .send_to(&vxlan(*number), "198.51.100.1:8472")
                    .unwrap();
            }
        });
        let mut numbers_received = Vec::new();
        let mut buffer = [0; 64];
        // The last packet belongs to another tunnel, and always arrives.
        while numbers_received.last() != numbers.last() {
            let length = socket.recv(&mut buffer).unwrap();
            numbers_received.extend(buffer[..length].get(6));
        }
        numbers_received
    };
    assert_eq!(guarded(&["198.51.100.2"], &[1, 2]), [1, 2]);
    assert_eq!(guarded(&["198.51.100.3"], &[1, 2]), [2]);
    assert_eq!(guarded(&[], &[1, 2]), [2]);
}

// findings-2 S45
#[test]
fn a_neighbour_does_not_send_with_the_address_of_a_pod_of_this_node() {
    let mut harness = Harness::new();
    harness
        .outside
        .ip("route add 10.244.0.0/24 via 198.51.100.1");
    harness.outside.ip("addr add 10.244.0.9/32 dev lo");
    for link in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
        harness.host.run(|| std::fs::write(&path, "0")).unwrap();
    }
    let all = harness.host.ip("-br link");
    for link in all.lines().filter_map(|line| line.split(['@', ' ']).next()) {
        let path = format!("/proc/sys/net/ipv4/conf/{link}/rp_filter");
        harness.host.run(|| std::fs::write(&path, "0")).unwrap();
    }
    harness.apply(table(&[], &Harness::settings()));
    let server = harness
        .b
        .run(|| std::net::UdpSocket::bind((B, 9000)))
        .unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    for (source, text) in [("10.244.0.9:0", "forged"), ("198.51.100.2:0", "own")] {
        harness.outside.run(|| {
            let client = std::net::UdpSocket::bind(source).unwrap();
            client.send_to(text.as_bytes(), (B, 9000)).unwrap();
        });
    }
    let mut buffer = [0; 64];
    let length = server.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"own");
}

// findings-2 C26
#[test]
fn half_closed_connections_are_known_for_an_hour_or_longer() {
    let mut harness = Harness::new();
    harness.apply(table(&[], &Harness::settings()));
    let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    let seconds = || {
        harness
            .host
            .run(|| std::fs::read_to_string(path).unwrap().trim().to_owned())
    };
    assert_eq!(seconds(), "60", "the kernel's own");
    harness.host.run(conntrack::keep_half_closed).unwrap();
    assert_eq!(seconds(), "3600");
    harness.host.run(|| std::fs::write(path, "7200")).unwrap();
    harness.host.run(conntrack::keep_half_closed).unwrap();
    assert_eq!(seconds(), "7200");
}

/// A cache with a complete first list, and the sender of its changes.
fn cache_of<K: Object>(first: Vec<K>) -> (Cache<K>, mpsc::UnboundedSender<Event<K>>) {
    let (send, events) = listed(first);
    (Cache::from_events(events), send)
}

fn listed<K: Send + 'static>(
    first: Vec<K>,
) -> (
    mpsc::UnboundedSender<Event<K>>,
    impl Stream<Item = Event<K>> + Send,
) {
    let (send, receive) = mpsc::unbounded();
    let all = first.into_iter().map(Event::InitApply);
    for event in [Event::Init]
        .into_iter()
        .chain(all)
        .chain([Event::InitDone])
    {
        send.unbounded_send(event).unwrap();
    }
    (send, receive.chain(futures::stream::pending()))
}

/// Tries a connection until the result is as expected.
async fn until(
    harness: &Arc<Harness>,
    from_a: bool,
    address: (Ipv4Addr, u16),
    expected: Option<&str>,
) {
    let (harness, expected) = (harness.clone(), expected.map(str::to_owned));
    let wait = host_kernel::blocking_value(move || {
        let begun = Instant::now();
        let from = if from_a { &harness.a } else { &harness.b };
        loop {
            let responder = from
                .ask(to(address.0, address.1))
                .ok()
                .map(|(name, _)| name);
            if responder == expected {
                return;
            }
            let late = begun.elapsed() > Duration::from_secs(240);
            assert!(!late, "{address:?}: {responder:?}, not {expected:?}");
        }
    });
    wait.await.unwrap();
}

/// A Service with this name and address, with `a` as its endpoint. It has session affinity, so that it has
/// separate chains.
fn service_of(name: &str, cluster_ip: &str) -> (Service, EndpointSlice) {
    let spec = json!({"clusterIP": cluster_ip, "sessionAffinity": "ClientIP"});
    let (mut service, mut slice) = objects(spec, &BOTH[..1]);
    service.metadata.name = Some(name.to_owned());
    slice.metadata.name = Some(format!("{name}-1"));
    let labels = slice.metadata.labels.as_mut().unwrap();
    labels.insert("kubernetes.io/service-name".to_owned(), name.to_owned());
    (service, slice)
}

// findings-2 S36
#[test]
fn a_refused_service_and_policy_are_left_out_alone() {
    let harness = Arc::new(Harness::new());
    let asker = harness.clone();
    // A chain's name may have at most 255 characters.
    let refused = "x".repeat(300);
    harness.host.block_on(move || async move {
        let (bad, bad_slice) = service_of(&refused, "10.96.0.6");
        let (good, good_slice) = service_of("web", "10.96.0.5");
        let (services, service_events) = cache_of(vec![bad.clone(), good]);
        let (slices, slice_events) = cache_of(vec![bad_slice, good_slice]);
        let selects = |app: &str| json!({"matchLabels": {"app": app}});
        let open = json!({"podSelector": selects("b"), "ingress": [{}]});
        let bad_policy = policy(&refused, &open);
        let closed = policy("p", &json!({"podSelector": selects("a")}));
        let (policies, policy_events) = cache_of(vec![bad_policy.clone(), closed]);
        let (_pods, pods) = listed(vec![pod("a"), pod("b")]);
        let pods = Cache::of_pod_events(pods);
        let labels =
            json!({"metadata": {"name": "default", "uid": "n", "resourceVersion": next_version()}});
        let namespace: api::Namespace = json_tree::from_value(labels).unwrap();
        let (namespaces, _namespaces) = cache_of(vec![namespace]);
        let both = PodAddresses::from([("a".to_owned(), A), ("b".to_owned(), B)]);
        let connected = watch::Sender::new(both.clone());
        let guarded = watch::Sender::new(Some(PodAddresses::new()));
        let mut guarded_pods = guarded.subscribe();
        let mut config = config(watch::channel(Vec::new()).1);
        config.pods = Some(LocalPods {
            connected: connected.subscribe(),
            guarded,
        });
        let sources = PolicySources {
            policies,
            peers: Box::new(move || Peers { pods, namespaces }),
        };
        let stop = CancellationToken::new();
        let health = Health::default();
        let component = health.component("service proxy", stop.clone());
        let caches = ServiceCaches { services, slices };
        let proxy = tokio::spawn(serve_with_policies(caches, sources, config, component));
        let is_guarded = guarded_pods.wait_for(|pods| pods.as_ref() == Some(&both));
        let waited = tokio::time::timeout(Duration::from_secs(240), is_guarded).await;
        waited.unwrap().unwrap();
        let failures = || {
            let mut page = Page::default();
            health.write(&mut page);
            let text = page.text();
            let line = text
                .lines()
                .find(|line| line.contains("rules that the kernel refuses"));
            line.unwrap()
                .rsplit(' ')
                .next()
                .unwrap()
                .parse::<u32>()
                .unwrap()
        };
        assert!(failures() > 0);
        // The rejected policy allows nothing, whatever its rules are. The other policy is applied.
        until(&asker, true, (B, 8080), None).await;
        until(&asker, false, (A, 8080), None).await;
        // Connections of pods: `a` to itself through its Service. The rejected Service is not served.
        until(&asker, true, (Ipv4Addr::new(10, 96, 0, 5), 80), Some("a")).await;
        until(&asker, true, (Ipv4Addr::new(10, 96, 0, 6), 80), None).await;
        // Later changes are applied.
        let (late, late_slice) = service_of("late", "10.96.0.7");
        service_events.unbounded_send(Event::Apply(late)).unwrap();
        slice_events
            .unbounded_send(Event::Apply(late_slice))
            .unwrap();
        until(&asker, true, (Ipv4Addr::new(10, 96, 0, 7), 80), Some("a")).await;
        // Without its policy, the pod accepts connections again.
        policy_events
            .unbounded_send(Event::Delete(bad_policy))
            .unwrap();
        until(&asker, true, (B, 8080), Some("b")).await;
        service_events.unbounded_send(Event::Delete(bad)).unwrap();
        let begun = Instant::now();
        while failures() > 0 {
            assert!(
                begun.elapsed() < Duration::from_secs(240),
                "the refusal is over"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.cancel();
        proxy.await.unwrap().unwrap();
    });
}
