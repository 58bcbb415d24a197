//! The choice among feasible nodes, by the rules and weights of kube-scheduler's default profile.

use serde_json::{Value, json};

use crate::{asks, check, on_node};

fn with_image(mebibytes: i64) -> Value {
    json!({"status": {
        "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"},
        "images": [{"names": ["db@sha256:0", "db:latest"], "sizeBytes": mebibytes << 20}]}})
}

fn of_image(image: &str) -> Value {
    json!({"containers": [{"name": "a", "image": image}]})
}

#[test]
fn a_node_with_the_image_is_preferred() {
    let nodes = json!({"nodes": {"a": {}, "b": with_image(900)}});
    check(nodes.clone(), of_image("db:latest"), "bind b");
    check(nodes.clone(), of_image("db"), "bind b");
    check(nodes, of_image("other"), "bind a");
    // Not worth a preference.
    let small = json!({"nodes": {"a": {}, "b": with_image(20)}});
    check(small, of_image("db"), "bind a");
    // Room for the pod is worth more.
    let busy =
        json!({"nodes": {"a": {}, "b": with_image(900)}, "pods": {"x": on_node("b", "1500m")}});
    check(busy, of_image("db"), "bind a");
}

#[test]
fn cpu_and_memory_are_used_evenly() {
    let uses = |node: &str, cpu: &str, memory: &str| {
        json!({"spec": {"nodeName": node, "containers": [{"name": "a", "resources":
            {"requests": {"cpu": cpu, "memory": memory}}}]}})
    };
    // `a` has used as much in sum, and all of it of one resource.
    let objects = json!({"nodes": {"a": {}, "b": {}},
        "pods": {"x": uses("a", "1", "0"), "y": uses("b", "500m", "1Gi")}});
    check(objects.clone(), json!({}), "bind b");
    check(objects, asks("0", "2Gi"), "bind a");
}

#[test]
fn weights_are_those_of_the_default_profile() {
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    // A taint weighs three times as much as room, and more than a preference, which weighs twice as much.
    let objects = json!({"nodes": {"a": soft, "b": {}}, "pods": {"x": on_node("b", "1500m")}});
    check(objects.clone(), json!({}), "bind b");
    let prefers = |node: &str| {
        let term = json!({"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": term}]}}})
    };
    check(objects, prefers("a"), "bind b");
    let full = json!({"nodes": {"a": {}, "b": {}}, "pods": {"x": on_node("b", "1900m")}});
    check(full, prefers("b"), "bind b");
}
