//! `mainstay up --nodes`: three nodes on one machine, pods that start and end on them, and the failover of a set from a
//! node without a link (docs/many-machines.md, docs/node-failure.md).

mod placement;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use end_to_end::cluster::is_ready;
use end_to_end::lan::ip;
use end_to_end::program::ok;
use end_to_end::{Instance, Kubectl, Network, text, wait_for, wait_for_text};
use serde_json::Value;

const SPREAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/spread.yaml");

/// Pods that stay with their node, because their set has no failover annotation.
const WAITS: &str = r"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: waits}
spec:
  serviceName: waits
  selector: {matchLabels: {app: waits}}
  template:
    metadata: {labels: {app: waits}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {kubernetes.io/hostname: NODE}
      containers: [{name: hello, image: mainstay/hello}]
";

#[test]
fn a_set_spreads_over_nodes_and_leaves_a_lost_one() {
    let mut instance = Instance::start(&["--nodes", "3", "-f", SPREAD]);
    let kubectl = instance.kubectl();
    kubectl.wait_ready("spread", 4);
    let nodes = names(&kubectl.json(&["get", "nodes"]));
    let nodes_of_pods: Vec<String> = (0..4).map(|ordinal| node_of(&kubectl, ordinal)).collect();
    let different: BTreeSet<String> = nodes_of_pods.iter().cloned().collect();
    assert_eq!(different, nodes, "one on each node");
    for ordinal in 0..4 {
        let pod = format!("spread-{ordinal}");
        // The node may still wait for its serving certificate.
        wait_for(&format!("exec in {pod}"), 60, || {
            let output = kubectl.run(&["exec", &pod, "--", "hostname"]);
            let is_there = output.stdout.trim() == pod;
            if is_there { Ok(()) } else { Err(output) }
        });
        let other = format!("http://spread-{}.spread/healthz", (ordinal + 1) % 4);
        let command = ["exec", &pod, "--", "wget", "-qO-", "-T", "60", &other];
        // The DNS server of the pod's node may not have the name yet.
        wait_for(&format!("{pod} to reach {other}"), 60, || {
            let output = kubectl.run(&command);
            let is_reached = output.stdout.trim() == "ok";
            if is_reached { Ok(()) } else { Err(output) }
        });
    }
    let lost = nodes.last().expect("three nodes").clone();
    placement::pods_come_and_go(&kubectl, &lost);
    // The taint has evicted the set's pod as well, and only a new pod can start there.
    let away = (0..4).find(|ordinal| nodes_of_pods[*ordinal] == lost);
    let away = format!("spread-{}", away.expect("a pod on each node"));
    kubectl.ok(&["delete", "pod", &away]);
    wait_for("a pod of the set on each node", 120, || {
        let pods = items(&kubectl.json(&["get", "pods", "-l", "app=spread"]));
        let stays = |pod: &&Value| is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null();
        let used_nodes = pods.iter().filter(stays);
        let used_nodes = used_nodes.map(|pod| text(pod, "/spec/nodeName").to_owned());
        match used_nodes.collect::<BTreeSet<_>>() == nodes {
            true => Ok(()),
            false => Err(pods),
        }
    });
    kubectl.wait_ready("spread", 4);
    kubectl.apply(&WAITS.replace("NODE", &lost));
    kubectl.wait_ready("waits", 1);
    a_lost_node_is_fenced(&instance, &kubectl, &lost);
    let data = instance.data();
    let switch = data.join("namespaces");
    instance.interrupt();
    assert!(!switch.exists(), "the namespaces stay");
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let data = data.display().to_string();
    assert!(!mounts.contains(&data), "{mounts}");
}

/// The pods of the set run elsewhere after the old containers have ended; the other pod waits, and continues when the
/// node returns.
fn a_lost_node_is_fenced(instance: &Instance, kubectl: &Kubectl, lost: &str) {
    let on_lost = |pods: Vec<Value>| {
        pods.into_iter()
            .find(|pod| pod["spec"]["nodeName"] == *lost)
    };
    let pods = |app: &str| items(&kubectl.json(&["get", "pods", "-l", &format!("app={app}")]));
    let old = on_lost(pods("spread")).expect("a pod of the set");
    let (name, uid) = (text(&old, "/metadata/name"), text(&old, "/metadata/uid"));
    let waiting = on_lost(pods("waits")).expect("a pod");
    let waits = text(&waiting, "/metadata/uid");
    assert!(has_processes(uid) && has_processes(waits));
    let port = format!("node-{}", lost.rsplit('-').next().expect("a number"));
    set_link(&instance.data(), &port, "down");
    wait_for("the pod on another node", 120, || {
        // For a moment there is no pod of this name.
        let mut all = pods("spread").into_iter();
        let now = all.find(|pod| text(pod, "/metadata/name") == name);
        let now = now.unwrap_or_default();
        // Two containers of one ordinal never run concurrently.
        let is_old = now.is_null() || now["metadata"]["uid"] == *uid;
        assert!(is_old || !has_processes(uid));
        match !is_old && now["spec"]["nodeName"] != *lost && is_ready(&now) {
            true => Ok(()),
            false => Err(now),
        }
    });
    let fenced = [
        "get",
        "events",
        "-A",
        "--field-selector",
        "reason=NodeFenced",
    ];
    wait_for_text(lost, 60, || kubectl.ok(&fenced));
    let data = instance.data().display().to_string();
    let why = ["why", "--data-dir", &data, "pod/waits-0"];
    wait_for_text(lost, 60, || ok(&why));
    assert!(has_processes(waits), "a pod without the annotation goes on");
    set_link(&instance.data(), &port, "up");
    wait_for("the node to be back", 120, || {
        let node = kubectl.get(&["node", lost])?;
        match is_ready(&node) {
            true => Ok(()),
            false => Err(node["status"]["conditions"].to_string()),
        }
    });
    kubectl.wait_ready("waits", 1);
    assert_eq!(text(&kubectl.pod("waits-0"), "/metadata/uid"), waits);
}

/// Enables or disables the link of a node at the switch.
fn set_link(data: &Path, port: &str, state: &str) {
    let switch = data.join("namespaces/switch");
    Network::at(&switch).run(|| ip(&format!("link set {port} {state}")));
}

/// Whether a process of the pod runs.
fn has_processes(uid: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("read /proc");
    let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    pids.any(|pid| {
        let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("cgroup").contains(uid) && read("cmdline").contains("hello")
    })
}

fn node_of(kubectl: &Kubectl, ordinal: usize) -> String {
    let pod = kubectl.pod(&format!("spread-{ordinal}"));
    text(&pod, "/spec/nodeName").to_owned()
}

fn names(list: &Value) -> BTreeSet<String> {
    items(list)
        .iter()
        .map(|item| text(item, "/metadata/name").to_owned())
        .collect()
}

fn items(list: &Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}
