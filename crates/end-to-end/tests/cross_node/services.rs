//! Services on two joined nodes: cluster IPs, node ports of each node, session affinity, traffic policies with the
//! client's address, health check ports of each node, UDP, SCTP, and endpoints of the client's node.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use end_to_end::{Network, wait_for};
use serde_json::{Value, json};

use super::{Cluster, Machine, at, packets, pod};

/// `both` has a pod on each node. The other Services select pods with `far: "yes"`, at first only the pod on the second
/// node.
const SERVICES: &str = r"
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  type: NodePort
  selector: {app: server}
  ports:
  - {name: tcp, port: 80, targetPort: http, nodePort: 31080}
  - {name: udp, protocol: UDP, port: 53, targetPort: 5353, nodePort: 31080}
  - {name: sctp, protocol: SCTP, port: 9, targetPort: 9899, nodePort: 31080}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  type: NodePort
  selector: {app: server}
  sessionAffinity: ClientIP
  ports: [{port: 80, targetPort: http, nodePort: 31081}]
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  selector: {app: server}
  trafficDistribution: PreferSameNode
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: zonal}
spec:
  selector: {app: server}
  trafficDistribution: PreferSameZone
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: inside}
spec:
  selector: {far: 'yes'}
  internalTrafficPolicy: Local
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: shown}
spec:
  type: LoadBalancer
  selector: {far: 'yes'}
  externalTrafficPolicy: Local
  ports: [{port: 18480, targetPort: http, nodePort: 31082}]
";

#[test]
fn services_lead_to_pods_of_each_node() {
    let cluster = Cluster::start("auto");
    let manifest = [
        pod("server-1", "n1", "app: server", 8080),
        pod("server-2", "n2", "app: server, far: 'yes'", 8080),
        pod("client-1", "n1", "app: client", 80),
        pod("client-2", "n2", "app: client", 80),
        format!("---{SERVICES}"),
    ];
    let names = ["server-1", "server-2", "client-1", "client-2"];
    let [server_1, server_2, client_1, client_2] =
        cluster.pods(&cluster.kubectl, &manifest.concat(), names);
    server_1.serve("server-1");
    server_2.serve("server-2");
    let clients = [&client_1, &client_2];
    cluster_ips_and_node_ports(&cluster, clients);
    clients_stay_with_their_pod(&cluster, &client_1);
    local_endpoints_alone(&cluster, clients);
    endpoints_of_the_clients_zone_first(&cluster, clients);
    endpoints_of_the_clients_node_first(&cluster, clients);
    cluster.shut_down();
}

const BOTH: [&str; 2] = ["server-1", "server-2"];

/// Each pod of the Service responds to each client, by each protocol. A pod receives the address of another pod.
fn cluster_ips_and_node_ports(cluster: &Cluster, clients: [&Machine; 2]) {
    let ip = cluster.cluster_ip("both");
    for client in clients {
        for reply in client.wait_for_servers(at(ip, 80), &BOTH) {
            assert_eq!(reply.client, client.ip, "{reply:?}");
        }
        for reply in replies_by_udp(client, at(ip, 53)) {
            assert_eq!(reply.client, client.ip, "{reply:?}");
        }
        for reply in replies_by_sctp(client, at(ip, 9)) {
            assert_eq!(reply.client, client.ip, "{reply:?}");
        }
    }
    for number in [1, 2] {
        let node = at(cluster.node_ip(number), 31080);
        for client in [&cluster.outside, clients[0]] {
            client.wait_for_servers(node, &BOTH);
            replies_by_udp(client, node);
            replies_by_sctp(client, node);
        }
        let node_machine = Machine {
            network: Network::at(cluster.nodes[number - 1].network.path().as_ref()),
            ip: cluster.node_ip(number),
        };
        node_machine.wait_for_servers(at(ip, 80), &BOTH);
    }
}

#[track_caller]
fn replies_by_udp(from: &Machine, to: SocketAddr) -> Vec<packets::EchoReply> {
    let what = format!("UDP {to}");
    from.wait_for_replies(&what, &BOTH, || packets::request_udp(&from.network, to))
}

/// Each association has a separate port.
#[track_caller]
fn replies_by_sctp(from: &Machine, to: SocketAddr) -> Vec<packets::EchoReply> {
    let port = Cell::new(40_000);
    from.wait_for_replies(&format!("SCTP {to}"), &BOTH, || {
        port.set(port.get() + 1);
        packets::request_sctp(&from.network, to, port.get())
    })
}

