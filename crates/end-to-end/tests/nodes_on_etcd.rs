//! Three nodes of three servers over one etcd (docs/high-availability.md): the server to which an agent is connected is
//! killed; pods continue without a restart, and the node executes requests through another server.

use std::fs;

use end_to_end::lan::Role;
use end_to_end::servers::ServersOnEtcd;
use end_to_end::{Kubectl, text, wait_for};
use serde_json::Value;

use crate::nodes::WEB;

const COUNT: usize = 3;
const PORT: u16 = 6443;

/// The servers to which a node is connected.
fn talks_to(node: &Role, servers: &[Role]) -> Vec<usize> {
    let table = node
        .network
        .run(|| fs::read_to_string("/proc/thread-self/net/tcp"));
    let table = table.expect("read the connections");
    // Remote address and state; the state 01 is ESTABLISHED (proc_net_tcp in the kernel's documentation).
    let connected = |address: &str| {
        let address: std::net::Ipv4Addr = address.parse().expect("an address");
        let remote = format!("{:08X}:{PORT:04X}", u32::from_le_bytes(address.octets()));
        table.lines().any(|line| {
            let mut words = line.split_whitespace().skip(2);
            words.next() == Some(&remote) && words.next() == Some("01")
        })
    };
    let numbers = 0..servers.len();
    numbers
        .filter(|number| connected(&servers[*number].address))
        .collect()
}

/// The running containers of the pods: UID, node, id and restarts of the container.
fn running_pods(kubectl: &Kubectl) -> Vec<(String, String, Value, Value)> {
    let pods = (0..COUNT).map(|number| kubectl.pod(&format!("web-{number}")));
    pods.map(|pod| {
        let container = &pod["status"]["containerStatuses"][0];
        (
            text(&pod, "/metadata/uid").to_owned(),
            text(&pod, "/spec/nodeName").to_owned(),
            container["containerID"].clone(),
            container["restartCount"].clone(),
        )
    })
    .collect()
}

fn all_can_be_entered(kubectl: &Kubectl) {
    for number in 0..COUNT {
        let pod = format!("web-{number}");
        wait_for(&format!("a command in {pod}"), 60, || {
            match kubectl.run(&["exec", &pod, "--", "hostname"]) {
                output if output.stdout.trim() == pod => Ok(()),
                output => Err(output),
            }
        });
    }
}

/// The last renewal of a node's Lease.
fn renewal(kubectl: &Kubectl, node: &str) -> String {
    let output = "--output=jsonpath={.spec.renewTime}";
    kubectl.ok(&["get", "lease", node, "--namespace=kube-node-lease", output])
}

#[test]
fn nodes_go_on_when_their_server_dies() {
    let mut machines = ServersOnEtcd::of(&["a", "b", "c"]);
    machines.etcd.wait_until_ready();
    for server in 0..COUNT {
        machines.start_as_member(server);
    }
    let urls: Vec<String> = machines.servers.iter().map(Role::url).collect();
    let token = machines.servers[0].token(&[]);
    let mut nodes = Vec::new();
    for number in 0..COUNT {
        let name = format!("n{number}");
        let mut node = Role::new(&mut machines.lan, &name, machines.directory.path());
        let mut server_urls = urls.clone();
        server_urls.rotate_left(number);
        let server_urls = server_urls.join(",");
        let join = [
            "--server",
            &server_urls,
            "--token",
            &token,
            "--node-name",
            &name,
        ];
        node.start(&[&["node"], &join[..]].concat());
        nodes.push(node);
    }
    let before = machines.at(0, |kubectl| {
        kubectl.apply(&WEB.replace("replicas: 2", &format!("replicas: {COUNT}")));
        kubectl.wait_ready("web", COUNT as u64);
        all_can_be_entered(kubectl);
        running_pods(kubectl)
    });

    let used = talks_to(&nodes[0], &machines.servers);
    let killed = *used.first().expect("a connection with a server");
    machines.servers[killed].kill();
    let other = (killed + 1) % COUNT;
    wait_for("the agent at another server", 60, || {
        let now = talks_to(&nodes[0], &machines.servers);
        match now.iter().any(|server| *server != killed) {
            true => Ok(()),
            false => Err(now),
        }
    });
    machines.at(other, |kubectl| {
        for node in ["n0", "n1", "n2"] {
            let first = renewal(kubectl, node);
            wait_for(&format!("a renewal of {node}"), 60, || {
                match renewal(kubectl, node) {
                    now if now != first => Ok(()),
                    now => Err(now),
                }
            });
        }
        all_can_be_entered(kubectl);
        assert_eq!(running_pods(kubectl), before);
        // The node of that agent executes requests.
        let on_node = before.iter().position(|(_, node, ..)| node == "n0");
        let pod = format!("web-{}", on_node.expect("a pod on the node"));
        kubectl.ok(&["delete", "pod", &pod]);
        kubectl.wait_ready("web", COUNT as u64);
        let now = running_pods(kubectl);
        let unchanged = now.iter().filter(|body| before.contains(body));
        assert_eq!(unchanged.count(), COUNT - 1, "{now:?}");
        all_can_be_entered(kubectl);
    });

    // The server is restarted, and another server is killed.
    machines.start_as_member(killed);
    machines.servers[other].interrupt();
    machines.at(killed, all_can_be_entered);
    for node in &mut nodes {
        node.interrupt();
    }
}
