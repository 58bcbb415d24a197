//! Packets between pods of nodes that encrypt, captured on the link between the nodes. Most tests need a
//! kernel with WireGuard, which `cargo xtask virtual-machine-test encryption` starts.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};
use pod_network::{
    EncryptionOptions, Error, Peer, PeerEncryption, PeerSettings, PodNetwork, PodNetworkOptions,
    TunnelEnd, UnreachedPeer, remove, require_wireguard,
};

#[allow(dead_code, reason = "other tests share the module and use the rest")]
mod namespaces;

use namespaces::Namespace;

const CLUSTER: &str = "10.244.0.0/16";
const PATIENCE: Duration = Duration::from_secs(240);

/// A node with one pod on the shared link.
struct Node {
    host: Namespace,
    pod: Namespace,
    dir: tempfile::TempDir,
    number: u8,
}

impl Node {
    /// A node whose link is connected to the switch.
    fn new(number: u8, switch: &Namespace) -> Self {
        let (host, pod) = (Namespace::new(), Namespace::new());
        let thread = host.path().components().nth(4).unwrap();
        let thread = thread.as_os_str().to_str().unwrap();
        let (port, end) = (format!("port{number}"), format!("t{thread}"));
        switch.ip(&format!("link add {port} type veth peer name {end}"));
        switch.ip(&format!("link set {end} netns {thread}"));
        switch.ip(&format!("link set {port} master bridge up"));
        host.ip(&format!("link set {end} name eth0"));
        host.ip("link set eth0 up");
        host.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
        host.ip("route add default via 192.0.2.254");
        pod.serve(80, &number.to_string());
        let dir = tempfile::tempdir().unwrap();
        Self {
            host,
            pod,
            dir,
            number,
        }
    }

    fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number)
    }

    fn pod_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, 2)
    }

    fn instance(&self) -> String {
        format!("a1b2c{}", self.number)
    }

    fn options(&self, encryption: Option<EncryptionOptions>) -> PodNetworkOptions {
        PodNetworkOptions {
            instance_id: self.instance(),
            state_dir: self.dir.path().to_owned(),
            pod_cidr: self.peer(PeerEncryption::Off).range,
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            encryption,
        }
    }

    fn peer(&self, encryption: PeerEncryption) -> Peer {
        Peer {
            name: format!("node-{}", self.number),
            address: self.ip(),
            range: format!("10.244.{}.0/24", self.number).parse().unwrap(),
            encryption,
        }
    }

    /// Starts a network process with these peers. The process exits and leaves its objects in the kernel.
    fn start(&self, encrypts: bool, peers: &[Peer]) -> (Option<TunnelEnd>, Vec<UnreachedPeer>) {
        let encryption = encrypts.then(|| EncryptionOptions::new(CLUSTER.parse().unwrap()));
        let settings = PeerSettings::new(self.ip(), CLUSTER.parse().unwrap());
        self.host.block_on(|| async {
            let network = PodNetwork::open(self.options(encryption)).await.unwrap();
            network.attach("pod", self.pod.path()).await.unwrap();
            let unreached = network.connect_peers(&settings, peers).await.unwrap();
            (network.tunnel_end(), unreached)
        })
    }

    /// The peer of a process that was started without peers.
    fn encrypted_peer(&self) -> Peer {
        let (end, _) = self.start(true, &[]);
        self.peer(PeerEncryption::On(end.unwrap()))
    }

    fn pod_mtu(&self) -> usize {
        let link = self.pod.ip("-o link show eth0");
        let mut words = link.split_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).unwrap().parse().unwrap()
    }
}

/// A switch with its nodes.
fn network<const N: usize>() -> (Namespace, [Node; N]) {
    let switch = Namespace::new();
    switch.ip("link add bridge type bridge");
    switch.ip("link set bridge up");
    switch.ip("addr add 192.0.2.254/24 dev bridge");
    let nodes = std::array::from_fn(|index| Node::new(u8::try_from(index + 1).unwrap(), &switch));
    (switch, nodes)
}

/// All nodes encrypt and have each other as peers.
fn encrypt_all(nodes: &[Node]) {
    let peers: Vec<Peer> = nodes.iter().map(Node::encrypted_peer).collect();
    for node in nodes {
        let others = peers.iter().filter(|peer| peer.address != node.ip());
        let others: Vec<Peer> = others.cloned().collect();
        assert_eq!(node.start(true, &others).1, []);
    }
}

fn assert_reached(from: &Node, to: &Node) {
    let expected = (to.number.to_string(), from.pod_ip().to_string());
    assert_eq!(from.pod.ask((to.pod_ip(), 80)).unwrap(), expected);
    let of_node = Ipv4Addr::new(10, 244, from.number, 1);
    let expected = (to.number.to_string(), of_node.to_string());
    assert_eq!(from.host.ask((to.pod_ip(), 80)).unwrap(), expected);
}

