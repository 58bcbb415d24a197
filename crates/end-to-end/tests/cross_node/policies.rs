//! NetworkPolicies on two joined nodes: client and server are on different nodes, and on one node.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use end_to_end::wait_for;

use super::{Cluster, Machine, SCTP, UDP, at, packets, pod};

/// `web` has the pod on the second node, `open` is a node port that does not change the client's address.
const SERVICES: &str = r"---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {name: server-2}
  ports: [{port: 80, targetPort: 8080, nodePort: 31080}]
";

/// A server and a client on each node, and a client in another namespace.
struct Pods {
    server_1: Machine,
    server_2: Machine,
    client_1: Machine,
    client_2: Machine,
    other_1: Machine,
    /// Through the cluster IP, to the server on the second node.
    service: SocketAddr,
}

fn with_pods(transport: &str) -> (Cluster, Pods) {
    let cluster = Cluster::start(transport);
    let manifest = [
        pod("server-1", "n1", "app: server, name: server-1", 8080),
        // The named port has another number in this pod.
        pod("server-2", "n2", "app: server, name: server-2", 9090),
        pod("client-1", "n1", "app: client, name: client-1", 80),
        pod("client-2", "n2", "app: client, name: client-2", 80),
        SERVICES.to_owned(),
    ];
    let names = ["server-1", "server-2", "client-1", "client-2"];
    let [server_1, server_2, client_1, client_2] =
        cluster.pods(&cluster.kubectl, &manifest.concat(), names);
    let other = cluster.on_server(|| cluster.kubectl.in_new_namespace("other"));
    let manifest = pod("other-1", "n1", "app: client, name: other-1", 80);
    let [other_1] = cluster.pods(&other, &manifest, ["other-1"]);
    server_1.serve("server-1");
    server_2.serve("server-2");
    let service = at(cluster.cluster_ip("web"), 80);
    let pods = Pods {
        server_1,
        server_2,
        client_1,
        client_2,
        other_1,
        service,
    };
    (cluster, pods)
}

