//! Real connections through Services, in network namespaces for the host, the pods and a machine outside.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use json_tree::json;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use pod_network::{Cidr, NodeSwitch, SwitchOptions};
use service_proxy::{Kernel, conntrack};
use service_routing::{PublishedPort, Settings, misled_flows, ports, stale_flows, table};

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod harness;

use harness::{
    BOTH, Harness, Namespace, NoSlowPolls, SERVICE, config, count, objects, refused, to,
};

/// The response to a datagram. A busy machine can lose datagrams, so the datagram is sent repeatedly.
fn ask_udp(client: &UdpSocket, service: SocketAddr) -> String {
    const WAIT: Duration = Duration::from_secs(10);
    const ATTEMPTS_MAX: usize = 24;
    client.set_read_timeout(Some(WAIT)).unwrap();
    let mut buffer = [0; 64];
    let mut responses = (0..ATTEMPTS_MAX).filter_map(|_| {
        client.send_to(b"?", service).unwrap();
        client.recv(&mut buffer).ok()
    });
    let length = responses.next().expect("an answer to one of the datagrams");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// A host port that leads to `10.244.0.<pod>`.
fn published(pod: u8, port: &str) -> PublishedPort {
    PublishedPort {
        pod: Ipv4Addr::new(10, 244, 0, pod),
        port: port.parse().unwrap(),
    }
}

#[test]
fn a_service_spreads_the_connections_of_pods_and_of_the_node() {
    let mut harness = Harness::new();
    harness.program(json!({}), &BOTH);
    for from in [&harness.a, &harness.host] {
        let responses = count(from, to(SERVICE, 80), 60);
        assert!(
            responses.values().all(|count| *count > 5) && responses.len() == 2,
            "{responses:?}"
        );
    }
}

#[test]
fn the_client_seen_is_the_pod_or_the_node_and_never_the_endpoint_itself() {
    let mut harness = Harness::new();
    harness.program(json!({}), &BOTH[1..]);
    assert_eq!(
        harness.a.ask(to(SERVICE, 80)).unwrap(),
        ("b".into(), "10.244.0.2".into())
    );
    assert_eq!(
        harness.host.ask(to(SERVICE, 80)).unwrap(),
        ("b".into(), "10.244.0.1".into())
    );
    let hairpin = harness.b.ask(to(SERVICE, 80)).unwrap();
    assert_eq!(
        hairpin,
        ("b".into(), "10.244.0.1".into()),
        "a pod reaches itself"
    );
}

#[test]
fn node_ports_answer_on_every_address_of_the_node_also_on_localhost() {
    let mut harness = Harness::new();
    harness.program(json!({ "type": "NodePort" }), &BOTH[..1]);
    let node = Ipv4Addr::new(198, 51, 100, 1);
    for (from, ip) in [
        (&harness.outside, node),
        (&harness.host, node),
        (&harness.host, Ipv4Addr::LOCALHOST),
        (&harness.b, node),
        (&harness.b, Ipv4Addr::new(10, 244, 0, 1)),
    ] {
        assert_eq!(from.ask(to(ip, 30080)).unwrap().0, "a", "{ip}");
    }
    let (_, client) = harness.outside.ask(to(node, 30080)).unwrap();
    assert_eq!(client, "10.244.0.1", "policy Cluster hides the client");
    harness.program(
        json!({ "type": "NodePort", "externalTrafficPolicy": "Local" }),
        &BOTH[..1],
    );
    let (_, client) = harness.outside.ask(to(node, 30080)).unwrap();
    assert_eq!(client, "198.51.100.2", "policy Local shows it");
}

#[test]
fn pods_do_not_reach_the_loopback_of_the_host() {
    let mut harness = Harness::new();
    harness.program(json!({ "type": "NodePort" }), &BOTH);
    harness.host.serve(7777, "secret");
    // A pod with the right to change its routes sends packets for a loopback address to the host.
    harness
        .a
        .run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1"))
        .unwrap();
    harness
        .a
        .ip("route add 127.0.0.9/32 via 10.244.0.1 table 7");
    harness.a.ip("rule add to 127.0.0.9/32 lookup 7 pref 1");
    harness.a.ip("rule add lookup local pref 2");
    harness.a.ip("rule del lookup local pref 0");
    let response = harness.a.ask(to(Ipv4Addr::new(127, 0, 0, 9), 7777));
    assert!(response.is_err(), "{response:?}");
    assert_eq!(
        harness
            .host
            .ask(to(Ipv4Addr::new(127, 0, 0, 9), 7777))
            .unwrap()
            .0,
        "secret"
    );
}

#[test]
fn ports_of_the_node_lead_to_pods_for_everybody_and_show_the_client() {
    let mut harness = Harness::new();
    let ports = [
        published(2, "tcp *:8090 8080"),
        published(2, "tcp 127.0.0.1:8091 8080"),
        published(3, "tcp 198.51.100.1:8091 8080"),
        published(2, "tcp *:30080 8080"),
    ];
    harness.program_with(json!({ "type": "NodePort" }), &BOTH[1..], &ports);
    let node = Ipv4Addr::new(198, 51, 100, 1);
    let gateway = Ipv4Addr::new(10, 244, 0, 1);
    for (from, ip, client) in [
        (&harness.outside, node, "198.51.100.2"),
        (&harness.host, node, "198.51.100.1"),
        (&harness.host, Ipv4Addr::LOCALHOST, "10.244.0.1"),
        (&harness.b, node, "10.244.0.3"),
        (&harness.b, gateway, "10.244.0.3"),
        (&harness.a, node, "10.244.0.1"),
        (&harness.a, gateway, "10.244.0.1"),
    ] {
        let response = from.ask(to(ip, 8090)).unwrap();
        assert_eq!(response, ("a".into(), client.into()), "{ip}");
    }
    let on_one = |from: &Namespace, ip| from.ask(to(ip, 8091)).map(|(by, _)| by).ok();
    assert_eq!(on_one(&harness.host, Ipv4Addr::LOCALHOST), Some("a".into()));
    assert_eq!(on_one(&harness.outside, node), Some("b".into()));
    assert_eq!(on_one(&harness.b, gateway), None, "on no other address");
    let (by, _) = harness.outside.ask(to(node, 30080)).unwrap();
    assert_eq!(by, "b", "a Service's node port comes first");
    assert_eq!(
        harness.a.ask(to([198, 51, 100, 2], 8080)).unwrap().0,
        "outside",
        "ports of other machines are not concerned"
    );
    harness.program(json!({ "type": "NodePort" }), &BOTH[1..]);
    refused(&harness.outside, to(node, 8090));
}

#[test]
fn udp_clients_that_never_stop_find_the_pod_that_gets_the_port() {
    let mut harness = Harness::new();
    harness.serve_udp();
    let node = Ipv4Addr::new(198, 51, 100, 1);
    let client = harness
        .outside
        .run(|| UdpSocket::bind("0.0.0.0:0"))
        .unwrap();
    let ask = || ask_udp(&client, to(node, 5300));
    let local = harness.host.run(conntrack::local_addresses);
    assert!(local.contains(&node), "{local:?}");
    harness.program(json!({}), &[]);
    client.send_to(b"?", to(node, 5300)).unwrap();
    let (none, a, b) = (
        &[][..],
        &[published(2, "udp *:5300 5353")][..],
        &[published(3, "udp *:5300 5353")][..],
    );
    for (before, now, responder) in [(none, a, "a"), (a, b, "b")] {
        harness.program_with(json!({}), &[], now);
        let misled = |all: &[_]| misled_flows(all, before, now, &local);
        assert_eq!(conntrack::forget(&mut harness.kernel, misled).unwrap(), 1);
        assert_eq!(ask(), responder);
    }
}

#[test]
fn external_addresses_lead_to_endpoints() {
    let mut harness = Harness::new();
    harness.program(json!({ "externalIPs": ["203.0.113.7"] }), &BOTH[..1]);
    harness
        .outside
        .ip("route add 203.0.113.7/32 via 198.51.100.1");
    assert_eq!(
        harness.outside.ask(to([203, 0, 113, 7], 80)).unwrap().0,
        "a"
    );
}

#[test]
fn a_client_stays_with_its_endpoint_and_moves_when_that_goes() {
    let mut harness = Harness::new();
    let spec = || json!({ "sessionAffinity": "ClientIP" });
    harness.program(spec(), &BOTH);
    let responses = count(&harness.host, to(SERVICE, 80), 20);
    assert_eq!(responses.len(), 1, "{responses:?}");
    let first = responses.keys().next().unwrap().clone();
    let others: Vec<_> = BOTH
        .iter()
        .zip(["a", "b"])
        .filter(|(_, n)| *n != first)
        .map(|(e, _)| *e)
        .collect();
    harness.program(spec(), &others);
    let responses = count(&harness.host, to(SERVICE, 80), 20);
    assert!(
        responses.len() == 1 && !responses.contains_key(&first),
        "{responses:?}"
    );
}

#[test]
fn without_endpoints_and_on_unknown_addresses_connections_are_refused_at_once() {
    let mut harness = Harness::new();
    harness.program(json!({ "type": "NodePort" }), &[]);
    for from in [&harness.a, &harness.host] {
        refused(from, to(SERVICE, 80));
        refused(from, to([10, 96, 77, 77], 80));
    }
    refused(&harness.outside, to([198, 51, 100, 1], 30080));
    harness.program(json!({}), &BOTH);
    refused(&harness.a, to(SERVICE, 81));
    harness.host.serve(53, "dns");
    let dns = harness.a.ask(to([10, 96, 0, 10], 53)).unwrap();
    assert_eq!(
        dns,
        ("dns".into(), "10.244.0.2".into()),
        "the DNS address is left alone"
    );
}

#[test]
fn pods_reach_the_world_outside_by_the_nodes_address_and_the_host_as_themselves() {
    let mut harness = Harness::new();
    harness.program(json!({}), &[]);
    let outside = harness.a.ask(to([198, 51, 100, 2], 8080)).unwrap();
    assert_eq!(outside, ("outside".into(), "198.51.100.1".into()));
    harness.host.serve(9000, "host");
    let host = harness.a.ask(to([198, 51, 100, 1], 9000)).unwrap();
    assert_eq!(host, ("host".into(), "10.244.0.2".into()));
    harness
        .host
        .run(|| service_proxy::remove("a1b2c3"))
        .unwrap();
    assert!(
        harness.a.ask(to([198, 51, 100, 2], 8080)).is_err(),
        "the table is gone"
    );
}

#[test]
fn nodes_on_the_switch_reach_the_world_outside_by_the_machines_address() {
    let mut harness = Harness::new();
    let dir = tempfile::tempdir().unwrap();
    let range: Cidr = "10.245.0.0/24".parse().unwrap();
    let open = SwitchOptions {
        instance_id: "a1b2c3".to_owned(),
        state_dir: dir.path().join("namespaces"),
        range,
        own_ranges: Vec::new(),
        ranges: dir.path().join("network/cluster-ranges.json"),
        instances: dir.path().join("instances"),
        nodes: vec!["b".to_owned()],
    };
    let state_dir = open.state_dir.clone();
    let switch = harness.host.block_on(|| NodeSwitch::open(open)).unwrap();
    let node_b = Namespace::at(&switch.nodes()[0].namespace);
    let settings = Settings {
        switch_range: Some(range),
        ..Harness::settings()
    };
    harness.apply(table(&[], &settings));
    let outside = node_b.ask(to([198, 51, 100, 2], 8080)).unwrap();
    assert_eq!(outside, ("outside".into(), "198.51.100.1".into()));
    harness.host.serve(9000, "host");
    let host = node_b.ask((switch.address(), 9000)).unwrap();
    assert_eq!(host, ("host".into(), switch.nodes()[0].address.to_string()));
    let removed = harness
        .host
        .block_on(|| NodeSwitch::remove("a1b2c3", &state_dir));
    removed.unwrap();
}

#[test]
fn an_endpoint_on_the_host_itself_works() {
    let mut harness = Harness::new();
    harness.host.serve(8080, "host");
    for endpoint in ["198.51.100.1", "10.244.0.1"] {
        harness.program(json!({}), &[(endpoint, "here")]);
        for from in [&harness.a, &harness.host] {
            assert_eq!(from.ask(to(SERVICE, 80)).unwrap().0, "host", "{endpoint}");
        }
    }
}

#[test]
fn the_table_of_a_killed_process_serves_until_it_is_replaced() {
    let mut harness = Harness::new();
    harness.program(json!({}), &BOTH[..1]);
    harness.kernel = harness.host.run(|| Kernel::open("a1b2c3")).unwrap();
    harness.programmed = None;
    assert!(harness.kernel.is_present().unwrap());
    assert_eq!(harness.host.ask(to(SERVICE, 80)).unwrap().0, "a");
    harness.program(json!({}), &BOTH[1..]);
    assert_eq!(harness.host.ask(to(SERVICE, 80)).unwrap().0, "b");
}

#[test]
fn a_table_that_someone_flushed_is_noticed_and_made_anew() {
    let mut harness = Harness::new();
    harness.program(json!({}), &BOTH[..1]);
    harness
        .host
        .run(|| service_proxy::remove("a1b2c3"))
        .unwrap();
    assert!(!harness.kernel.is_present().unwrap());
    harness.programmed = None;
    harness.program(json!({}), &BOTH[..1]);
    assert_eq!(harness.host.ask(to(SERVICE, 80)).unwrap().0, "a");
}

#[test]
fn the_proxy_follows_what_it_watches() {
    use controller_framework::Cache;
    use futures::StreamExt;
    use kube_api_client::Event;

    let harness = Arc::new(Harness::new());
    let host_ports = tokio::sync::watch::channel(Vec::new());
    let config = config(host_ports.1);
    let (service, slice_a) = objects(json!({}), &BOTH[..1]);
    let (_, slice_b) = objects(json!({}), &BOTH[1..]);
    let asker = harness.clone();
    harness.host.block_on(move || async move {
        let initial = |service| [Event::Init, Event::InitApply(service), Event::InitDone];
        let pending = futures::stream::pending;
        let services = Cache::from_events(futures::stream::iter(initial(service)).chain(pending()));
        let (send, receive) = futures::channel::mpsc::unbounded();
        let slices: Cache<EndpointSlice> = Cache::from_events(receive);
        for event in [Event::Init, Event::InitApply(slice_a), Event::InitDone] {
            send.unbounded_send(event).unwrap();
        }
        let shutdown = tokio_util::sync::CancellationToken::new();
        let slow_polls = NoSlowPolls::new();
        let component = slow_polls.component(shutdown.clone());
        let proxy = service_proxy::serve(services, slices, config, component);
        let proxy = tokio::spawn(proxy);
        let responds = |at: SocketAddr, name: &'static str| {
            let harness = asker.clone();
            host_kernel::blocking_value(move || {
                for _ in 0..12_000 {
                    if harness.a.ask(at).is_ok_and(|(by, _)| by == name) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                panic!("{name} never answered");
            })
        };
        let answered_by = |name| responds(to(SERVICE, 80), name);
        answered_by("a").await.unwrap();
        send.unbounded_send(Event::Apply(slice_b)).unwrap();
        answered_by("b").await.unwrap();
        let ports = vec![published(3, "tcp *:8090 8080")];
        host_ports.0.send(ports).unwrap();
        let node = to([10, 244, 0, 1], 8090);
        responds(node, "b").await.unwrap();
        shutdown.cancel();
        proxy.await.unwrap().unwrap();
        assert!(!Kernel::open("a1b2c3").unwrap().is_present().unwrap());
    });
}

#[test]
fn a_thousand_services_are_one_transaction() {
    let mut harness = Harness::new();
    let endpoint = |last| service_routing::Endpoint {
        ip: Ipv4Addr::new(10, 244, 0, last),
        port: 8080,
    };
    let port = |number: u16| {
        let (service, slice) = objects(json!({}), &BOTH);
        let mut port = ports([&service], [&slice], "here").remove(0);
        let [high, low] = number.to_be_bytes();
        port.id = format!("default/web-{number}/tcp/80");
        port.cluster_ip = Ipv4Addr::new(10, 96, high + 1, low);
        port.node_port = None;
        port.endpoints.cluster = vec![endpoint(2), endpoint(3), endpoint(4)];
        port
    };
    let mut all: Vec<_> = (0..1000).map(port).collect();
    let started = std::time::Instant::now();
    harness.apply(table(&all, &Harness::settings()));
    println!("1000 services x 3 endpoints: {:?}", started.elapsed());
    all[500].endpoints.cluster = vec![endpoint(3)];
    let started = std::time::Instant::now();
    harness.apply(table(&all, &Harness::settings()));
    println!("one of them changed: {:?}", started.elapsed());
    assert_eq!(harness.a.ask(to(all[500].cluster_ip, 80)).unwrap().0, "b");
}

#[test]
fn udp_clients_that_never_stop_are_moved_from_endpoints_that_are_gone() {
    let mut harness = Harness::new();
    harness.serve_udp();
    let ports_with = |endpoints: &[(&str, &str)]| {
        let udp = json!([{ "name": "dns", "port": 53, "protocol": "UDP" }]);
        let (service, mut slice) = objects(json!({ "ports": udp }), endpoints);
        let port = json!([{ "name": "dns", "port": 5353, "protocol": "UDP" }]);
        slice.ports = json_tree::from_value(port).unwrap();
        ports([&service], [&slice], "here")
    };
    let client = harness
        .host
        .run(|| UdpSocket::bind("10.244.0.1:0"))
        .unwrap();
    let ask = || ask_udp(&client, to(SERVICE, 53));
    let (before, after) = (ports_with(&BOTH[..1]), ports_with(&BOTH[1..]));
    harness.apply(table(&before, &Harness::settings()));
    assert_eq!(ask(), "a");
    harness.apply(table(&after, &Harness::settings()));
    assert_eq!(ask(), "a", "the kernel remembers");
    assert!(service_routing::has_lost_endpoints(&before, &after));
    assert_eq!(
        conntrack::forget(&mut harness.kernel, |all| stale_flows(all, &after)).unwrap(),
        1
    );
    assert_eq!(ask(), "b");
    assert_eq!(
        conntrack::forget(&mut harness.kernel, |all| stale_flows(all, &after)).unwrap(),
        0
    );
}
