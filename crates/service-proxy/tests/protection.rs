//! Protection of the machine from pods, Services and network neighbours, with real packets: ports on which
//! the machine listens, forged source addresses, and addresses that only pods may use.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use json_tree::json;
use object_model::listening::{Listening, ListeningAddress, Transport};
use service_routing::{PublishedPort, Settings, hold, ports, publish, table};

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod harness;

use harness::{BOTH, Harness, Namespace, objects, to};

/// The host's address on the link to the machine outside.
const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn listens(address: Option<Ipv4Addr>, port: u16) -> ListeningAddress {
    ListeningAddress {
        transport: Transport::Tcp,
        address,
        port,
    }
}

// findings S11, S12
#[test]
fn where_the_machine_listens_neither_services_nor_pods_are() {
    let mut harness = Harness::new();
    let spec = json!({
        "type": "LoadBalancer",
        "externalIPs": [NODE.to_string()],
        "ports": [{ "name": "http", "port": 9022, "nodePort": 30443 }],
    });
    let published: Vec<PublishedPort> = ["tcp *:9053 8080", "tcp *:6443 8080"]
        .map(|port| PublishedPort {
            pod: Ipv4Addr::new(10, 244, 0, 2),
            port: port.parse().unwrap(),
        })
        .into();
    let listening: Listening = [
        listens(None, 9022),
        listens(None, 30443),
        listens(None, 9053),
        listens(Some(GATEWAY), 6443),
    ]
    .into_iter()
    .collect();
    for port in [9022, 30443, 9053, 6443] {
        harness.host.serve(port, "host");
    }
    for endpoints in [&BOTH[..], &[]] {
        let (mut service, slice) = objects(spec.clone(), endpoints);
        let balancer = json!({ "loadBalancer": { "ingress": [{ "ip": NODE.to_string() }] } });
        service.status = json_tree::from_value(balancer).unwrap();
        let mut whole = table(&ports([&service], [&slice], "here"), &Harness::settings());
        publish(&mut whole, &published);
        harness.apply(whole.clone());
        if !endpoints.is_empty() {
            let responder = harness.outside.ask(to(NODE, 9022)).unwrap().0;
            assert_ne!(responder, "host", "without the guard");
        }
        hold(&mut whole, &listening);
        harness.apply(whole);
        for port in [9022, 30443, 9053] {
            for (from, ip) in [
                (&harness.outside, NODE),
                (&harness.host, NODE),
                (&harness.host, Ipv4Addr::LOCALHOST),
                (&harness.b, GATEWAY),
            ] {
                let responder = from.ask(to(ip, port)).map(|(name, _)| name);
                assert_eq!(responder.ok().as_deref(), Some("host"), "{ip}:{port}");
            }
        }
    }
    let responder = |from: &Namespace, ip| from.ask(to(ip, 6443)).unwrap().0;
    assert_eq!(
        responder(&harness.b, GATEWAY),
        "host",
        "one address is held"
    );
    assert_eq!(responder(&harness.outside, NODE), "a", "others are not");
}

fn udp(namespace: &Namespace, address: Ipv4Addr) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((address, 5000))).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(240)))
        .unwrap();
    socket
}

// findings S17
#[test]
fn pods_send_under_their_own_address_alone() {
    for (with_rules, strict) in [(true, false), (false, true)] {
        let mut harness = Harness::new();
        // The kernel uses the larger value of this setting and the link's setting; 2 is the loose mode.
        let all = if strict { "0" } else { "2" };
        let set = || std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", all);
        harness.host.run(set).unwrap();
        if with_rules {
            harness.program(json!({}), &BOTH);
        } else {
            // Without the rules, the pods' addresses are not masqueraded.
            harness
                .outside
                .ip("route add 10.244.0.0/24 via 198.51.100.1");
        }
        let receiver = udp(&harness.outside, OUTSIDE);
        let sender = |address| udp(&harness.a, address);
        for foreign in [
            Ipv4Addr::new(10, 244, 0, 3),
            Ipv4Addr::new(10, 9, 9, 9),
            Ipv4Addr::new(198, 51, 100, 77),
        ] {
            harness.a.ip(&format!("addr add {foreign}/32 dev lo"));
            sender(foreign).send_to(b"false", (OUTSIDE, 5000)).unwrap();
        }
        let assigned = sender(Ipv4Addr::new(10, 244, 0, 2));
        assigned.send_to(b"true", (OUTSIDE, 5000)).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"true", "from {from}");
        receiver.set_nonblocking(true).unwrap();
        let more = receiver
            .recv_from(&mut buffer)
            .map_err(|error| error.kind());
        assert_eq!(more, Err(ErrorKind::WouldBlock));
    }
}

