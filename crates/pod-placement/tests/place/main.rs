//! Scheduling decisions, situation by situation (statefulset.md §11, kubectl.md 9).

mod affinity;
mod attach_limits;
mod claims;
mod scores;
mod spread;
mod storage_capacity;

use std::sync::Arc;

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, Pod};
use pod_placement::{ClaimStep, ClusterView, PlacementDecision, place};
use resource_kinds::pod_view::PodView;

/// Objects by kind; names, namespaces and defaults are filled in.
fn view(objects: Value) -> ClusterView {
    let mut view = ClusterView::default();
    let named = |kind: &str| -> Vec<(String, Value)> {
        let all = objects[kind].as_object().cloned().unwrap_or_default();
        all.into_iter()
            .map(|(name, mut object)| {
                object["metadata"]["name"] = name.clone().into();
                object["metadata"]["uid"] = format!("uid-{name}").into();
                (name, object)
            })
            .collect()
    };
    let read = "a well-formed object";
    for (name, mut node) in named("nodes") {
        node["metadata"]["labels"]["kubernetes.io/hostname"] = name.clone().into();
        if node["status"].is_null() {
            node["status"] = json!({"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}});
        }
        let node: Node = json_tree::from_value(node).expect(read);
        view.nodes.insert(name, node.into());
    }
    for (name, namespace) in named("namespaces") {
        view.namespaces.insert(
            name,
            Arc::new(json_tree::from_value(namespace).expect(read)),
        );
    }
    for (name, mut service) in named("services") {
        service["metadata"]["namespace"] = "default".into();
        let key = ("default".to_owned(), name);
        view.services
            .insert(key, Arc::new(json_tree::from_value(service).expect(read)));
    }
    for (_, mut pod) in named("pods") {
        if pod["metadata"]["namespace"].is_null() {
            pod["metadata"]["namespace"] = "default".into();
        }
        pod["metadata"]["resourceVersion"] = "1".into();
        let pod: Pod = json_tree::from_value(pod).expect(read);
        view.pods.push(Arc::new(pod.try_into().expect(read)));
    }
    for (name, mut claim) in named("claims") {
        claim["metadata"]["namespace"] = "default".into();
        let key = ("default".to_owned(), name);
        view.claims
            .insert(key, Arc::new(json_tree::from_value(claim).expect(read)));
    }
    for (name, volume) in named("volumes") {
        view.volumes
            .insert(name, Arc::new(json_tree::from_value(volume).expect(read)));
    }
    for (name, class) in named("classes") {
        view.classes
            .insert(name, Arc::new(json_tree::from_value(class).expect(read)));
    }
    for (name, driver) in named("drivers") {
        view.drivers
            .insert(name, Arc::new(json_tree::from_value(driver).expect(read)));
    }
    for (name, capacity) in named("capacities") {
        let key = ("kube-system".to_owned(), name);
        view.capacities
            .insert(key, Arc::new(json_tree::from_value(capacity).expect(read)));
    }
    // Refusals are not objects: they are names of nodes, by claim.
    for (name, nodes) in objects["refusals"].as_object().into_iter().flatten() {
        let key = ("default".to_owned(), name.clone());
        view.refusals
            .insert(key, json_tree::from_value(nodes.clone()).expect(read));
    }
    for (name, csi_node) in named("csinodes") {
        view.csi_nodes
            .insert(name, Arc::new(json_tree::from_value(csi_node).expect(read)));
    }
    for (_, mut attachment) in named("attachments") {
        attachment["status"] = json!({"attached": true});
        let attachment = json_tree::from_value(attachment).expect(read);
        view.attachments.push(Arc::new(attachment));
    }
    view
}

fn pod(spec: Value) -> PodView {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "a"}]);
    }
    let metadata = json!({
        "name": "web-0", "namespace": "default", "uid": "pod", "resourceVersion": "1",
        "labels": {"app": "web"},
    });
    let pod = json!({"metadata": metadata, "spec": spec});
    let pod: Pod = json_tree::from_value(pod).expect("a pod");
    pod.try_into().expect("a pod")
}

#[track_caller]
fn check(objects: Value, spec: Value, expected: &str) {
    assert_eq!(decide(&pod(spec), &view(objects)), expected);
}

/// The decision as one line of text.
fn decide(pod: &PodView, view: &ClusterView) -> String {
    match place(pod, view, None) {
        PlacementDecision::Bind { node } => format!("bind {node}"),
        PlacementDecision::Prepare { node, steps } => {
            let steps: Vec<String> = steps
                .into_iter()
                .map(|step| match step {
                    ClaimStep::Reserve { claim, volume } => format!("{claim}={volume}"),
                    ClaimStep::SelectNode { claim } => format!("{claim}=new"),
                    other => format!("{other:?}"),
                })
                .collect();
            format!("prepare {node} {}", steps.join(" "))
                .trim_end()
                .to_owned()
        }
        PlacementDecision::Unschedulable(obstacle) => {
            // Preemption messages are tested in preempt.rs.
            let (first_sentence, _) = obstacle
                .message
                .split_once(" preemption: ")
                .unwrap_or((&obstacle.message, ""));
            first_sentence.to_owned()
        }
        PlacementDecision::Preempt(preemption) => format!("preempt on {}", preemption.node),
    }
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [
        {"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}}},
    ]})
}

fn on_node(node: &str, cpu: &str) -> Value {
    json!({"spec": {"nodeName": node, "containers": [
        {"name": "a", "resources": {"requests": {"cpu": cpu}}},
    ]}})
}