/// Sends one UDP packet with the size of the pod's MTU, which must not be fragmented.
fn assert_full_size(from: &Node, to: &Node) {
    let address = SocketAddr::from((to.pod_ip(), 9000));
    let server = to.pod.run(|| UdpSocket::bind(address)).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = vec![7; from.pod_mtu() - 28];
    send(from, address, &sent).unwrap();
    let mut buffer = vec![0; 65_536];
    let (length, source) = server.recv_from(&mut buffer).unwrap();
    assert_eq!((length, source.ip()), (sent.len(), from.pod_ip().into()));
}

fn send(from: &Node, to: SocketAddr, bytes: &[u8]) -> std::io::Result<usize> {
    from.pod
        .run(|| UdpSocket::bind((from.pod_ip(), 0))?.send_to(bytes, to))
}

/// All frames on the ports of the switch.
struct Capture {
    packets: File,
}

impl Capture {
    fn start(switch: &Namespace) -> Self {
        let raw = switch.run(|| {
            let protocol = SockProtocol::EthAll;
            socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK,
                protocol,
            )
            .unwrap()
        });
        setsockopt(&raw, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        Self {
            packets: File::from(raw),
        }
    }

    /// The captured IPv4 packets: source, destination, protocol, destination port.
    fn end(mut self) -> Vec<(Ipv4Addr, Ipv4Addr, u8, u16)> {
        let mut frame = vec![0; 65_536];
        let mut packets = Vec::new();
        while let Ok(length) = self.packets.read(&mut frame) {
            let frame = &frame[..length];
            if length < 38 || frame[12..14] != [8, 0] {
                continue;
            }
            let address = |at: usize| {
                let [a, b, c, d] = frame[at..at + 4].try_into().unwrap();
                Ipv4Addr::new(a, b, c, d)
            };
            let port = u16::from_be_bytes([frame[36], frame[37]]);
            packets.push((address(26), address(30), frame[23], port));
        }
        packets
    }

    /// Checks that no packet had the address of a pod, and returns the number of encrypted packets.
    fn encrypted(self) -> usize {
        const UDP: u8 = 17;
        let packets = self.end();
        for (source, destination, protocol, port) in &packets {
            for address in [source, destination] {
                assert_ne!(address.octets()[..2], [10, 244], "{packets:?}");
            }
            assert_eq!((*protocol, *port), (UDP, 51820), "{packets:?}");
        }
        packets.len()
    }
}

/// Whether the kernel has WireGuard. The kernel of the virtual machine has it, which an environment
/// variable reports.
fn has_wireguard() -> bool {
    let required = require_wireguard();
    if std::env::var_os("MAINSTAY_KERNEL_HAS_WIREGUARD").is_some() {
        required.unwrap();
        return true;
    }
    required.is_ok()
}

/// docs/many-machines.md: without WireGuard in the kernel, the start fails before anything has changed.
#[test]
fn a_kernel_without_wireguard_is_named() {
    if has_wireguard() {
        return;
    }
    let (_switch, [node]) = network();
    let refused = require_wireguard().unwrap_err();
    assert!(matches!(refused, Error::NoWireGuard), "{refused}");
    assert!(
        refused.to_string().contains("module `wireguard`"),
        "{refused}"
    );
    let encryption = Some(EncryptionOptions::new(CLUSTER.parse().unwrap()));
    let options = node.options(encryption);
    let opened = node
        .host
        .block_on(|| async { PodNetwork::open(options).await.err() });
    assert!(matches!(opened, Some(Error::NoWireGuard)), "{opened:?}");
    assert!(!node.host.ip("-4 route").contains("10.244.0.0"));
}

/// docs/many-machines.md: packets between pods, and between a node and pods, are UDP of WireGuard on the link.
#[test]
fn the_link_has_encrypted_packets_alone() {
    if !has_wireguard() {
        return;
    }
    let (switch, nodes) = network::<3>();
    let capture = Capture::start(&switch);
    encrypt_all(&nodes);
    for from in &nodes {
        assert_eq!(from.pod_mtu(), 1420);
        for to in nodes.iter().filter(|to| to.number != from.number) {
            assert_reached(from, to);
            assert_full_size(from, to);
        }
        // Packets to unassigned addresses do not leave the machine either.
        let nobody = SocketAddr::from(([10, 244, 99, 2], 9));
        send(from, nobody, b"secret").ok();
    }
    let encrypted = capture.encrypted();
    assert!(encrypted > 6 * 2 * 4, "{encrypted}");
}

