//! NetworkPolicies, with real packets.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
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
use resource_kinds::pod_view::PodView;
use service_proxy::{
    LocalPods, Peers, PodAddresses, PolicySources, ServiceCaches, conntrack, serve_with_policies,
};
use service_routing::{
    Policy, PolicyObjects, PolicyPod, PublishedPort, Table, denied, filters, ports, publish, table,
};

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod harness;

use harness::{BOTH, Harness, Namespace, NoSlowPolls, SERVICE, config, next_version, objects, to};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const A: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The host's address on the link to the machine outside.
const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// The host with the pods `a` and `b` (labels `app: a` and `app: b`, port `http` 8080) in the
/// namespace `default`, and a Service of `b`.
fn harness() -> Harness {
    let harness = Harness::new();
    harness
        .outside
        .ip("route add 10.244.0.0/24 via 198.51.100.1");
    harness
}

fn state(policies: &[Value]) -> PolicyObjects {
    let mut state = PolicyObjects::default();
    let labels = [("kind".to_owned(), "plain".to_owned())];
    state.namespaces.insert("default".to_owned(), labels.into());
    for (number, spec) in policies.iter().enumerate() {
        let policy = Policy::of(&policy(&format!("p{number}"), spec));
        state.policies.insert(policy.uid.clone(), policy);
    }
    for (name, address) in [("a", A), ("b", B)] {
        let pod = PolicyPod::of(&pod(name, name), Some(address)).unwrap();
        state.pods.insert(name.to_owned(), pod);
    }
    state
}

fn policy(name: &str, spec: &Value) -> NetworkPolicy {
    let uid = format!("uid-{name}");
    let metadata = json!({"namespace": "default", "name": name, "uid": uid,
        "resourceVersion": next_version()});
    json_tree::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// A pod of this node with the label `app`; the name is also the UID.
fn pod(name: &str, app: &str) -> PodView {
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    let metadata = json!({"namespace": "default", "name": name, "uid": name,
        "resourceVersion": next_version(), "labels": {"app": app}});
    let spec = json!({"nodeName": "here", "containers": [{"name": "c", "ports": ports}]});
    let pod: Pod = json_tree::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    PodView::try_from(pod).unwrap()
}

/// Applies policies of the namespace, with a Service whose endpoint is `b`, and a node port that leads to
/// `b`.
fn apply(harness: &mut Harness, policies: &[Value]) -> Table {
    let spec = json!({"type": "NodePort"});
    let (service, slice) = objects(spec, &BOTH[1..]);
    let mut whole = table(&ports([&service], [&slice], "here"), &Harness::settings());
    let host_port = PublishedPort {
        pod: B,
        port: "tcp *:8888 8080".parse().unwrap(),
    };
    publish(&mut whole, &[host_port]);
    let filters = filters(&state(policies));
    whole.include(filters.clone());
    harness.apply(whole);
    filters
}

/// Removes the connections that the policies deny, and returns their number.
fn cut(harness: &mut Harness, filters: &Table) -> usize {
    let local = harness.host.run(conntrack::local_addresses);
    let choose = |all: &[_]| denied(filters, all, |address| local.contains(&address));
    conntrack::cut(&mut harness.kernel, choose).unwrap()
}

#[track_caller]
fn passes(from: &Namespace, to: SocketAddr, name: &str) {
    assert_eq!(from.ask(to).unwrap().0, name, "{to}");
}

/// Checks that packets are dropped: there is no reply, not even a reset.
#[track_caller]
fn dropped(from: &Namespace, to: SocketAddr) {
    let error = from.ask(to).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}, {to}");
}

fn about(name: &str, rest: Value) -> Value {
    let mut spec = rest;
    spec["podSelector"] = json!({"matchLabels": {"app": name}});
    spec
}

fn from_app(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"app": name}}})
}

