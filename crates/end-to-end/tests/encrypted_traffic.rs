//! `--encrypt-pod-traffic` (docs/many-machines.md): refused by a kernel without WireGuard; and in the virtual machine,
//! whose kernel has WireGuard, two nodes that encrypt and one node that does not.

use std::fs;
use std::path::Path;
use std::process::Command;

use end_to_end::lan::{Lan, Role};
use end_to_end::{Kubectl, Network, wait_for, wait_for_text};

/// A pod on each of the three nodes.
const PODS: &str = r"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: mainstay/hello}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

const OPTION: &str = "--encrypt-pod-traffic";
const KEY: &str = r"jsonpath={.metadata.annotations.node\.mainstay\.dev/wireguard-public-key}";

/// Whether the kernel supports WireGuard devices. The kernel of the virtual machine must support them.
fn has_wireguard() -> bool {
    if std::env::var_os("MAINSTAY_KERNEL_HAS_WIREGUARD").is_some() {
        return true;
    }
    let make = ["link", "add", "wg0", "type", "wireguard"];
    let output = Network::isolated().run(|| Command::new("ip").args(make).output());
    output.expect("run ip").status.success()
}

#[test]
fn a_kernel_without_wireguard_is_refused_before_anything_changes() {
    if has_wireguard() {
        return;
    }
    let directory = tempfile::tempdir().expect("make a directory");
    let mut lan = Lan::default();
    let mut role = Role::new(&mut lan, "refused", directory.path());
    let join = ["node", OPTION, "--server", "https://192.0.2.9:6443"];
    for arguments in [
        &["server", "--with-node", OPTION][..],
        &["up", OPTION],
        &["up", "--nodes=3", OPTION],
        &join,
    ] {
        let output = role.refused(arguments);
        assert!(
            output.contains("has no WireGuard"),
            "{arguments:?}: {output}"
        );
        assert!(output.contains("modprobe wireguard"), "{output}");
        assert!(!Path::new(&role.data()).exists(), "{arguments:?}: {output}");
    }
}

#[test]
fn nodes_exchange_encrypted_packets_or_none() {
    if !has_wireguard() {
        return;
    }
    let directory = tempfile::Builder::new().prefix("mainstay-test-").tempdir();
    let directory = directory.expect("make a directory");
    let mut lan = Lan::default();
    let mut role = |name| Role::new(&mut lan, name, directory.path());
    let (mut server, mut nodes) = (role("server"), [role("n1"), role("n2"), role("n3")]);
    server.start(&["server"]);
    let (url, token, kubectl) = (server.url(), server.token(&[]), server.kubectl());
    let options = [&[OPTION, "--on-stop=leave-pods"][..], &[OPTION], &[]];
    for ((node, name), more) in nodes.iter_mut().zip(["n1", "n2", "n3"]).zip(options) {
        let join = [
            "node",
            "--server",
            &url,
            "--token",
            &token,
            "--node-name",
            name,
        ];
        node.start(&[&join[..], more].concat());
    }
    let pods = server.network.run(|| {
        kubectl.apply(PODS);
        kubectl.ok(&["rollout", "status", "daemonset/web", "--timeout=600s"]);
        ["n1", "n2", "n3"].map(|node| Pod::on(&kubectl, node))
    });
    let [one, two, plain] = &pods;
    server.network.run(|| {
        one.reaches(&kubectl, two);
        two.reaches(&kubectl, one);
        let mtu = kubectl.ok(&["exec", &one.name, "--", "cat", "/sys/class/net/eth0/mtu"]);
        assert_eq!(mtu.trim(), "1420");
        for (from, to) in [(one, plain), (plain, one), (two, plain), (plain, two)] {
            from.does_not_reach(&kubectl, to);
        }
        // Both sides report the error.
        for part in [
            "Node n1 has no route to the pods of node n3: this node encrypts",
            "Node n3 has no route to the pods of node n1: it encrypts",
        ] {
            wait_for_text(part, 60, || kubectl.ok(&["get", "events", "-A"]));
        }
        assert!(kubectl.ok(&["get", "node", "n3", "-o", KEY]).is_empty());
    });
    let key = || {
        server
            .network
            .run(|| kubectl.ok(&["get", "node", "n1", "-o", KEY]))
    };
    let before = key();
    server.network.run(|| {
        // A wrong annotation by an administrator is corrected.
        let wrong = "node.mainstay.dev/wireguard-public-key=x";
        kubectl.ok(&["annotate", "node", "n1", "--overwrite", wrong]);
    });
    wait_for("the node to write its key again", 60, || {
        match key() == before {
            true => Ok(()),
            false => Err(key()),
        }
    });
    nodes[0].kill();
    let file = Path::new(&nodes[0].data()).join("network/wireguard-private-key");
    fs::remove_file(file).expect("remove the key");
    nodes[0].start(&["node", OPTION]);
    wait_for("another key", 60, || match key() != before {
        true => Ok(()),
        false => Err(key()),
    });
    server.network.run(|| {
        one.reaches(&kubectl, two);
        two.reaches(&kubectl, one);
        plain.does_not_reach(&kubectl, one);
    });
    for node in &mut nodes {
        node.interrupt();
    }
    server.interrupt();
}

struct Pod {
    name: String,
    ip: String,
}

impl Pod {
    fn on(kubectl: &Kubectl, node: &str) -> Self {
        let selector = format!("spec.nodeName={node}");
        let path = "jsonpath={.items[0].metadata.name} {.items[0].status.podIP}";
        let pod_name = kubectl.ok(&["get", "pods", "--field-selector", &selector, "-o", path]);
        let (name, ip) = pod_name.split_once(' ').expect("a name and an address");
        Self {
            name: name.to_owned(),
            ip: ip.to_owned(),
        }
    }

    fn curl(&self, kubectl: &Kubectl, to: &Self) -> String {
        let url = format!("http://{}/", to.ip);
        let curl = ["exec", &self.name, "--", "curl", "-s", "-m", "5", &url];
        let output = kubectl.run(&curl);
        output.stdout + &output.stderr
    }

    fn reaches(&self, kubectl: &Kubectl, to: &Self) {
        wait_for_text(&to.name, 120, || self.curl(kubectl, to));
    }

    fn does_not_reach(&self, kubectl: &Kubectl, to: &Self) {
        let output = self.curl(kubectl, to);
        // The message of curl, which has run.
        assert!(output.contains("terminated with exit code"), "{output}");
    }
}
