//! The addresses of machines change (docs/many-machines.md, "Addresses that change").

use std::fs;
use std::mem;
use std::path::Path;

use end_to_end::lan::{Role, ip};
use end_to_end::{Kubectl, text, wait_for, wait_for_text};
use serde_json::{Value, json};

use super::{Machines, fenced, get, wait_node_ready};
use crate::nodes::{WEB, client_reaches, pods_reach_each_other};

/// Changes the address of a role's machine.
fn change_address(role: &mut Role, to: &str) {
    let from = mem::replace(&mut role.address, to.to_owned());
    role.network.run(|| {
        ip(&format!("address del {from}/24 dev eth0"));
        ip(&format!("address add {to}/24 dev eth0"));
    });
}

/// UID, node, address, container and restarts of each pod, which do not change with the machine's address.
fn identities(kubectl: &Kubectl) -> Vec<Value> {
    let pod = |name: &str| {
        let pod = kubectl.pod(name);
        let container = &pod["status"]["containerStatuses"][0];
        json!([
            text(&pod, "/metadata/uid"),
            text(&pod, "/spec/nodeName"),
            text(&pod, "/status/podIP"),
            container["containerID"],
            container["restartCount"],
        ])
    };
    vec![pod("web-0"), pod("web-1")]
}

#[track_caller]
fn wait_for_address(kubectl: &Kubectl, node: &str, address: &str) {
    wait_for(&format!("{node} to have {address}"), 120, || {
        let node = get(kubectl, &["node", node])?;
        let addresses = &node["status"]["addresses"];
        match addresses[0]["address"] == *address {
            true => Ok(()),
            false => Err(addresses.to_string()),
        }
    });
}

/// A server and two nodes with a pod each.
fn with_pods() -> (Machines, Kubectl, Vec<Value>) {
    let mut machines = Machines::new();
    machines.join(0, &[]);
    machines.join(1, &[]);
    let kubectl = machines.server.kubectl();
    let before = machines.server.network.run(|| {
        kubectl.apply(WEB);
        kubectl.wait_ready("web", 2);
        pods_reach_each_other(&kubectl);
        identities(&kubectl)
    });
    (machines, kubectl, before)
}

/// The Node object, the certificate, and the routes of the other node follow.
#[test]
fn a_node_with_another_address_keeps_its_pods() {
    let (mut machines, kubectl, before) = with_pods();
    change_address(&mut machines.nodes[0], "192.0.2.22");
    let directory = tempfile::tempdir().expect("make a directory");
    machines.server.network.run(|| {
        wait_for_address(&kubectl, "n1", "192.0.2.22");
        let message = "Node n1 has the address 192.0.2.22; it was 192.0.2.2";
        wait_for_text(message, 120, || kubectl.ok(&["describe", "node", "n1"]));
        pods_reach_each_other(&kubectl);
        for pod in ["web-0", "web-1"] {
            client_reaches(&kubectl, pod, directory.path());
        }
        wait_node_ready(&kubectl, "n1");
        assert_eq!(identities(&kubectl), before);
        assert_eq!(fenced(&kubectl), "", "no node was lost");
    });
    // Requests do not wait for responses to the former address.
    let output = machines.nodes[0].output();
    assert!(!output.contains("nothing was sent for"), "{output}");
    machines.shut_down();
}

/// Announced: the server has both addresses for a while, and is started with the new address, which its nodes learn.
#[test]
fn nodes_follow_a_server_that_is_moved_with_notice() {
    let (mut machines, kubectl, before) = with_pods();
    let server = &mut machines.server;
    server.network.run(|| {
        // The second address stays when the first is removed.
        let promote = "/proc/sys/net/ipv4/conf/eth0/promote_secondaries";
        fs::write(promote, "1").expect("set an option of the link");
        ip("address add 192.0.2.91/24 dev eth0");
    });
    server.interrupt();
    server.start(&["server", "--advertise-address", "192.0.2.91"]);
    for node in &machines.nodes {
        let membership = Path::new(&node.data()).join("node/membership.json");
        wait_for_text("https://192.0.2.91:6443", 120, || {
            fs::read_to_string(&membership).unwrap_or_default()
        });
    }
    let server = &mut machines.server;
    let old = mem::replace(&mut server.address, "192.0.2.91".to_owned());
    let command = format!("address del {old}/24 dev eth0");
    server.network.run(|| ip(&command));
    for node in &machines.nodes {
        wait_for_text("goes to another server", 120, || node.output());
    }
    server_is_followed(&machines, &kubectl, &before);
    machines.shut_down();
}

/// Unannounced: the nodes do not find the server, and their pods continue; each agent is started once with the new
/// address, and needs no token.
#[test]
fn nodes_are_told_the_new_address_of_their_server() {
    let (mut machines, kubectl, before) = with_pods();
    change_address(&mut machines.server, "192.0.2.91");
    machines.server.interrupt();
    machines.server.start(&["server"]);
    let url = machines.server.url();
    for node in &mut machines.nodes {
        node.kill();
        node.start(&["node", "--server", &url]);
    }
    server_is_followed(&machines, &kubectl, &before);
    machines.shut_down();
}

/// The nodes are Ready with the new address of the server, and their pods have not changed.
fn server_is_followed(machines: &Machines, kubectl: &Kubectl, before: &[Value]) {
    let directory = tempfile::tempdir().expect("make a directory");
    machines.server.network.run(|| {
        for node in ["n1", "n2"] {
            wait_node_ready(kubectl, node);
        }
        // The pods also reach the API.
        pods_reach_each_other(kubectl);
        for pod in ["web-0", "web-1"] {
            client_reaches(kubectl, pod, directory.path());
        }
        assert_eq!(identities(kubectl), before);
        assert_eq!(fenced(kubectl), "", "no node was lost");
    });
}