#[test]
fn a_pod_without_allowed_clients_is_reached_by_its_node_alone() {
    let mut harness = harness();
    harness.host.serve(9000, "host");
    apply(&mut harness, &[]);
    passes(&harness.a, to(B, 8080), "b");
    passes(&harness.outside, to(B, 8080), "b");
    apply(&mut harness, &[about("b", json!({}))]);
    for (from, address) in [
        (&harness.a, to(B, 8080)),
        (&harness.a, to(SERVICE, 80)),
        (&harness.a, to(GATEWAY, 8888)),
        (&harness.outside, to(B, 8080)),
        (&harness.outside, to(NODE, 30080)),
        (&harness.outside, to(NODE, 8888)),
    ] {
        dropped(from, address);
    }
    // Probes and other connections of the node are allowed, and so are connections of the pod to itself.
    passes(&harness.host, to(B, 8080), "b");
    passes(&harness.host, to(SERVICE, 80), "b");
    passes(&harness.b, to(A, 8080), "a");
    passes(&harness.b, to(OUTSIDE, 8080), "outside");
    passes(&harness.b, to(GATEWAY, 9000), "host");
    passes(&harness.b, to(SERVICE, 80), "b");
    passes(&harness.b, to(B, 8080), "b");
    passes(&harness.outside, to(A, 8080), "a");
    apply(&mut harness, &[]);
    passes(&harness.a, to(B, 8080), "b");
}

#[test]
fn clients_are_allowed_by_labels_and_by_addresses() {
    let mut harness = harness();
    let ingress = |rule: Value| [about("b", json!({"ingress": [rule]}))];
    let blocks = |except: &[&str]| {
        let block = json!({"cidr": "198.51.100.0/24", "except": except});
        ingress(json!({"from": [{"ipBlock": block}]}))
    };
    apply(&mut harness, &ingress(json!({"from": [from_app("a")]})));
    for address in [to(B, 8080), to(SERVICE, 80)] {
        passes(&harness.a, address, "b");
    }
    dropped(&harness.outside, to(B, 8080));
    let others = json!({"namespaceSelector": {"matchLabels": {"kind": "other"}}});
    apply(&mut harness, &ingress(json!({"from": [others]})));
    dropped(&harness.a, to(B, 8080));
    let same_namespace = json!({"namespaceSelector": {"matchLabels": {"kind": "plain"}}});
    apply(&mut harness, &ingress(json!({"from": [same_namespace]})));
    passes(&harness.a, to(B, 8080), "b");
    // The address of the client is compared, although it is masqueraded afterwards.
    apply(&mut harness, &blocks(&[]));
    passes(&harness.outside, to(B, 8080), "b");
    passes(&harness.outside, to(NODE, 30080), "b");
    passes(&harness.outside, to(NODE, 8888), "b");
    dropped(&harness.a, to(B, 8080));
    apply(&mut harness, &blocks(&["198.51.100.2/32"]));
    dropped(&harness.outside, to(B, 8080));
    dropped(&harness.outside, to(NODE, 30080));
    // With two policies, a connection is allowed if one of them allows it.
    let [block] = blocks(&[]);
    let [app] = ingress(json!({"from": [from_app("a")]}));
    apply(&mut harness, &[block, app]);
    passes(&harness.a, to(B, 8080), "b");
    passes(&harness.outside, to(B, 8080), "b");
}

#[test]
fn ports_are_those_of_the_pod_after_translation() {
    let mut harness = harness();
    harness.b.serve(8081, "b2");
    let allowed = |port: Value| [about("b", json!({"ingress": [{"ports": [port]}]}))];
    for port in [
        json!({"port": 8080}),
        json!({"port": "http"}),
        json!({"port": 8000, "endPort": 8080}),
    ] {
        apply(&mut harness, &allowed(port));
        passes(&harness.a, to(B, 8080), "b");
        passes(&harness.a, to(SERVICE, 80), "b");
        passes(&harness.outside, to(NODE, 8888), "b");
        dropped(&harness.a, to(B, 8081));
    }
    apply(&mut harness, &allowed(json!({"port": 80})));
    dropped(&harness.a, to(SERVICE, 80));
    apply(&mut harness, &allowed(json!({"protocol": "UDP"})));
    dropped(&harness.a, to(B, 8080));
}

