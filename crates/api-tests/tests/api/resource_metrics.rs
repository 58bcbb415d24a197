//! `metrics.k8s.io`, with a node that reports its usage.

use json_tree::{Value, json};

use crate::harness::{Api, PODS, pod};

const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
const ALL: &str = "/apis/metrics.k8s.io/v1beta1/pods";
const OURS: &str = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods";

/// Two nodes, of which one responds; a pod with metrics, a pod without, and a pod on the other node.
async fn with_figures() -> Api {
    let api = Api::new().await;
    api.with_account().await;
    for name in ["n1", "n2"] {
        let node = json!({"metadata": {"name": name, "labels": {"kind": "test"}}});
        api.create("/api/v1/nodes", node).await;
    }
    let mut pods = Vec::new();
    for (name, node) in [("busy", "n1"), ("fresh", "n1"), ("lost", "n2")] {
        let mut desired = pod(name);
        desired["metadata"]["labels"] = json!({"app": name});
        desired["spec"]["nodeName"] = json!(node);
        pods.push(api.create(PODS, desired).await);
    }
    let cpu = |cores: u64| {
        json!({"time": "2026-01-01T00:00:00Z", "usageNanoCores": cores,
            "usageWindowNanoSeconds": 10_500_000_000_u64})
    };
    let memory = json!({"workingSetBytes": 8192});
    let used = json!({"name": "c", "cpu": cpu(250_000_000), "memory": memory});
    let summary = json!({
        "node": {"cpu": cpu(1_000_000_000), "memory": memory},
        "pods": [
            {"podRef": {"uid": pods[0]["metadata"]["uid"]}, "containers": [used]},
            {"podRef": {"uid": pods[1]["metadata"]["uid"]}, "containers": [{"name": "c"}]},
        ],
    });
    *api.node.summary.lock().unwrap() = Some(summary);
    api
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn nodes_and_pods_use_what_their_nodes_say() {
    // kubectl.md 6.1
    let api = with_figures().await;
    let (code, nodes) = api.get(NODES).await;
    assert_eq!((code, &nodes["kind"]), (200, &json!("NodeMetricsList")));
    assert_eq!(names(&nodes), ["n1"]);
    let first = &nodes["items"][0];
    assert_eq!(first["usage"], json!({"cpu": "1", "memory": "8Ki"}));
    assert_eq!(first["window"], "10.5s");
    assert_eq!(first["metadata"]["labels"]["kind"], "test");

    let (_, pods) = api.get(ALL).await;
    assert_eq!(names(&pods), ["busy"]);
    let (_, one) = api.get(&format!("{OURS}/busy")).await;
    assert_eq!(
        one["containers"],
        json!([{"name": "c", "usage": {"cpu": "250m", "memory": "8Ki"}}])
    );
    assert_eq!(one["metadata"]["namespace"], "default");
}

#[tokio::test]
async fn what_has_no_figures_is_not_found() {
    // kubectl.md 6.1
    let api = with_figures().await;
    for (path, message) in [
        (
            format!("{OURS}/fresh"),
            "podmetrics.metrics.k8s.io \"default/fresh\" not found",
        ),
        (
            format!("{OURS}/lost"),
            "podmetrics.metrics.k8s.io \"default/lost\" not found",
        ),
        (
            format!("{OURS}/absent"),
            "pods \"default/absent\" not found",
        ),
        (
            format!("{NODES}/n2"),
            "nodemetrics.metrics.k8s.io \"n2\" not found",
        ),
        (format!("{NODES}/n3"), "nodes \"n3\" not found"),
    ] {
        let (code, status) = api.get(&path).await;
        assert_eq!((code, &status["message"]), (404, &json!(message)), "{path}");
    }
    let (code, _) = api
        .send("DELETE", &format!("{OURS}/busy"), Value::Null)
        .await;
    assert_eq!(code, 405);
    assert_eq!(api.get(&format!("{ALL}?watch=1")).await.0, 405);
    assert_eq!(api.get(&format!("{OURS}/busy/log")).await.0, 404);
}

#[tokio::test]
async fn selectors_choose_by_labels_and_names() {
    let api = with_figures().await;
    for (query, expected) in [
        ("labelSelector=app%3Dbusy", 1),
        ("labelSelector=app%3Dother", 0),
        ("fieldSelector=metadata.name%3Dbusy", 1),
        ("fieldSelector=metadata.name%3Dfresh", 0),
        ("fieldSelector=metadata.namespace%3Dkube-system", 0),
    ] {
        let (code, list) = api.get(&format!("{ALL}?{query}")).await;
        assert_eq!((code, names(&list).len()), (200, expected), "{query}");
    }
    let (code, status) = api
        .get(&format!("{ALL}?fieldSelector=spec.nodeName%3Dn1"))
        .await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "\"spec.nodeName\" is not a known field selector: only \"metadata.name\", \
         \"metadata.namespace\""
    );
}

