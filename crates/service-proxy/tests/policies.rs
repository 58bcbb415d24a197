//! Traffic policies, terminating endpoints, source ranges, and health checks of external load balancers,
//! with real connections.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, Object};
use futures::StreamExt;
use futures::channel::mpsc;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::Event;

#[allow(dead_code, reason = "shared with other tests, which use the rest")]
mod harness;

use harness::{
    BOTH, Harness, Namespace, NoSlowPolls, SERVICE, config, count, objects, refused, service,
    slice, to,
};

/// The host's address on the link to the machine outside.
const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

const A: &str = "10.244.0.2";
const B: &str = "10.244.0.3";

/// Checks that packets are dropped: there is no reply, not even a reset.
#[track_caller]
fn dropped(from: &Namespace, to: SocketAddr) {
    let error = from.ask(to).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}, {to}");
}

#[track_caller]
fn only(from: &Namespace, to: SocketAddr, name: &str) {
    let responses = count(from, to, 12);
    assert_eq!(responses, BTreeMap::from([(name.to_owned(), 12)]), "{to}");
}

/// An endpoint with its three conditions.
fn endpoint(ip: &str, node: &str, [ready, serving, terminating]: [bool; 3]) -> Value {
    json!({
        "addresses": [ip], "nodeName": node,
        "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
    })
}

const READY: [bool; 3] = [true, true, false];
const ENDING: [bool; 3] = [false, true, true];
const ENDED: [bool; 3] = [false, false, true];

#[test]
fn internal_traffic_stays_on_the_node_or_is_dropped() {
    let mut harness = Harness::new();
    let spec = || json!({ "internalTrafficPolicy": "Local", "type": "NodePort" });
    harness.program(spec(), &[(A, "here"), (B, "there")]);
    for from in [&harness.b, &harness.host] {
        only(from, to(SERVICE, 80), "a");
    }
    harness.program(spec(), &[(B, "there")]);
    for from in [&harness.a, &harness.host] {
        dropped(from, to(SERVICE, 80));
    }
    only(&harness.outside, to(NODE, 30080), "b");
    harness.program(spec(), &[]);
    refused(&harness.a, to(SERVICE, 80));
}

#[test]
fn external_traffic_without_an_endpoint_here_is_dropped_for_those_outside() {
    let mut harness = Harness::new();
    let spec = || json!({ "externalTrafficPolicy": "Local", "type": "NodePort" });
    harness.program(spec(), &[(A, "here"), (B, "there")]);
    only(&harness.outside, to(NODE, 30080), "a");
    harness.program(spec(), &[(B, "there")]);
    dropped(&harness.outside, to(NODE, 30080));
    // Connections from inside are treated like those to the cluster IP.
    for from in [&harness.a, &harness.host] {
        only(from, to(NODE, 30080), "b");
        only(from, to(SERVICE, 80), "b");
    }
    harness.program(spec(), &[]);
    refused(&harness.outside, to(NODE, 30080));
}

#[test]
fn endpoints_that_end_are_used_while_they_serve_and_none_is_ready() {
    let mut harness = Harness::new();
    let cluster = service(json!({ "type": "NodePort" }));
    let local = service(json!({ "type": "NodePort", "externalTrafficPolicy": "Local" }));
    let ending = endpoint(A, "here", ENDING);
    let with = |b: Value| endpoints(&[ending.clone(), b]);

    harness.program_objects(&cluster, &with(endpoint(B, "here", ENDED)), &[]);
    only(&harness.host, to(SERVICE, 80), "a");
    only(&harness.outside, to(NODE, 30080), "a");
    harness.program_objects(&cluster, &with(endpoint(B, "here", READY)), &[]);
    only(&harness.host, to(SERVICE, 80), "b");
    only(&harness.outside, to(NODE, 30080), "b");
    // Each node decides separately: traffic that arrives at this node uses the best endpoints of this node.
    harness.program_objects(&local, &with(endpoint(B, "there", READY)), &[]);
    only(&harness.host, to(SERVICE, 80), "b");
    only(&harness.outside, to(NODE, 30080), "a");
    harness.program_objects(&cluster, &endpoints(&[endpoint(A, "here", ENDED)]), &[]);
    refused(&harness.host, to(SERVICE, 80));
}

/// A Service of type LoadBalancer with these addresses, for clients in the ranges.
fn balanced(addresses: &[&str], ranges: &[&str]) -> Service {
    let mut service =
        service(json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ranges }));
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let status = json!({ "loadBalancer": { "ingress": ingress } });
    service.status = json_tree::from_value(status).unwrap();
    service
}

#[test]
fn only_clients_in_the_source_ranges_use_a_load_balancers_addresses() {
    let mut harness = Harness::new();
    harness
        .outside
        .ip("route add 203.0.113.9/32 via 198.51.100.1");
    let (_, slice) = objects(json!({}), &BOTH[..1]);
    let addresses = ["203.0.113.9", "198.51.100.1"];
    let balancers = [to([203, 0, 113, 9], 80), to(NODE, 80)];
    for allowed in [&[][..], &["192.0.2.0/24", "198.51.100.2/32"]] {
        harness.program_objects(&balanced(&addresses, allowed), &slice, &[]);
        for balancer in balancers {
            only(&harness.outside, balancer, "a");
        }
    }
    harness.program_objects(&balanced(&addresses, &["192.0.2.0/24"]), &slice, &[]);
    for balancer in balancers {
        dropped(&harness.outside, balancer);
        dropped(&harness.b, balancer);
    }
    // Other addresses and ports of the Service have no source ranges.
    only(&harness.outside, to(NODE, 30080), "a");
    only(&harness.b, to(SERVICE, 80), "a");
}

