//! From the objects to the displayed lines.

use std::sync::Arc;

use diagnosis::{ObservedCluster, ObservedNamespace};
use json_tree::{Value, json};
use resource_kinds::ClusterConfig;

use super::*;
use crate::pod_row::PodRows;
use crate::{ClusterObjects, NamespaceScope, overview};

const NOW: &str = "2026-01-01T01:00:00Z";

fn decoded<T: serde::de::DeserializeOwned>(object: Value) -> T {
    json_tree::from_value(object).unwrap()
}

fn pod(name: &str, ready: bool, containers: Value) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "resourceVersion": "1", "labels": {"app": "web"},
            "uid": name, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:30:00Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                "uid": "w", "controller": true}]},
        "spec": {"nodeName": "here", "containers": [{"name": "main", "image": "i"}]},
        "status": {"phase": "Running", "podIP": "10.244.0.2", "containerStatuses": containers,
            "conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn running() -> Value {
    json!([{"name": "main", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {}}}])
}

fn without_image() -> Value {
    json!([{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}])
}

fn claim(name: &str, class: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"},
        "spec": {"storageClassName": class, "resources": {"requests": {"storage": "64Mi"}}},
        "status": {"phase": "Bound", "capacity": {"storage": "67108864"}}})
}

fn observed() -> StatusObjects {
    let volume = |claim: &str, capacity: i64| {
        json!({"name": "data", "pvcRef": {"name": claim, "namespace": "default"},
            "capacityBytes": capacity, "usedBytes": 3 << 20})
    };
    let mut namespace = ObservedNamespace::of("default", NOW.parse().unwrap());
    namespace.sets = vec![decoded(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "w", "resourceVersion": "1"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}}, "serviceName": "web",
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}}))];
    namespace.full_pods = vec![
        decoded(pod("web-0", true, running())),
        decoded(pod("web-1", false, without_image())),
    ];
    namespace.view_pods().unwrap();
    namespace.claims = vec![
        decoded(claim("data-web-0", "local-cow")),
        decoded(claim("data-web-1", "local")),
        decoded(claim("mine", "local")),
    ];
    namespace.jobs = vec![decoded(json!({
        "metadata": {"name": "move", "namespace": "default"},
        "spec": {"template": {}},
        "status": {"conditions": [{"type": "Failed", "status": "True",
            "message": "Job has reached the specified backoff limit"}]}}))];
    let mut shop = ObservedNamespace::of("shop", NOW.parse().unwrap());
    shop.deployments = vec![decoded(json!({
        "metadata": {"name": "front", "namespace": "shop"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "front"}}, "template": {}},
        "status": {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2,
            "availableReplicas": 2}}))];
    let node = decoded(json!({"metadata": {"name": "here"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
        "conditions": [{"type": "Ready", "status": "True"},
            {"type": "mainstay.dev/KubeletReachable", "status": "True"},
            {"type": "DiskPressure", "status": "True"}]}}));
    let cluster = ObservedCluster {
        nodes: Some(vec![node]),
        ..ObservedCluster::default()
    };
    StatusObjects {
        version: "v1.36.0+mainstay.0.1.0".to_owned(),
        figures: vec![json!({
            "node": {"nodeName": "here", "fs": {"usedBytes": 30_i64 << 30,
                "availableBytes": 10_i64 << 30, "capacityBytes": 40_i64 << 30}},
            "pods": [{"volume": [volume("data-web-0", 64 << 20)]},
                {"volume": [volume("data-web-1", 40 << 30)]}]})],
        objects: ClusterObjects {
            cluster: Arc::new(cluster),
            namespaces: vec![namespace, shop],
            ..ClusterObjects::default()
        },
    }
}

fn printed(observed: &StatusObjects, width: Option<usize>) -> Vec<String> {
    let kinds = resource_kinds::all(&ClusterConfig::default());
    let kind = kinds.iter().find(|kind| kind.info().kind == "Pod").unwrap();
    let nodes = observed.objects.cluster.nodes.iter().flatten().count();
    let rows = PodRows::new(kind.as_ref()).unwrap().with_nodes(nodes > 1);
    let server = ServerStatus {
        url: "https://127.0.0.1:6443".to_owned(),
        version: observed.version.clone(),
        data_directory: Some("/var/lib/mainstay".to_owned()),
    };
    let now = NOW.parse().unwrap();
    let reach = NamespaceScope::One("default".to_owned());
    let overview = overview(&observed.objects, &reach, now);
    let status = status(server, observed, &overview, &rows, now);
    let call = Call {
        program: "mainstay".to_owned(),
        options: " --data-dir /d".to_owned(),
    };
    render::lines(&status, &call, width)
}

/// Findings U11: sets, ordinals, volumes and waiting objects, on one screen.
#[test]
fn one_screen_shows_what_there_is() {
    let lines = printed(&observed(), None);
    let expected = [
        "mainstay 0.1.0 (Kubernetes v1.36.0) at https://127.0.0.1:6443",
        "data /var/lib/mainstay",
        "node here 192.0.2.7: Ready, DiskPressure; disk 75% used, 10Gi free",
        "",
        "statefulset web: 1/3 ready",
        "  POD    READY  STATE                 RESTARTS  AGE  IP",
        "  web-0  1/1    Running               0         30m  10.244.0.2",
    ];
    assert_eq!(lines[..expected.len()], expected, "{lines:#?}");
    let text = lines.join("\n");
    for part in [
        "  web-1  0/1    ErrImagePull          0         30m  10.244.0.2  ",
        "no such image",
        "  web-2         waiting for its turn",
        "  CLAIM       STATE  SIZE  USED   CLASS",
        "  data-web-0  Bound  64Mi  3.0Mi  local-cow",
        // The volume is a directory of the node's disk, whose usage is not the claim's.
        "  data-web-1  Bound  64Mi         local",
        "deployment shop/front: 2/2 ready",
        "job move: failed: Job has reached the specified backoff limit",
        "  mine          Bound  64Mi        local",
        "Waiting:\n  sts/web: ",
        "  job/move: failed: Job has reached the specified backoff limit",
        "Why, and what to do: mainstay why --data-dir /d",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn several_nodes_are_named_with_the_pods() {
    let mut observed = observed();
    let cluster = Arc::get_mut(&mut observed.objects.cluster).unwrap();
    let other = decoded(json!({"metadata": {"name": "there"}}));
    cluster.nodes.as_mut().unwrap().push(other);
    let lines = printed(&observed, None);
    let row = "  web-0  1/1    Running               0         30m  10.244.0.2  here";
    assert!(lines.contains(&row.to_owned()), "{lines:#?}");
}

#[test]
fn lines_fit_into_the_terminal() {
    for width in [1, 20, 80] {
        let lines = printed(&observed(), Some(width));
        let mut clipped = lines.iter().rev().skip(1);
        let wide = clipped.find(|line| line.chars().count() > width);
        assert_eq!(wide, None, "{width}");
        // The command can be pasted.
        assert!(lines.last().unwrap().ends_with("--data-dir /d"));
    }
}

#[test]
fn an_empty_server_says_what_to_do() {
    let lines = printed(&StatusObjects::default(), None);
    assert_eq!(
        lines.last().unwrap(),
        "No workload exists yet: kubectl apply -f FILE"
    );
}