/// `sessionAffinity: ClientIP`: ten connections to one node reach one pod.
fn clients_stay_with_their_pod(cluster: &Cluster, client: &Machine) {
    let by_node = at(cluster.node_ip(1), 31081);
    let by_ip = at(cluster.cluster_ip("sticky"), 80);
    for (from, to) in [(client, by_ip), (&cluster.outside, by_node)] {
        let request = || packets::request_tcp(&from.network, to);
        let first = wait_for("a reply", 60, request).name;
        for _ in 0..10 {
            assert_eq!(wait_for("a reply", 60, request).name, first);
        }
    }
}

/// `externalTrafficPolicy: Local` and `internalTrafficPolicy: Local`: only the node's own pods, which receive the
/// address of the client outside. The health check port of each node reports whether the node has pods.
fn local_endpoints_alone(cluster: &Cluster, [client_1, client_2]: [&Machine; 2]) {
    let [one, two] = [1, 2].map(|number| cluster.node_ip(number));
    let outside = &cluster.outside;
    for port in [31082, 18480] {
        assert_eq!(outside.reaches(at(two, port), "server-2"), outside.ip);
    }
    outside.is_dropped(at(one, 31082));
    // A client in the cluster may use any endpoint.
    client_1.reaches(at(one, 31082), "server-2");
    let inside = at(cluster.cluster_ip("inside"), 80);
    client_2.reaches(inside, "server-2");
    client_1.is_dropped(inside);
    let port = cluster.service("shown")["spec"]["healthCheckNodePort"].as_u64();
    let port = port.and_then(|port| u16::try_from(port).ok());
    let port = port.expect("a health check port");
    health(cluster, one, port, 503, 0);
    health(cluster, two, port, 200, 1);

    // A pod on the first node joins.
    let label = |label: &str| {
        cluster.on_server(|| cluster.kubectl.ok(&["label", "pod", "server-1", label]));
    };
    label("far=yes");
    health(cluster, one, port, 200, 1);
    for port in [31082, 18480] {
        assert_eq!(outside.reaches(at(one, port), "server-1"), outside.ip);
    }
    client_1.wait_for_servers(inside, &["server-1"]);
    label("far-");
    health(cluster, one, port, 503, 0);
    outside.is_dropped(at(one, 31082));
}

/// Waits for the response of a node's health check port.
#[track_caller]
fn health(cluster: &Cluster, node: Ipv4Addr, port: u16, status: u16, endpoints: u64) {
    let expected = (status.to_string(), json!(endpoints));
    wait_for(&format!("{expected:?} of {node}"), 60, || {
        let result = cluster.outside.network.run(|| read_backend(at(node, port)));
        match result {
            Ok(result) if result == expected => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn read_backend(at: SocketAddr) -> std::io::Result<(String, Value)> {
    let limit = Duration::from_secs(20);
    let mut connection = TcpStream::connect_timeout(&at, limit)?;
    connection.set_read_timeout(Some(limit))?;
    connection.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), body["localEndpoints"].clone()))
}

/// `trafficDistribution: PreferSameZone`: the pods of the client's zone, by the labels of the nodes.
fn endpoints_of_the_clients_zone_first(cluster: &Cluster, [client_1, client_2]: [&Machine; 2]) {
    let zonal = at(cluster.cluster_ip("zonal"), 80);
    let label = |node: &str, zone: &str| {
        let zone = format!("topology.kubernetes.io/zone={zone}");
        cluster.on_server(|| {
            cluster
                .kubectl
                .ok(&["label", "node", node, &zone, "--overwrite"])
        });
    };
    client_1.wait_for_servers(zonal, &BOTH);
    label("n1", "east");
    label("n2", "west");
    client_1.wait_for_servers(zonal, &["server-1"]);
    client_2.wait_for_servers(zonal, &["server-2"]);
    label("n1", "west");
    client_1.wait_for_servers(zonal, &BOTH);
    client_2.wait_for_servers(zonal, &BOTH);
}

/// `trafficDistribution: PreferSameNode`: the pod on the client's node, and the other pods if the node has none.
fn endpoints_of_the_clients_node_first(cluster: &Cluster, [client_1, client_2]: [&Machine; 2]) {
    let near = at(cluster.cluster_ip("near"), 80);
    client_1.wait_for_servers(near, &["server-1"]);
    client_2.wait_for_servers(near, &["server-2"]);
    cluster.on_server(|| cluster.kubectl.ok(&["label", "pod", "server-1", "app-"]));
    client_1.wait_for_servers(near, &["server-2"]);
}