/// A cache and the sender of its changes.
fn cache_of<K: Object>(first: K) -> (Cache<K>, mpsc::UnboundedSender<Event<K>>) {
    let (send, receive) = mpsc::unbounded();
    for event in [Event::Init, Event::InitApply(first), Event::InitDone] {
        send.unbounded_send(event).unwrap();
    }
    (
        Cache::from_events(receive.chain(futures::stream::pending())),
        send,
    )
}

/// The health check's response at a node port: the status, and the number of endpoints in the header and in
/// the body.
fn health(harness: &Harness, port: u16) -> std::io::Result<(u16, String, Value)> {
    harness.outside.run(|| {
        let limit = Duration::from_secs(2);
        let mut connection = TcpStream::connect_timeout(&to(NODE, port), limit)?;
        connection.set_read_timeout(Some(limit))?;
        connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut response = String::new();
        connection.read_to_string(&mut response)?;
        // A server that is being restarted closes connections without a response.
        let parts = response.split_once("\r\n\r\n");
        let (head, body) = parts.ok_or(ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let weight = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let is_weight = name.eq_ignore_ascii_case("X-Load-Balancing-Endpoint-Weight");
            is_weight.then(|| value.to_owned())
        });
        Ok((status, weight.unwrap(), serde_json::from_str(body).unwrap()))
    })
}

fn checked_at(port: u16, policy: &str) -> Service {
    let mut spec = json!({ "type": "LoadBalancer", "externalTrafficPolicy": policy });
    if policy == "Local" {
        spec["healthCheckNodePort"] = port.into();
    }
    service(spec)
}

fn endpoints(all: &[Value]) -> EndpointSlice {
    slice(all.iter().cloned())
}

#[test]
fn balancers_outside_learn_which_node_has_ready_endpoints() {
    let harness = Arc::new(Harness::new());
    let asker = harness.clone();
    harness.host.block_on(move || async move {
        let (services, service_events) = cache_of(checked_at(32_100, "Local"));
        let (slices, slice_events) = cache_of(endpoints(&[endpoint(A, "here", READY)]));
        let host_ports = tokio::sync::watch::channel(Vec::new());
        let shutdown = tokio_util::sync::CancellationToken::new();
        let config = config(host_ports.1);
        let slow_polls = NoSlowPolls::new();
        let component = slow_polls.component(shutdown.clone());
        let proxy = service_proxy::serve(services, slices, config, component);
        let proxy = tokio::spawn(proxy);
        let responds = |port: u16, status: u16, count: usize| {
            let harness = asker.clone();
            let expected = (status, count.to_string(), body(count));
            host_kernel::blocking_value(move || eventually(expected, || health(&harness, port)))
        };
        responds(32_100, 200, 1).await.unwrap();
        for (all, status, count) in [
            (&[endpoint(A, "there", READY)][..], 503, 0),
            (
                &[endpoint(A, "here", READY), endpoint(B, "here", READY)],
                200,
                2,
            ),
            // The node still serves connections, but load balancers choose another node.
            (&[endpoint(A, "here", ENDING)], 503, 0),
            (
                &[endpoint(A, "here", ENDING), endpoint(B, "here", READY)],
                200,
                1,
            ),
        ] {
            let change = Event::Apply(endpoints(all));
            slice_events.unbounded_send(change).unwrap();
            responds(32_100, status, count).await.unwrap();
        }
        let moved = Event::Apply(checked_at(32_101, "Local"));
        service_events.unbounded_send(moved).unwrap();
        responds(32_101, 200, 1).await.unwrap();
        let silent = |port: u16| {
            let harness = asker.clone();
            let refused = || Err::<(), _>(ErrorKind::ConnectionRefused);
            host_kernel::blocking_value(move || {
                let attempt = || {
                    Ok(health(&harness, port)
                        .map(drop)
                        .map_err(|error| error.kind()))
                };
                eventually(refused(), attempt);
            })
        };
        silent(32_100).await.unwrap();
        let cluster = Event::Apply(checked_at(32_101, "Cluster"));
        service_events.unbounded_send(cluster).unwrap();
        silent(32_101).await.unwrap();
        shutdown.cancel();
        proxy.await.unwrap().unwrap();
    });
}

fn body(count: usize) -> Value {
    json!({
        "service": { "namespace": "default", "name": "web" },
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    })
}

/// Calls a function until it returns `wanted`.
#[track_caller]
fn eventually<T: PartialEq + std::fmt::Debug>(
    expected: T,
    mut attempt: impl FnMut() -> std::io::Result<T>,
) {
    let mut observed = attempt();
    for _ in 0..12_000 {
        if observed
            .as_ref()
            .is_ok_and(|observed| *observed == expected)
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
        observed = attempt();
    }
    panic!("expected {expected:?}, saw {observed:?}");
}
