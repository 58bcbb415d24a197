//! The choice among feasible nodes, by the rules and weights of kube-scheduler's default profile.
//!
//! <https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins>

use json_tree::{Value, json};

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
    // The image is too small for points.
    let small = json!({"nodes": {"a": {}, "b": with_image(20)}});
    check(small, of_image("db"), "bind a");
    // Free resources for the pod give more points.
    let busy =
        json!({"nodes": {"a": {}, "b": with_image(900)}, "pods": {"x": on_node("b", "1900m")}});
    check(busy, of_image("db"), "bind a");
    // Two containers with one image count it twice, and have twice the maximum.
    let two = json!({"containers": [{"name": "a", "image": "db"}, {"name": "b", "image": "db"}]});
    check(
        json!({"nodes": {"a": {}, "b": with_image(900)}}),
        two,
        "bind b",
    );
}

fn uses(node: &str, cpu: &str, memory: &str) -> Value {
    json!({"spec": {"nodeName": node, "containers": [{"name": "a", "resources":
        {"requests": {"cpu": cpu, "memory": memory}}}]}})
}

// NodeResourcesBalancedAllocation: the node whose use the pod makes more even is preferred.
#[test]
fn cpu_and_memory_are_used_evenly() {
    // `a` has an equal sum of used shares, but all of one resource.
    let objects = json!({"nodes": {"a": {}, "b": {}},
        "pods": {"x": uses("a", "1", "0"), "y": uses("b", "500m", "1Gi")}});
    check(objects.clone(), asks("0", "2Gi"), "bind a");
    // A pod without requests does not change the use, so free resources and the name decide.
    check(objects, json!({}), "bind a");
    // `b` is even with the pod, but was already even; `a` becomes even.
    let objects = json!({"nodes": {"a": {}, "b": {}},
        "pods": {"x": uses("a", "500m", "0"), "y": uses("b", "250m", "512Mi")}});
    check(objects, asks("0", "1Gi"), "bind a");
}

// NodeResourcesFit with LeastAllocated: a container without requests counts as 100m and 200Mi.
#[test]
fn pods_without_requests_take_room_in_the_score() {
    let nothing = |node: &str| json!({"spec": {"nodeName": node, "containers": [{"name": "a"}]}});
    let zero = |node: &str| uses(node, "0", "0");
    let nodes = json!({"a": {}, "b": {}});
    let case = |pods: Value| json!({"nodes": nodes, "pods": pods});
    check(case(json!({"x": nothing("a")})), json!({}), "bind b");
    check(
        case(json!({"x": nothing("a"), "y": uses("b", "60m", "120Mi")})),
        json!({}),
        "bind b",
    );
    check(
        case(json!({"x": nothing("a"), "y": uses("b", "140m", "280Mi")})),
        json!({}),
        "bind a",
    );
    // A request of zero counts as a request; then the number of pods decides.
    check(case(json!({"x": zero("a")})), json!({}), "bind b");
    check(
        case(json!({"x": zero("a"), "y": zero("b"), "z": zero("b")})),
        json!({}),
        "bind a",
    );
}

// TaintToleration: the number of untolerated taints, in proportion to the maximum of all nodes.
#[test]
fn discouraging_taints_count_by_their_number() {
    let tainted = |keys: &[&str]| {
        let taints: Vec<Value> = keys
            .iter()
            .map(|key| json!({"key": key, "effect": "PreferNoSchedule"}))
            .collect();
        json!({"spec": {"taints": taints}})
    };
    let nodes = json!({"nodes": {"a": tainted(&["k", "l"]), "b": tainted(&["k"])}});
    check(nodes.clone(), json!({}), "bind b");
    let tolerating = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
    check(nodes.clone(), tolerating("l"), "bind a");
    check(nodes.clone(), tolerating("k"), "bind b");
    check(
        nodes,
        json!({"tolerations": [{"operator": "Exists"}]}),
        "bind a",
    );
}

#[test]
fn weights_are_those_of_the_default_profile() {
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    // A taint has three times the weight of free resources, and more than a preference, which has twice the weight.
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