#[test]
fn a_pod_without_wishes_goes_to_the_emptier_node() {
    let objects = json!({"nodes": {"a": {}, "b": {}}, "pods": {"x": on_node("a", "1")}});
    check(objects, asks("500m", "1Gi"), "bind b");
    check(json!({"nodes": {"b": {}, "a": {}}}), json!({}), "bind a");
}

#[test]
fn what_is_asked_for_must_be_free() {
    let objects = json!({"nodes": {"a": {}}, "pods": {"x": on_node("a", "1500m")}});
    check(objects.clone(), asks("500m", "1Gi"), "bind a");
    check(
        objects,
        asks("600m", "5Gi"),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
    );
    let small = json!({"nodes": {"a": {"status": {"allocatable": {"pods": "1"}}}},
        "pods": {"x": on_node("a", "0")}});
    check(
        small,
        json!({}),
        "0/1 nodes are available: 1 Too many pods.",
    );
}

#[test]
fn limits_count_where_there_is_no_request_and_overhead_is_added() {
    let spec = json!({"overhead": {"cpu": "1"},
        "containers": [{"name": "a", "resources": {"limits": {"cpu": "1500m"}}}]});
    check(
        json!({"nodes": {"a": {}}}),
        spec,
        "0/1 nodes are available: 1 Insufficient cpu.",
    );
}

#[test]
fn init_containers_count_by_their_largest_moment() {
    let cpu = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let spec = |plain: &str, sidecar: &str| {
        json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": cpu(sidecar)},
                {"name": "i", "resources": cpu(plain)},
            ],
            "containers": [{"name": "a", "resources": cpu("1")}],
        })
    };
    let nodes = json!({"nodes": {"a": {}}});
    check(nodes.clone(), spec("1500m", "500m"), "bind a");
    check(
        nodes.clone(),
        spec("1600m", "500m"),
        "0/1 nodes are available: 1 Insufficient cpu.",
    );
    check(
        nodes,
        spec("0", "1100m"),
        "0/1 nodes are available: 1 Insufficient cpu.",
    );
}

#[test]
fn each_node_is_counted_by_its_own_reason() {
    let objects = json!({"nodes": {
        "a": {"spec": {"unschedulable": true}},
        "b": {"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}},
        "c": {"metadata": {"labels": {"zone": "x"}}},
        "d": {"status": {"allocatable": {"cpu": "1", "pods": "10"}}},
    }});
    let mut spec = asks("2", "0");
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": "d"});
    check(
        objects,
        spec,
        "0/4 nodes are available: 1 Insufficient cpu, \
         1 node(s) didn't match Pod's node affinity/selector, \
         1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
    );
    check(json!({}), json!({}), "no nodes available to schedule pods");
}

#[test]
fn tolerations_open_tainted_nodes() {
    let objects = json!({"nodes": {
        "b": {"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}},
    }});
    let tolerating = |toleration: Value| json!({"tolerations": [toleration]});
    check(
        objects.clone(),
        tolerating(json!({"operator": "Exists"})),
        "bind b",
    );
    check(
        objects.clone(),
        tolerating(json!({"key": "k", "value": "v"})),
        "bind b",
    );
    check(
        objects,
        tolerating(json!({"key": "k", "value": "w", "operator": "Equal"})),
        "0/1 nodes are available: 1 node(s) had untolerated taint(s).",
    );
}

#[test]
fn node_affinity_decides_and_preference_ranks() {
    let objects = json!({"nodes": {
        "a": {"metadata": {"labels": {"disk": "ssd", "size": "1"}}},
        "b": {"metadata": {"labels": {"disk": "ssd", "size": "9"}}},
        "c": {"metadata": {"labels": {"disk": "hdd", "size": "9"}}},
    }});
    let term = |key: &str, operator: &str, value: &str| json!({"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [term("disk", "In", "ssd")]}});
    let mut both = required.clone();
    both["preferredDuringSchedulingIgnoredDuringExecution"] =
        json!([{"weight": 5, "preference": term("size", "Gt", "5")}]);
    check(
        objects.clone(),
        json!({"affinity": {"nodeAffinity": required}}),
        "bind a",
    );
    check(
        objects,
        json!({"affinity": {"nodeAffinity": both}}),
        "bind b",
    );
}

#[test]
fn host_ports_are_had_once() {
    let with_port = json!({"containers": [
        {"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}]},
    ]});
    let mut there = with_port.clone();
    there["nodeName"] = "a".into();
    check(
        json!({"nodes": {"a": {}}, "pods": {"x": {"spec": there}}}),
        with_port,
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
    );
}

#[test]
fn a_reserved_place_is_kept_while_it_fits() {
    let view = view(json!({"nodes": {"a": {}, "b": {}}}));
    let decision = place(&pod(json!({})), &view, Some("b"));
    assert_eq!(
        decision,
        PlacementDecision::Bind {
            node: "b".to_owned()
        }
    );
    let decision = place(&pod(json!({})), &view, Some("gone"));
    assert_eq!(
        decision,
        PlacementDecision::Bind {
            node: "a".to_owned()
        }
    );
}

#[test]
fn gated_pods_wait() {
    let spec = json!({"schedulingGates": [{"name": "x"}]});
    match place(&pod(spec), &view(json!({"nodes": {"a": {}}})), None) {
        PlacementDecision::Unschedulable(obstacle) => {
            assert_eq!(obstacle.reason, "SchedulingGated")
        }
        other => panic!("{other:?}"),
    }
}
