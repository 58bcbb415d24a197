//! Packets between the pods of three nodes: two on one link, the third behind a router.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use pod_network::{
    Peer, PeerEncryption, PeerSettings, PeerTransport, PodNetwork, PodNetworkOptions,
    UnreachedPeer, remove,
};

#[allow(dead_code, reason = "other tests share the module and use the rest")]
mod namespaces;

use namespaces::Namespace;

const CLUSTER: &str = "10.244.0.0/16";

struct Node {
    host: Namespace,
    pod: Namespace,
    dir: tempfile::TempDir,
    number: u8,
    ip: Ipv4Addr,
}

impl Node {
    fn new(number: u8, ip: &str) -> Self {
        let (host, pod) = (Namespace::new(), Namespace::new());
        let dir = tempfile::tempdir().unwrap();
        let ip = ip.parse().unwrap();
        Self {
            host,
            pod,
            dir,
            number,
            ip,
        }
    }

    fn options(&self) -> PodNetworkOptions {
        PodNetworkOptions {
            instance_id: format!("a1b2c{}", self.number),
            state_dir: self.dir.path().to_owned(),
            pod_cidr: self.peer().range,
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            encryption: None,
        }
    }

    fn peer(&self) -> Peer {
        Peer {
            name: format!("node-{}", self.number),
            address: self.ip,
            range: format!("10.244.{}.0/24", self.number).parse().unwrap(),
            encryption: PeerEncryption::Off,
        }
    }

    fn pod_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 2)
    }

    /// Connects the pod and the peers with a new network process. Returns the unreached peers.
    fn connect(&self, transport: PeerTransport, peers: &[&Node]) -> Vec<UnreachedPeer> {
        let peers: Vec<Peer> = peers.iter().map(|node| node.peer()).collect();
        let settings = PeerSettings {
            transport,
            ..PeerSettings::new(self.ip, CLUSTER.parse().unwrap())
        };
        self.host.block_on(|| async {
            let network = PodNetwork::open(self.options()).await.unwrap();
            network.attach("pod", self.pod.path()).await.unwrap();
            network.connect_peers(&settings, &peers).await.unwrap()
        })
    }

    fn routes(&self) -> String {
        self.host.ip("-4 route show proto 109")
    }
}

/// Connects `node` and `to` by a veth pair.
fn cable(node: &Namespace, name: &str, address: &str, to: &Namespace, port: &str) {
    let tid = to.path().components().nth(4).unwrap();
    let tid = tid.as_os_str().to_str().unwrap().to_owned();
    let temporary = format!("tp{}{port}", std::process::id() % 100_000);
    node.ip(&format!("link add {name} type veth peer name {temporary}"));
    node.ip(&format!("link set {temporary} netns {tid}"));
    to.ip(&format!("link set {temporary} name {port}"));
    to.ip(&format!("link set {port} up"));
    node.ip(&format!("link set {name} up"));
    node.ip(&format!("addr add {address}/24 dev {name}"));
}

/// Nodes 1 and 2 are on a bridge of the router, node 3 is on another link of the router. The router has no
/// routes to pods.
fn network() -> (Namespace, [Node; 3]) {
    let router = Namespace::new();
    router
        .run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))
        .unwrap();
    let nodes = [
        Node::new(1, "192.0.2.1"),
        Node::new(2, "192.0.2.2"),
        Node::new(3, "198.51.100.3"),
    ];
    router.ip("link add switch type bridge");
    router.ip("link set switch up");
    router.ip("addr add 192.0.2.254/24 dev switch");
    for node in &nodes {
        let port = format!("p{}", node.number);
        cable(&node.host, "uplink", &node.ip.to_string(), &router, &port);
        let gateway = if node.number == 3 {
            router.ip("addr add 198.51.100.254/24 dev p3");
            "198.51.100.254"
        } else {
            router.ip(&format!("link set {port} master switch"));
            "192.0.2.254"
        };
        node.host.ip(&format!("route add default via {gateway}"));
        node.pod.serve(80, &node.number.to_string());
    }
    (router, nodes)
}

fn connect_all(nodes: &[Node; 3], transport: PeerTransport) {
    for node in nodes {
        let others: Vec<&Node> = nodes.iter().filter(|one| one.ip != node.ip).collect();
        assert_eq!(node.connect(transport, &others), []);
    }
}

/// Connects from the pod `from` to the pod `to` by TCP. The pod responds, and observes the address of the
/// other pod.
fn assert_reached(from: &Node, to: &Node) {
    let expected = (to.number.to_string(), from.pod_ip().to_string());
    assert_eq!(from.pod.ask((to.pod_ip(), 80)).unwrap(), expected);
    // The node itself has the first address of its range.
    let expected = (
        to.number.to_string(),
        Ipv4Addr::new(10, 244, from.number, 1).to_string(),
    );
    assert_eq!(from.host.ask((to.pod_ip(), 80)).unwrap(), expected);
}