// findings S25
#[test]
fn neighbours_do_not_reach_what_is_there_for_pods() {
    let mut harness = Harness::new();
    harness.host.serve(6443, "host");
    for address in [GATEWAY, DNS] {
        harness
            .outside
            .ip(&format!("route add {address}/32 via {NODE}"));
        let reached = harness.outside.ask(to(address, 6443)).unwrap().0;
        assert_eq!(reached, "host", "without the rules");
    }
    harness.program(json!({}), &BOTH);
    for address in [GATEWAY, DNS] {
        let response = harness.outside.ask(to(address, 6443));
        assert_eq!(
            response.unwrap_err().kind(),
            ErrorKind::TimedOut,
            "{address}"
        );
        for from in [&harness.a, &harness.host] {
            assert_eq!(from.ask(to(address, 6443)).unwrap().0, "host", "{address}");
        }
    }
    let at_node: SocketAddr = to(NODE, 6443);
    assert_eq!(harness.outside.ask(at_node).unwrap().0, "host");
    // Replies to the node's own connections from that address are accepted.
    let response = harness.a.ask(to(OUTSIDE, 8080)).unwrap();
    assert_eq!(response, ("outside".to_owned(), NODE.to_string()));
}

/// docs/many-machines.md: a node that encrypts accepts packets for its pods, and packets with source
/// addresses of pods, only through the encrypted link. Node ports stay open.
#[test]
fn a_node_that_encrypts_takes_no_plain_packets_of_pods() {
    let mut harness = Harness::new();
    let other_pod = Ipv4Addr::new(10, 244, 1, 9);
    harness
        .outside
        .ip("route add 10.244.0.0/24 via 198.51.100.1");
    harness
        .outside
        .ip(&format!("addr add {other_pod}/32 dev lo"));
    harness.host.ip("route add 10.244.1.0/24 via 198.51.100.2");
    let pod = to(Ipv4Addr::new(10, 244, 0, 2), 8080);
    let receiver = udp(&harness.host, NODE);
    let sends = |harness: &Harness, from, text: &str| {
        let sent = udp(&harness.outside, from).send_to(text.as_bytes(), (NODE, 5000));
        sent.unwrap();
    };
    let received = || {
        let mut buffer = [0; 16];
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let (service, slice) = objects(json!({ "type": "NodePort" }), &BOTH[..1]);
    for (link, passes) in [
        (None, true),
        (Some("mga1b2c3"), false),
        (Some("uplink"), true),
    ] {
        let settings = Settings {
            encrypted_link: link.map(str::to_owned),
            ..Harness::settings()
        };
        harness.apply(table(&ports([&service], [&slice], "here"), &settings));
        let responder = harness.outside.ask(pod).map(|(name, _)| name);
        assert_eq!(responder.ok().as_deref(), passes.then_some("a"), "{link:?}");
        sends(&harness, other_pod, "pod");
        sends(&harness, OUTSIDE, "outside");
        if passes {
            assert_eq!(received(), "pod", "{link:?}");
        }
        assert_eq!(received(), "outside", "{link:?}");
        assert_eq!(harness.outside.ask(to(NODE, 30080)).unwrap().0, "a");
        assert_eq!(harness.host.ask(pod).unwrap().0, "a");
        assert_eq!(harness.b.ask(pod).unwrap().0, "a");
        assert_eq!(harness.a.ask(to(OUTSIDE, 8080)).unwrap().0, "outside");
    }
}

// findings U13
#[test]
fn the_node_has_its_own_address_towards_pods_beside_other_instances() {
    let mut harness = Harness::on(|host| {
        host.ip("addr add 10.245.0.1/32 dev lo");
    });
    harness.program(json!({ "type": "NodePort" }), &BOTH[..1]);
    for (from, ip) in [
        (&harness.outside, NODE),
        (&harness.host, NODE),
        (&harness.host, Ipv4Addr::LOCALHOST),
    ] {
        let (_, client) = from.ask(to(ip, 30080)).unwrap();
        assert_eq!(client, GATEWAY.to_string(), "{ip}");
    }
}
