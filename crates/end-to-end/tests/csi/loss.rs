//! A node that is lost with an attached volume.

use std::time::Instant;

use end_to_end::cluster::is_ready;
use end_to_end::csi::set;
use end_to_end::lan::ip;
use end_to_end::{Network, text, wait_for, wait_for_or_report};
use serde_json::json;

use super::Harness;

/// Waits for the capacity of a node: the scheduler does not choose a node whose free storage is unknown.
fn wait_for_capacity(harness: &Harness, node: &str) {
    wait_for("the free storage of the node", 60, || {
        let list = harness
            .kubectl
            .get(&["csistoragecapacities", "-n", "csi"])?;
        let items = list["items"].as_array().into_iter().flatten();
        let mut of_class = items.filter(|capacity| capacity["storageClassName"] == "disks");
        let node = format!("\"{node}\"");
        match of_class.any(|capacity| capacity["nodeTopology"].to_string().contains(&node)) {
            true => Ok(()),
            false => Err(list.to_string()),
        }
    });
}

/// The set moves with its volume, which is detached from the lost node only after its fence, and is never attached to
/// both nodes.
#[test]
fn a_volume_follows_its_set_from_a_lost_node() {
    let harness = Harness::start(2, 0);
    let first = end_to_end::csi::first_node(&harness.kubectl, 2).expect("two nodes");
    let nodes = harness.kubectl.json(&["get", "nodes"]);
    let nodes = nodes["items"].as_array().expect("nodes").iter();
    let mut nodes = nodes.map(|node| text(node, "/metadata/name"));
    let lost = nodes
        .find(|name| *name != first)
        .expect("another node")
        .to_owned();
    wait_for_capacity(&harness, &lost);
    let prefer = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100, "preference": {"matchExpressions": [{
            "key": "kubernetes.io/hostname", "operator": "In", "values": [lost]}]}}]}});
    let more = json!({"metadata": {"annotations": {"mainstay.dev/node-failure": "Failover"}},
        "spec": {"template": {"spec": {"affinity": prefer}}}});
    harness
        .kubectl
        .apply(&set("db", 1, "disks", more).to_string());
    harness.kubectl.wait_ready("db", 1);
    // Another set waits for its node, and keeps its volume.
    let here = json!({"spec": {"template": {"spec": {"affinity": prefer}}}});
    harness
        .kubectl
        .apply(&set("waits", 1, "disks", here).to_string());
    harness.kubectl.wait_ready("waits", 1);
    let waits = harness.kubectl.pod("waits-0");
    assert_eq!(text(&waits, "/spec/nodeName"), lost);
    let before = harness.kubectl.pod("db-0");
    assert_eq!(text(&before, "/spec/nodeName"), lost);
    let keep = "echo kept >/data/file && sync";
    harness
        .kubectl
        .ok(&["exec", "db-0", "--", "sh", "-c", keep]);

    let switch = harness.instance.data().join("namespaces/switch");
    let port = format!("node-{}", lost.rsplit('-').next().expect("a number"));
    let link = |state: &str| {
        Network::at(&switch).run(|| ip(&format!("link set {port} {state}")));
    };
    link("down");
    let started = Instant::now();
    let moved = || {
        let pod = harness.kubectl.get(&["pod", "db-0"])?;
        let is_new = pod["metadata"]["uid"] != before["metadata"]["uid"];
        match is_new && is_ready(&pod) && pod["spec"]["nodeName"] == first.as_str() {
            true => Ok(()),
            false => Err(pod["status"].to_string()),
        }
    };
    let describe = || {
        let all = ["get", "pods,volumeattachments,events", "-A", "-o", "wide"];
        harness.kubectl.run(&all).stdout
    };
    wait_for_or_report("the set on the other node", 180, moved, describe);
    eprintln!(
        "a set with an attached volume was ready on another node after {:?}",
        started.elapsed()
    );
    let survivor = harness
        .kubectl
        .ok(&["exec", "db-0", "--", "cat", "/data/file"]);
    assert_eq!(survivor, "kept\n");
    let uses = harness.check_journal();
    let mut nodes: Vec<&String> = uses.attached.values().collect();
    nodes.sort_by_key(|name| name.len());
    assert_eq!(nodes, [&first, &lost]);

    // The node that returns has no remains of the moved volume, and still has the other volume.
    link("up");
    let clean = || {
        let uses = harness.check_journal();
        let left = uses.mounted.keys().filter(|(node, _)| *node == lost);
        let left: Vec<_> = left.collect();
        match left.len() {
            2 => Ok(()),
            _ => Err(format!("{left:?}")),
        }
    };
    wait_for_or_report("the mounts of the lost node to go", 120, clean, describe);
    harness.kubectl.wait_ready("waits", 1);
    let now = harness.kubectl.pod("waits-0");
    assert_eq!(now["metadata"]["uid"], waits["metadata"]["uid"]);
    let sets = ["delete", "statefulset", "db", "waits", "--timeout=240s"];
    harness.kubectl.ok(&sets);
    let claims = ["data-db-0", "data-waits-0", "--timeout=240s"];
    harness
        .kubectl
        .ok(&[&["delete", "pvc"][..], &claims].concat());
    harness.wait_deleted();
}