/// docs/many-machines.md: neither a node that encrypts nor a plain node sends plain packets to the other.
#[test]
fn a_node_without_a_key_gets_no_plain_packets() {
    if !has_wireguard() {
        return;
    }
    let (switch, nodes) = network::<3>();
    let [one, two, plain] = &nodes;
    // A former process has sent plain packets.
    let capture = Capture::start(&switch);
    one.start(false, &[plain.peer(PeerEncryption::Off)]);
    plain.start(false, &[one.peer(PeerEncryption::Off)]);
    assert_reached(one, plain);
    let packets = capture.end();
    let shows_pod = |packet: &(Ipv4Addr, Ipv4Addr, u8, u16)| packet.0 == one.pod_ip();
    assert!(packets.iter().any(shows_pod), "{packets:?}");
    let keys = [one.encrypted_peer(), two.encrypted_peer()];
    let capture = Capture::start(&switch);
    let off = plain.peer(PeerEncryption::Off);
    let (_, unreached) = one.start(true, &[keys[1].clone(), off.clone()]);
    assert_eq!(unreached.len(), 1);
    assert!(unreached[0].cause.contains("does not"), "{unreached:?}");
    two.start(true, &[keys[0].clone(), off]);
    let (_, unreached) = plain.start(false, &keys);
    assert_eq!(unreached.len(), 2);
    assert!(unreached[0].cause.contains("it encrypts"), "{unreached:?}");
    for (from, to) in [(one, plain), (plain, one), (two, plain), (plain, two)] {
        from.pod.ask((to.pod_ip(), 80)).unwrap_err();
        from.host.ask((to.pod_ip(), 80)).unwrap_err();
        send(from, (to.pod_ip(), 9).into(), b"secret").ok();
    }
    assert_reached(one, two);
    assert_reached(two, one);
    assert!(capture.encrypted() > 8);
}

/// docs/many-machines.md: a restarted agent keeps its key and the sessions. Without the key file, the agent
/// creates another key, which the peers read from its Node object.
#[test]
fn a_restart_keeps_the_key_and_a_new_key_is_followed() {
    if !has_wireguard() {
        return;
    }
    let (_switch, nodes) = network::<2>();
    encrypt_all(&nodes);
    let [one, two] = &nodes;
    assert_reached(one, two);
    let before = one.encrypted_peer();
    // After the restart, the node has no peers for a short time, and no plain route.
    one.pod.ask((two.pod_ip(), 80)).unwrap_err();
    assert_eq!(one.encrypted_peer(), before);
    encrypt_all(&nodes);
    assert_reached(one, two);
    std::fs::remove_file(one.dir.path().join("wireguard-private-key")).unwrap();
    let after = one.encrypted_peer();
    assert_ne!(after.encryption, before.encryption);
    let of_two = two.encrypted_peer();
    assert_eq!(one.start(true, &[of_two]).1, []);
    assert_eq!(two.start(true, &[after]).1, []);
    assert_eventually(|| one.pod.ask((two.pod_ip(), 80)).is_ok());
    assert_reached(two, one);
}

/// Waits until a condition holds: a handshake with a new key may wait for the time-out of a handshake with
/// the former key.
fn assert_eventually(holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "it does not come true");
    }
}

#[test]
fn removal_and_a_plain_start_leave_nothing_behind() {
    if !has_wireguard() {
        return;
    }
    let (_switch, nodes) = network::<2>();
    let [one, two] = &nodes;
    let (routes, links) = (one.host.ip("-4 route"), one.host.ip("-br link"));
    let encrypted = two.encrypted_peer();
    one.start(true, &[encrypted]);
    let (with_routes, with_links) = (one.host.ip("-4 route"), one.host.ip("-br link"));
    assert!(
        with_routes.contains("unreachable 10.244.0.0/16"),
        "{with_routes}"
    );
    assert!(
        with_routes.contains("10.244.2.0/24 dev mga1b2c1"),
        "{with_routes}"
    );
    assert!(with_links.contains("mga1b2c1"), "{with_links}");
    one.start(false, &[two.peer(PeerEncryption::Off)]);
    let with_routes = one.host.ip("-4 route");
    assert!(!with_routes.contains("unreachable"), "{with_routes}");
    assert!(
        with_routes.contains("10.244.2.0/24 via 192.0.2.2"),
        "{with_routes}"
    );
    one.start(true, &[]);
    one.host.block_on(|| async {
        remove(&one.instance(), one.dir.path()).await.unwrap();
    });
    assert_eq!(one.host.ip("-4 route"), routes);
    let left = one.host.ip("-br link");
    assert_eq!(left.lines().count(), links.lines().count(), "{left}");
}
