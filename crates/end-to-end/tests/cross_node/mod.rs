//! Real packets between pods of two joined nodes (docs/many-machines.md).
//!
//! The test acts as servers and clients in the networks of pods, nodes and a machine outside, so that both ends of each
//! connection are known. Each pod is bound to a node.

mod packets;
mod policies;
mod services;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use end_to_end::lan::{Lan, Role};
use end_to_end::{Kubectl, Network, text, wait_for};
use serde_json::Value;

use packets::EchoReply;

/// Ports that pods serve by TCP.
const TCP: [u16; 4] = [8080, 8085, 8086, 9090];
/// The port that pods serve by UDP.
const UDP: u16 = 5353;
/// The port that pods serve by SCTP.
const SCTP: u16 = 9899;

/// A server, two nodes, and a machine outside of the cluster, on one link.
struct Cluster {
    kubectl: Kubectl,
    server: Role,
    nodes: [Role; 2],
    outside: Machine,
    _lan: Lan,
    _directory: tempfile::TempDir,
}

/// A network with its address.
struct Machine {
    network: Network,
    ip: Ipv4Addr,
}

impl Cluster {
    /// Starts the machines, with that transport between the nodes.
    fn start(transport: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("mainstay-test-").tempdir();
        let directory = directory.expect("make a directory");
        let mut lan = Lan::default();
        let mut role = |name| Role::new(&mut lan, name, directory.path());
        let (mut server, mut nodes) = (role("server"), [role("n1"), role("n2")]);
        let (network, address) = lan.machine();
        server.start(&["server"]);
        let (url, token) = (server.url(), server.token(&[]));
        for (node, name) in nodes.iter_mut().zip(["n1", "n2"]) {
            let join = ["node", "--server", &url, "--token", &token];
            let more = ["--node-name", name, "--pod-network-transport", transport];
            node.start(&[&join[..], &more].concat());
        }
        Self {
            kubectl: server.kubectl(),
            server,
            nodes,
            outside: Machine {
                network,
                ip: address.parse().expect("an address"),
            },
            _lan: lan,
            _directory: directory,
        }
    }

    /// Runs pods with these manifests, and returns the networks of the pods with the names.
    fn pods<const N: usize>(
        &self,
        kubectl: &Kubectl,
        manifest: &str,
        names: [&str; N],
    ) -> [Machine; N] {
        self.on_server(|| {
            kubectl.apply(manifest);
            let pods = names.map(|name| format!("pod/{name}"));
            kubectl.wait_pods_ready(&pods.each_ref().map(|pod| &**pod));
            names.map(|name| {
                let network = Network::of_pod(kubectl, name, "sleep");
                let ip = kubectl.pod_ip(name).parse().expect("an address");
                Machine { network, ip }
            })
        })
    }

    /// Runs work in the network of the server.
    fn on_server<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.server.network.run(work)
    }

    fn node_ip(&self, number: usize) -> Ipv4Addr {
        let address = &self.nodes[number - 1].address;
        address.parse().expect("an address")
    }

    fn service(&self, name: &str) -> Value {
        self.on_server(|| self.kubectl.json(&["get", "service", name]))
    }

    fn cluster_ip(&self, service: &str) -> Ipv4Addr {
        let service = self.service(service);
        text(&service, "/spec/clusterIP")
            .parse()
            .expect("an address")
    }

    fn shut_down(mut self) {
        for node in &mut self.nodes {
            node.interrupt();
        }
        self.server.interrupt();
    }
}

/// A pod with labels on a node. Its container only sleeps.
fn pod(name: &str, node: &str, labels: &str, http: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{{labels}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: sleep
    image: mainstay/debug
    command: [sleep, '1000000']
    ports: [{{name: http, containerPort: {http}}}]
"
    )
}

impl Machine {
    /// Serves all ports: each response contains the name and the address of the client.
    fn serve(&self, name: &str) {
        for port in TCP {
            packets::serve_tcp(&self.network, port, name);
        }
        packets::serve_udp(&self.network, UDP, name);
        packets::serve_sctp(&self.network, SCTP, name);
    }

    fn at(&self, port: u16) -> SocketAddr {
        at(self.ip, port)
    }

    /// Waits for a response of the server with that name; returns the client's address as the server received it.
    #[track_caller]
    fn reaches(&self, to: SocketAddr, name: &str) -> IpAddr {
        wait_for(
            &format!("{name} at {to}"),
            60,
            || match packets::request_tcp(&self.network, to) {
                Ok(reply) if reply.name == name => Ok(reply.client),
                other => Err(format!("{other:?}")),
            },
        )
    }

    /// Waits until packets to the address are dropped: no response arrives.
    #[track_caller]
    fn is_dropped(&self, to: SocketAddr) {
        wait_for(
            &format!("silence at {to}"),
            60,
            || match packets::request_tcp(&self.network, to) {
                Err(error) if packets::is_silence(&error) => Ok(()),
                other => Err(format!("{other:?}")),
            },
        );
    }

    /// Waits until exactly these servers respond.
    #[track_caller]
    fn wait_for_servers(&self, to: SocketAddr, names: &[&str]) -> Vec<EchoReply> {
        self.wait_for_replies(&format!("TCP {to}"), names, || {
            packets::request_tcp(&self.network, to)
        })
    }

    #[track_caller]
    fn wait_for_replies(
        &self,
        what: &str,
        names: &[&str],
        request: impl Fn() -> std::io::Result<EchoReply>,
    ) -> Vec<EchoReply> {
        let expected: BTreeSet<&str> = names.iter().copied().collect();
        wait_for(&format!("{expected:?} at {what}"), 60, || {
            // Ten requests miss one of two servers in one of a thousand rounds.
            let replies: Result<Vec<EchoReply>, _> = (0..10).map(|_| request()).collect();
            let replies = replies.map_err(|error| error.to_string())?;
            let names_of_replies: BTreeSet<&str> =
                replies.iter().map(|reply| &*reply.name).collect();
            match names_of_replies == expected {
                true => Ok(replies),
                false => Err(format!("{replies:?}")),
            }
        })
    }
}

fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}