/// Replaces a policy of the namespace `default` by one with this specification.
fn policy(cluster: &Cluster, name: &str, spec: &str) {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy";
    let manifest = format!("{head}\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    cluster.on_server(|| cluster.kubectl.apply(&manifest));
}

/// A policy of the servers with these rules for ingress.
fn ingress(rules: &str) -> String {
    format!("{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{rules}]}}")
}

fn from(peers: &str) -> String {
    ingress(&format!("{{from: [{peers}]}}"))
}

/// A policy of the clients with these rules for egress.
fn egress(rules: &str) -> String {
    format!(
        "{{podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], egress: [{rules}]}}"
    )
}

impl Pods {
    /// All clients reach both servers.
    #[track_caller]
    fn all_pass(&self) {
        for client in [&self.client_1, &self.client_2, &self.other_1] {
            client.reaches(self.server_1.at(8080), "server-1");
            // The server receives the client's own address, on the other node, too.
            assert_eq!(
                client.reaches(self.server_2.at(8080), "server-2"),
                client.ip
            );
            client.reaches(self.service, "server-2");
        }
    }
}

const FRIENDS: &str = "{podSelector: {matchLabels: {role: friend}}}";

#[test]
fn policies_hold_between_pods_of_two_nodes() {
    let (cluster, pods) = with_pods("route");
    pods.all_pass();
    incoming_by_peers(&cluster, &pods);
    incoming_by_addresses(&cluster, &pods);
    incoming_by_ports(&cluster, &pods);
    by_protocols(&cluster, &pods);
    outgoing(&cluster, &pods);
    labels_and_new_pods(&cluster, &pods);
    open_connections(&cluster, &pods);
    cluster.on_server(|| cluster.kubectl.ok(&["delete", "networkpolicies", "--all"]));
    pods.all_pass();
    cluster.shut_down();
}

/// Default deny, selectors of pods and namespaces with their empty forms, and combinations of policies.
fn incoming_by_peers(cluster: &Cluster, pods: &Pods) {
    let (to_1, to_2) = (pods.server_1.at(8080), pods.server_2.at(8080));
    policy(cluster, "p", "{podSelector: {}}");
    pods.client_1.is_dropped(to_2);
    pods.client_2.is_dropped(to_2);
    pods.client_2.is_dropped(to_1);
    pods.client_1.is_dropped(pods.service);
    // The node of a pod reaches the pod.
    let probe = || packets::request_tcp(&cluster.nodes[1].network, to_2);
    assert_eq!(wait_for("a reply", 60, probe).name, "server-2");

    policy(
        cluster,
        "p",
        &from("{podSelector: {matchLabels: {name: client-1}}}"),
    );
    pods.client_1.reaches(to_2, "server-2");
    pods.client_1.reaches(pods.service, "server-2");
    pods.client_2.is_dropped(to_2);
    pods.other_1.is_dropped(to_2);
    // A second policy allows further connections.
    policy(
        cluster,
        "q",
        &from("{podSelector: {matchLabels: {name: client-2}}}"),
    );
    pods.client_2.reaches(to_1, "server-1");
    pods.client_1.reaches(to_2, "server-2");
    cluster.on_server(|| cluster.kubectl.ok(&["delete", "networkpolicy", "q"]));
    pods.client_2.is_dropped(to_1);

    policy(cluster, "p", &from("{podSelector: {}}"));
    pods.client_1.reaches(to_2, "server-2");
    pods.other_1.is_dropped(to_2);
    let other = "kubernetes.io/metadata.name: other";
    policy(
        cluster,
        "p",
        &from(&format!(
            "{{namespaceSelector: {{matchLabels: {{{other}}}}}}}"
        )),
    );
    pods.other_1.reaches(to_2, "server-2");
    pods.client_1.is_dropped(to_2);
    policy(
        cluster,
        "p",
        &from("{namespaceSelector: {}, podSelector: {matchLabels: {name: client-1}}}"),
    );
    pods.client_1.reaches(to_2, "server-2");
    pods.other_1.is_dropped(to_2);
    policy(cluster, "p", &from("{namespaceSelector: {}}"));
    pods.other_1.reaches(to_2, "server-2");
    pods.client_2.reaches(to_1, "server-1");
    cluster.outside.is_dropped(at(cluster.node_ip(2), 31080));
    policy(cluster, "p", &ingress("{}"));
    cluster
        .outside
        .reaches(at(cluster.node_ip(2), 31080), "server-2");
}

/// `ipBlock` with `except`, for pods of the other node and for clients outside.
fn incoming_by_addresses(cluster: &Cluster, pods: &Pods) {
    let to_2 = pods.server_2.at(8080);
    let block = |cidr: &str, except: Ipv4Addr| {
        from(&format!(
            "{{ipBlock: {{cidr: {cidr}, except: [{except}/32]}}}}"
        ))
    };
    policy(cluster, "p", &block("10.244.0.0/16", pods.client_1.ip));
    pods.client_2.reaches(to_2, "server-2");
    pods.other_1.reaches(pods.service, "server-2");
    pods.client_1.is_dropped(to_2);
    pods.client_1.is_dropped(pods.service);
    let node_port = at(cluster.node_ip(2), 31080);
    cluster.outside.is_dropped(node_port);
    policy(cluster, "p", &block("192.0.2.0/24", cluster.node_ip(1)));
    assert_eq!(
        cluster.outside.reaches(node_port, "server-2"),
        cluster.outside.ip
    );
    pods.client_2.is_dropped(to_2);
    policy(cluster, "p", &block("192.0.2.0/24", cluster.outside.ip));
    cluster.outside.is_dropped(node_port);
}

/// Ports of the pod after translation, by number, by name and as a range.
fn incoming_by_ports(cluster: &Cluster, pods: &Pods) {
    let [one, two] = [&pods.server_1, &pods.server_2];
    let ports = |ports: &str| ingress(&format!("{{ports: [{ports}]}}"));
    policy(cluster, "p", &ports("{port: http}"));
    pods.client_2.reaches(one.at(8080), "server-1");
    pods.client_2.is_dropped(one.at(9090));
    pods.client_1.reaches(two.at(9090), "server-2");
    pods.client_1.is_dropped(two.at(8080));
    policy(cluster, "p", &ports("{port: 8080, endPort: 8085}"));
    pods.client_1.reaches(two.at(8085), "server-2");
    pods.client_1.reaches(pods.service, "server-2");
    pods.client_1.is_dropped(two.at(8086));
    // The port of the Service is not the port of the pod.
    policy(cluster, "p", &ports("{port: 80}"));
    pods.client_1.is_dropped(pods.service);
}

/// UDP and SCTP.
fn by_protocols(cluster: &Cluster, pods: &Pods) {
    let client = &pods.client_1.network;
    let udp = || packets::request_udp(client, pods.server_2.at(UDP));
    // An association that is already tracked would pass.
    let mut port = 41_000;
    let mut sctp = || {
        port += 1;
        packets::request_sctp(client, pods.server_2.at(SCTP), port)
    };
    let only = |protocol: &str, port: u16| {
        let rule = format!("{{ports: [{{protocol: {protocol}, port: {port}}}]}}");
        policy(cluster, "p", &ingress(&rule));
    };
    only("UDP", UDP);
    wait_for("a reply by UDP", 60, udp);
    wait_for("silence by SCTP", 60, || silence(sctp()));
    pods.client_1.is_dropped(pods.server_2.at(8080));
    only("SCTP", SCTP);
    wait_for("a reply by SCTP", 60, &mut sctp);
    wait_for("silence by UDP", 60, || silence(udp()));
    only("TCP", SCTP);
    wait_for("silence by SCTP", 60, || silence(sctp()));
}

fn silence(result: std::io::Result<packets::EchoReply>) -> Result<(), String> {
    match result {
        Err(error) if packets::is_silence(&error) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Default deny of outgoing connections, peers, blocks and ports.
fn outgoing(cluster: &Cluster, pods: &Pods) {
    let (to_1, to_2) = (pods.server_1.at(8080), pods.server_2.at(8080));
    policy(cluster, "p", &egress(""));
    pods.client_1.is_dropped(to_2);
    pods.client_1.is_dropped(pods.service);
    pods.client_2.is_dropped(to_2);
    pods.other_1.reaches(to_2, "server-2");
    policy(
        cluster,
        "p",
        &egress("{to: [{podSelector: {matchLabels: {name: server-2}}}], ports: [{port: 8080}]}"),
    );
    pods.client_1.reaches(to_2, "server-2");
    pods.client_1.reaches(pods.service, "server-2");
    pods.client_1.is_dropped(pods.server_2.at(9090));
    pods.client_2.is_dropped(to_1);
    // The named port is resolved for each server.
    policy(
        cluster,
        "p",
        &egress(
            "{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: server}}}], ports: [{port: http}]}",
        ),
    );
    pods.client_1.reaches(to_1, "server-1");
    pods.client_1.reaches(pods.server_2.at(9090), "server-2");
    pods.client_1.is_dropped(to_2);
    // Only datagrams pass.
    policy(cluster, "p", &egress("{ports: [{protocol: UDP}]}"));
    let udp = || packets::request_udp(&pods.client_1.network, pods.server_2.at(UDP));
    wait_for("a reply by UDP", 60, udp);
    pods.client_1.is_dropped(to_2);
    let block = format!("{{cidr: 10.244.0.0/16, except: [{}/32]}}", pods.server_2.ip);
    policy(
        cluster,
        "p",
        &egress(&format!("{{to: [{{ipBlock: {block}}}]}}")),
    );
    pods.client_2.reaches(to_1, "server-1");
    pods.client_1.is_dropped(to_2);
    pods.client_1.is_dropped(pods.service);
}

/// A pod that changes its labels, and a pod that starts on the other node.
fn labels_and_new_pods(cluster: &Cluster, pods: &Pods) {
    let to_2 = pods.server_2.at(8080);
    policy(cluster, "p", &from(FRIENDS));
    pods.client_1.is_dropped(to_2);
    let label = |kind: &str, name: &str, label: &str| {
        cluster.on_server(|| cluster.kubectl.ok(&["label", kind, name, label]));
    };
    label("pod", "client-1", "role=friend");
    pods.client_1.reaches(to_2, "server-2");
    label("pod", "client-1", "role-");
    pods.client_1.is_dropped(to_2);
    // The labels of a namespace have an equal effect.
    let reds =
        "{namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [red]}]}}";
    policy(cluster, "p", &from(reds));
    pods.other_1.is_dropped(to_2);
    label("namespace", "other", "team=red");
    pods.other_1.reaches(to_2, "server-2");
    pods.client_1.is_dropped(to_2);
    label("namespace", "other", "team-");
    pods.other_1.is_dropped(to_2);
    policy(cluster, "p", &from(FRIENDS));
    let late = pod("late", "n1", "role: friend", 80);
    let [late] = cluster.pods(&cluster.kubectl, &late, ["late"]);
    late.reaches(to_2, "server-2");
    late.reaches(pods.service, "server-2");
}

/// A connection between the nodes ends when a policy does not allow it any more.
fn open_connections(cluster: &Cluster, pods: &Pods) {
    policy(cluster, "p", &ingress("{}"));
    pods.client_1.reaches(pods.server_2.at(8080), "server-2");
    let (from, to) = (&pods.client_1.network, &pods.server_2.network);
    let open = packets::connection(from, to, pods.server_2.at(7000));
    let (client, server) = open.expect("a connection");
    let directions = [(&server, &client), (&client, &server)];
    let arrives = |limit| directions.map(|(from, to)| packets::arrives(from, to, limit));
    assert_eq!(arrives(packets::PATIENCE), [true; 2]);
    policy(cluster, "p", &ingress(""));
    wait_for("the connection to end", 60, || {
        let has_arrived = arrives(packets::SILENCE);
        (has_arrived == [false; 2]).then_some(()).ok_or(has_arrived)
    });
}

/// The main checks of both tables, through the tunnel.
#[test]
fn services_and_policies_hold_through_vxlan() {
    let (cluster, pods) = with_pods("vxlan");
    pods.all_pass();
    // Both nodes are on one link, so only the option selects the tunnel.
    let routes = cluster.nodes[0]
        .network
        .run(|| ip("-4 route show proto 109"));
    assert!(
        routes.contains("dev mx") && !routes.contains("via 192.0.2"),
        "{routes}"
    );
    let link = pods.client_1.network.run(|| ip("-o link show eth0"));
    assert!(link.contains("mtu 1450 "), "{link}");
    // A datagram as large as the MTU arrives; the headers have 28 bytes.
    let client = &pods.client_1.network;
    let full = || packets::send_udp(client, pods.server_2.at(UDP), 1450 - 28);
    assert_eq!(wait_for("a reply", 60, full).name, "server-2");
    let (to_2, node_port) = (pods.server_2.at(8080), at(cluster.node_ip(2), 31080));
    assert_eq!(
        cluster.outside.reaches(node_port, "server-2"),
        cluster.outside.ip
    );
    cluster.outside.is_dropped(at(cluster.node_ip(1), 31080));
    policy(&cluster, "p", "{podSelector: {}}");
    pods.client_1.is_dropped(to_2);
    pods.client_1.is_dropped(pods.service);
    policy(
        &cluster,
        "p",
        &from("{podSelector: {matchLabels: {name: client-1}}}"),
    );
    pods.client_1.reaches(to_2, "server-2");
    pods.client_1.reaches(pods.service, "server-2");
    pods.other_1.is_dropped(to_2);
    let block = format!("{{cidr: 10.244.0.0/16, except: [{}/32]}}", pods.client_1.ip);
    policy(&cluster, "p", &from(&format!("{{ipBlock: {block}}}")));
    pods.other_1.reaches(to_2, "server-2");
    pods.client_1.is_dropped(to_2);
    cluster.shut_down();
}

/// The output of `ip` in the network of this thread.
fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output();
    String::from_utf8_lossy(&output.expect("run ip").stdout).into_owned()
}