/// Sends one UDP packet with the size of the pod's MTU, which must not be fragmented.
fn assert_full_size(from: &Node, to: &Node) {
    let address = (to.pod_ip(), 9000);
    let server = to.pod.run(|| UdpSocket::bind(address)).unwrap();
    server
        .set_read_timeout(Some(Duration::from_secs(240)))
        .unwrap();
    let mtu = from.pod.ip("-o link show eth0");
    let mut words = mtu.split_whitespace().skip_while(|word| *word != "mtu");
    let mtu: usize = words.nth(1).unwrap().parse().unwrap();
    let sent = vec![7; mtu - 28];
    // Linux sets the DF flag on packets of UDP sockets with path MTU discovery, which is the default.
    from.pod.run(|| {
        let client = UdpSocket::bind((from.pod_ip(), 0)).unwrap();
        client.send_to(&sent, address).unwrap();
    });
    let mut buffer = vec![0; 65_536];
    let (length, source) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((length, source.ip()), (sent.len(), from.pod_ip().into()));
}

#[test]
fn pods_of_all_nodes_reach_each_other_with_their_own_addresses() {
    for (transport, direct) in [(PeerTransport::Auto, true), (PeerTransport::Vxlan, false)] {
        let (_router, nodes) = network();
        connect_all(&nodes, transport);
        let routes = nodes[0].routes();
        let tunnel = "10.244.2.0 dev mxa1b2c1";
        assert_eq!(
            routes.contains("via 192.0.2.2 dev uplink"),
            direct,
            "{routes}"
        );
        assert_eq!(routes.contains(tunnel), !direct, "{routes}");
        for from in &nodes {
            for to in nodes.iter().filter(|to| to.ip != from.ip) {
                assert_reached(from, to);
                assert_full_size(from, to);
            }
        }
    }
}

// findings-2 S36
#[test]
fn a_peer_whose_route_the_kernel_refuses_holds_back_no_other() {
    let (_router, nodes) = network();
    connect_all(&nodes, PeerTransport::Auto);
    let [one, two, three] = &nodes;
    // The broadcast address of the link is not valid as a next hop.
    let mut bad = Node::new(4, "192.0.2.255");
    bad.number = 0;
    let unreached = one.connect(PeerTransport::Auto, &[&bad, two, three]);
    assert_eq!(unreached.len(), 1, "{unreached:?}");
    assert_eq!(unreached[0].name, "node-0");
    let cause = &unreached[0].cause;
    assert!(
        cause.starts_with("add route to the pods in 10.244.0.0/24: "),
        "{cause}"
    );
    for other in [two, three] {
        assert_reached(one, other);
    }
}

#[test]
fn a_peer_leaves_changes_and_returns() {
    let (_router, mut nodes) = network();
    connect_all(&nodes, PeerTransport::Auto);
    let [one, two, three] = &nodes;
    let state = one.host.kernel_state();
    one.connect(PeerTransport::Auto, &[two, three]);
    assert_eq!(
        one.host.ip("-br link").lines().count(),
        state.split("--\n").next().unwrap().lines().count()
    );
    one.connect(PeerTransport::Auto, &[two]);
    assert!(!one.routes().contains("10.244.3.0"));
    assert!(
        !one.host.ip("-br link").contains("mxa1b2c1"),
        "nobody needs the tunnel"
    );
    assert_reached(one, two);
    one.connect(PeerTransport::Auto, &[two, three]);
    assert_reached(one, three);
    // The second node is behind the router now, with another address.
    two.host.ip("addr del 192.0.2.2/24 dev uplink");
    two.host.ip("addr add 192.0.2.77/24 dev uplink");
    two.host.ip("route add default via 192.0.2.254");
    nodes[1].ip = Ipv4Addr::new(192, 0, 2, 77);
    connect_all(&nodes, PeerTransport::Auto);
    assert_reached(&nodes[0], &nodes[1]);
    assert_reached(&nodes[1], &nodes[2]);
}

#[test]
fn removal_leaves_nothing_behind_and_foreign_routes_stay() {
    let (_router, nodes) = network();
    let [one, two, three] = &nodes;
    one.host.ip("route add 10.244.2.0/24 via 192.0.2.9");
    one.host
        .ip("route add 10.244.9.0/24 via 192.0.2.9 proto 109");
    let before = one.host.ip("-4 route");
    let links = one.host.ip("-br link").lines().count();
    let unreached = one.connect(PeerTransport::Auto, &[two, three]);
    assert_eq!(unreached.len(), 1);
    assert_eq!(
        unreached[0].cause,
        "another program has a route to its range 10.244.2.0/24"
    );
    assert!(
        one.host
            .ip("-4 route")
            .contains("10.244.2.0/24 via 192.0.2.9")
    );
    assert!(one.routes().contains("10.244.3.0"));
    one.host.block_on(|| async {
        remove("a1b2c1", one.dir.path()).await.unwrap();
    });
    assert_eq!(one.host.ip("-4 route"), before);
    assert_eq!(one.host.ip("-br link").lines().count(), links);
    one.connect(PeerTransport::Auto, &[three]);
    one.host.block_on(|| async {
        let network = PodNetwork::open(one.options()).await.unwrap();
        network.close(true).await.unwrap();
    });
    assert_eq!(one.host.ip("-4 route"), before);
    assert_eq!(one.host.ip("-br link").lines().count(), links);
}