#[test]
fn what_a_pod_may_reach_is_limited_but_for_its_node() {
    let mut harness = harness();
    let dns = format!("addr add {DNS}/32 dev lo");
    if harness.host.run(|| TcpListener::bind((DNS, 1))).is_err() {
        harness.host.ip(&dns);
    }
    harness.host.serve(53, "dns");
    let egress = |rules: Value| about("a", json!({"policyTypes": ["Egress"], "egress": rules}));
    apply(&mut harness, &[egress(json!([]))]);
    for address in [to(B, 8080), to(SERVICE, 80), to(OUTSIDE, 8080)] {
        dropped(&harness.a, address);
    }
    passes(&harness.a, to(GATEWAY, 53), "dns");
    passes(&harness.a, to(DNS, 53), "dns");
    passes(&harness.b, to(A, 8080), "a");
    passes(&harness.outside, to(A, 8080), "a");
    apply(&mut harness, &[egress(json!([{"to": [from_app("b")]}]))]);
    passes(&harness.a, to(SERVICE, 80), "b");
    dropped(&harness.a, to(OUTSIDE, 8080));
    let block = json!({"ipBlock": {"cidr": "198.51.100.0/24"}});
    let both = json!([{"to": [block], "ports": [{"port": 8080}]}]);
    apply(&mut harness, &[egress(both)]);
    passes(&harness.a, to(OUTSIDE, 8080), "outside");
    dropped(&harness.a, to(B, 8080));
}

#[test]
fn datagrams_are_filtered_by_their_first() {
    let mut harness = harness();
    harness.serve_udp();
    let bound = || UdpSocket::bind("0.0.0.0:0");
    let socket = harness.a.run(bound).unwrap();
    let ask_from = |socket: &UdpSocket, limit: Duration| {
        socket.set_read_timeout(Some(limit)).unwrap();
        socket.send_to(b"?", (B, 5353)).unwrap();
        let mut buffer = [0; 8];
        socket
            .recv(&mut buffer)
            .map(|length| buffer[..length].to_vec())
    };
    let ask = |limit| ask_from(&socket, limit);
    let short = Duration::from_millis(300);
    let long = Duration::from_secs(240);
    // A busy kernel may drop packets until it has resolved the neighbour.
    let first = harness.a.run(bound).unwrap();
    while ask_from(&first, short).is_err() {}
    apply(&mut harness, &[]);
    assert_eq!(ask(long).unwrap(), b"b");
    let allowed = |port: Value| about("b", json!({"ingress": [{"ports": [port]}]}));
    let tcp = apply(&mut harness, &[allowed(json!({"protocol": "TCP"}))]);
    assert_eq!(ask(long).unwrap(), b"b", "the flow is known");
    assert_eq!(cut(&mut harness, &tcp), 1);
    assert!(ask(short).is_err());
    let udp = json!({"protocol": "UDP", "port": 5353});
    let udp = apply(&mut harness, &[allowed(udp)]);
    assert_eq!(ask(long).unwrap(), b"b");
    assert_eq!(cut(&mut harness, &udp), 0);
}

/// An open connection between two pods.
fn connection(harness: &Harness) -> (TcpStream, TcpStream) {
    let listener = harness.b.run(|| TcpListener::bind("0.0.0.0:7000")).unwrap();
    let client = harness.a.run(|| TcpStream::connect((B, 7000))).unwrap();
    let (server, _) = listener.accept().unwrap();
    (client, server)
}

/// Whether bytes that are written at one end arrive at the other end in time.
fn arrives(mut from: &TcpStream, mut to: &TcpStream, limit: Duration) -> bool {
    from.write_all(b"x").unwrap();
    to.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 64];
    to.read(&mut buffer).is_ok_and(|length| length > 0)
}

#[test]
fn an_open_connection_ends_with_the_permission_for_it() {
    let mut harness = harness();
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(240));
    apply(&mut harness, &[]);
    let (client, server) = connection(&harness);
    assert!(arrives(&client, &server, long));
    let allowed = about("b", json!({"ingress": [{"from": [from_app("a")]}]}));
    let filters = apply(&mut harness, &[allowed]);
    assert_eq!(cut(&mut harness, &filters), 0);
    assert!(arrives(&client, &server, long) && arrives(&server, &client, long));
    let filters = apply(&mut harness, &[about("b", json!({}))]);
    assert!(cut(&mut harness, &filters) > 0);
    // Traffic of neither end makes the connection work again.
    assert!(!arrives(&server, &client, short));
    assert!(!arrives(&client, &server, short));
    assert_eq!(cut(&mut harness, &filters), 0, "nothing of it is known");
    // Both ends retransmit until the packets pass.
    apply(&mut harness, &[]);
    assert!(arrives(&client, &server, long) && arrives(&server, &client, long));
}