#[tokio::test]
async fn metrics_come_as_tables_and_in_protobuf() {
    // kubectl.md 0.11, 1.1, 6.1
    let api = with_figures().await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let response = api.raw("GET", ALL, &table, "").await.json();
    let headings = response["columnDefinitions"].as_array().unwrap().iter();
    let headings: Vec<&str> = headings.map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(headings, ["Name", "cpu", "memory", "Window"]);
    let row = &response["rows"][0];
    assert_eq!(row["cells"], json!(["busy", "250m", "8Ki", "10.5s"]));
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");

    let binary = [("accept", "application/vnd.kubernetes.protobuf")];
    for (path, kind) in [
        (ALL.to_owned(), "PodMetricsList"),
        (format!("{OURS}/busy"), "PodMetrics"),
        (NODES.to_owned(), "NodeMetricsList"),
    ] {
        let response = api.raw("GET", &path, &binary, "").await;
        assert_eq!(response.headers["content-type"], binary[0].1);
        let text = String::from_utf8_lossy(&response.bytes);
        assert!(text.starts_with("k8s\0") && text.contains(kind), "{text:?}");
    }
}

#[tokio::test]
async fn discovery_lists_them_and_readers_may_read() {
    // kubectl.md 0.2, 6.1
    let api = with_figures().await;
    let (_, list) = api.get("/apis/metrics.k8s.io/v1beta1").await;
    assert_eq!(
        list["resources"],
        json!([
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics",
                "verbs": ["get", "list"]},
            {"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics",
                "verbs": ["get", "list"]},
        ])
    );
    let (_, groups) = api.get("/apis").await;
    let groups = groups["groups"].as_array().unwrap();
    assert!(groups.iter().any(|group| group["name"] == "metrics.k8s.io"));
    let reader = api.as_user("jane", &[]);
    assert_eq!(reader.get(OURS).await.0, 403);
    let binding = json!({"metadata": {"name": "jane"}, "subjects": [
            {"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "system:aggregated-metrics-reader"}});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    api.create(bindings, binding).await;
    while reader.get(OURS).await.0 != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_documents_explain_them() {
    // kubectl.md 0.10, 6.1
    let api = Api::new().await;
    let (_, index) = api.get("/openapi/v3").await;
    let url = &index["paths"]["apis/metrics.k8s.io/v1beta1"]["serverRelativeURL"];
    let (code, document) = api.get(url.as_str().unwrap()).await;
    assert_eq!(code, 200);
    let package = "io.k8s.metrics.pkg.apis.metrics.v1beta1";
    let nodes = &document["components"]["schemas"][format!("{package}.NodeMetrics")];
    assert_eq!(
        nodes["x-kubernetes-group-version-kind"],
        json!([{"group": "metrics.k8s.io", "version": "v1beta1", "kind": "NodeMetrics"}])
    );
    assert_eq!(nodes["properties"]["window"]["type"], "string");
    let list = &document["paths"][NODES]["get"];
    assert_eq!(list["x-kubernetes-action"], "list");
    assert!(document["paths"][format!("{NODES}/{{name}}")]["get"].is_object());
    let (_, older) = api.get("/openapi/v2").await;
    let items = &older["definitions"][format!("{package}.PodMetrics")]["properties"]["containers"];
    assert_eq!(
        items["items"]["$ref"],
        format!("#/definitions/{package}.ContainerMetrics")
    );
}
