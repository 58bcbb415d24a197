//! A link between a node and its server that passes packets in one direction only.

use std::mem::swap;

use end_to_end::wait_for_text;

use super::{Machines, SHORT_LEASE, fenced, runs, wait_for_pod, wait_node_ready};

/// The first node does not reach the server, but the server reaches the node; then the server does not reach the second
/// node, which reaches the server. Each node loses its pod to the other node, and accepts pods when the link is
/// repaired.
#[test]
fn a_node_whose_link_is_half_open_loses_its_pods_to_another_node() {
    let mut machines = Machines::new();
    let mut running_pods = machines.join_with_pod(&SHORT_LEASE);
    let kubectl = machines.server.kubectl();
    machines.join(1, &SHORT_LEASE);
    let server = machines.server.machine();
    for (lost, name, other) in [(0, "n1", "n2"), (1, "n2", "n1")] {
        let (mut from, mut to) = (machines.nodes[lost].machine(), server);
        if lost == 1 {
            swap(&mut from, &mut to);
        }
        let old = running_pods.0["ticks-0"].last().expect("a body").clone();
        assert!(runs(&old));
        from.lose(to);
        server.network.run(|| {
            wait_for_pod(&kubectl, &mut running_pods, "ticks-0", other);
            assert!(!runs(&old));
            wait_for_text(name, 120, || fenced(&kubectl));
        });
        from.find(to);
        server.network.run(|| {
            wait_node_ready(&kubectl, name);
            running_pods.read(&kubectl).expect("the pods");
        });
    }
    assert_eq!(running_pods.0["ticks-0"].len(), 3, "it was replaced twice");
    machines.shut_down();
}