#[test]
fn the_nodes_own_connections_stay_open() {
    let mut harness = harness();
    apply(&mut harness, &[]);
    let listener = harness.b.run(|| TcpListener::bind("0.0.0.0:7000")).unwrap();
    let client = harness.host.run(|| TcpStream::connect((B, 7000))).unwrap();
    let (server, _) = listener.accept().unwrap();
    let deny = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let filters = apply(&mut harness, &[deny]);
    assert_eq!(cut(&mut harness, &filters), 0);
    let long = Duration::from_secs(240);
    assert!(arrives(&client, &server, long) && arrives(&server, &client, long));
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

type ReportedPods = watch::Receiver<Option<PodAddresses>>;

/// Waits until exactly these pods are reported; `None` if pods do not wait.
async fn reported(guarded: &mut ReportedPods, pods: Option<&[&str]>) {
    let holds = |reported: &Option<PodAddresses>| match (reported, pods) {
        (Some(reported), Some(pods)) => reported.keys().eq(pods),
        (reported, pods) => reported.is_none() && pods.is_none(),
    };
    let wait = guarded.wait_for(holds);
    let waited = tokio::time::timeout(Duration::from_secs(240), wait).await;
    waited.unwrap().unwrap();
}

#[test]
fn the_proxy_follows_policies_pods_and_labels() {
    let harness = Arc::new(harness());
    let asker = harness.clone();
    harness.host.block_on(move || async move {
        let (services, _services) = cache_of::<Service>(Vec::new());
        let (slices, _slices) = cache_of::<EndpointSlice>(Vec::new());
        let (policies, policy_events) = cache_of::<NetworkPolicy>(Vec::new());
        let (tell_pod, pods) = listed::<PodView>(Vec::new());
        let pods = Cache::of_pod_events(pods);
        let tell_pod = |pod| tell_pod.unbounded_send(Event::Apply(pod)).unwrap();
        let labels = json!({"metadata": {"name": "default", "uid": "n",
            "resourceVersion": next_version(), "labels": {"kind": "plain"}}});
        let plain = json_tree::from_value(labels).unwrap();
        let (namespaces, _namespaces) = cache_of::<api::Namespace>(vec![plain]);
        let connected = watch::Sender::new(PodAddresses::new());
        let connect = |uid: &str, address| {
            connected.send_modify(|pods| pods.extend([(uid.to_owned(), address)]));
        };
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
        let slow_polls = NoSlowPolls::new();
        let component = slow_polls.component(stop.clone());
        let caches = ServiceCaches { services, slices };
        let proxy = serve_with_policies(caches, sources, config, component);
        let proxy = tokio::spawn(proxy);
        // Without a policy no pod waits.
        reported(&mut guarded_pods, None).await;
        let reaches = |expected: bool| {
            let harness = asker.clone();
            host_kernel::blocking_value(move || {
                let begun = Instant::now();
                while harness.a.ask(to(B, 8080)).is_ok() != expected {
                    assert!(begun.elapsed() < Duration::from_secs(240), "not {expected}");
                }
            })
        };
        reaches(true).await.unwrap();
        let from_web = about("b", json!({"ingress": [{"from": [from_app("web")]}]}));
        let event = Event::Apply(policy("p", &from_web));
        policy_events.unbounded_send(event).unwrap();
        reported(&mut guarded_pods, Some(&[])).await;
        // A connected pod is reported after its labels are known, too.
        tell_pod(pod("b", "b"));
        connect("b", B);
        reported(&mut guarded_pods, Some(&["b"])).await;
        reaches(false).await.unwrap();
        connect("a", A);
        tell_pod(pod("a", "web"));
        reported(&mut guarded_pods, Some(&["a", "b"])).await;
        reaches(true).await.unwrap();
        tell_pod(pod("a", "other"));
        reaches(false).await.unwrap();
        tell_pod(pod("b", "free"));
        reaches(true).await.unwrap();
        tell_pod(pod("b", "b"));
        reaches(false).await.unwrap();
        let event = Event::Delete(policy("p", &from_web));
        policy_events.unbounded_send(event).unwrap();
        reported(&mut guarded_pods, None).await;
        reaches(true).await.unwrap();
        stop.cancel();
        proxy.await.unwrap().unwrap();
    });
}
