//! `componentstatuses`: the health of the control plane's components.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use json_tree::{Value, json};
use kube_api_server::{Component, Limits};
use mvcc_store::embedded::EmbeddedStore;

use crate::harness::Api;

const PATH: &str = "/api/v1/componentstatuses";

/// A server with two components that report whether they run.
async fn with_parts() -> (Api, Arc<AtomicBool>) {
    let store = EmbeddedStore::in_memory();
    let api = Api::over(store, Limits::default(), None).await;
    let runs = Arc::new(AtomicBool::new(true));
    let flag = runs.clone();
    api.server
        .watch_component(Component::ControllerManager, || true);
    api.server
        .watch_component(Component::Scheduler, move || flag.load(Ordering::Acquire));
    (api, runs)
}

fn healthy(status: &str, field: &str, text: &str) -> Value {
    json!([{"type": "Healthy", "status": status, (field): text}])
}

#[tokio::test]
async fn each_part_is_listed_with_how_it_is() {
    let (api, runs) = with_parts().await;
    let response = api.raw("GET", PATH, &[], "").await;
    assert_eq!(
        response.headers["warning"],
        "299 - \"v1 ComponentStatus is deprecated in v1.19+\""
    );
    let list = response.json();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("ComponentStatusList"), &json!("v1"))
    );
    let items = list["items"].as_array().unwrap();
    let names: Vec<&Value> = items.iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    for item in items {
        assert_eq!(item["conditions"], healthy("True", "message", "ok"));
    }

    runs.store(false, Ordering::Release);
    let (code, one) = api.get(&format!("{PATH}/scheduler")).await;
    assert_eq!((code, &one["kind"]), (200, &json!("ComponentStatus")));
    assert_eq!(
        one["conditions"],
        healthy("False", "message", "it does not run")
    );
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.raw("GET", PATH, &table, "").await.json();
    let rows = table["rows"].as_array().unwrap().iter();
    let cells: Vec<&Value> = rows.map(|row| &row["cells"]).collect();
    assert_eq!(
        cells[0],
        &json!(["controller-manager", "Healthy", "ok", ""])
    );
    assert_eq!(
        cells[2],
        &json!(["scheduler", "Unhealthy", "it does not run", ""])
    );
    let headings = table["columnDefinitions"].as_array().unwrap().iter();
    let headings: Vec<&Value> = headings.map(|heading| &heading["name"]).collect();
    assert_eq!(headings, ["Name", "Status", "Message", "Error"]);
}

/// A component without a report is unhealthy.
#[tokio::test]
async fn parts_that_are_not_there_are_not_well() {
    let api = Api::new().await;
    let (_, list) = api.get(PATH).await;
    let status = |at: usize| &list["items"][at]["conditions"][0]["status"];
    assert_eq!(
        [status(0), status(1), status(2)],
        [&json!("False"), &json!("True"), &json!("False")]
    );
}

#[tokio::test]
async fn selectors_choose_and_nothing_is_written() {
    let (api, _) = with_parts().await;
    for (query, expected) in [
        ("labelSelector=a%3Db", 0),
        ("labelSelector=%21a", 3),
        ("fieldSelector=metadata.name%3Detcd-0", 1),
        ("fieldSelector=metadata.name%21%3Detcd-0", 2),
    ] {
        let (code, list) = api.get(&format!("{PATH}?{query}")).await;
        assert_eq!(code, 200, "{list}");
        assert_eq!(list["items"].as_array().unwrap().len(), expected, "{query}");
    }
    let (code, _) = api.get(&format!("{PATH}?fieldSelector=spec.x%3Dy")).await;
    assert_eq!(code, 400);
    let (code, status) = api.get(&format!("{PATH}/absent")).await;
    assert_eq!(
        (code, &status["message"]),
        (404, &json!("componentstatuses \"absent\" not found"))
    );
    assert_eq!(api.get(&format!("{PATH}/etcd-0/status")).await.0, 404);
    let inside = "/api/v1/namespaces/default/componentstatuses";
    assert_eq!(api.get(inside).await.0, 404);
    assert_eq!(api.get(&format!("{PATH}?watch=1")).await.0, 405);
    for (method, path) in [
        ("POST", PATH.to_owned()),
        ("DELETE", format!("{PATH}/etcd-0")),
    ] {
        let refused = api.raw(method, &path, &[], "").await;
        assert_eq!(refused.code, 405, "{method} {}", refused.text());
        assert_eq!(refused.headers["allow"], "GET");
    }
    let nobody = api.as_user("somebody", &[]);
    assert_eq!(nobody.get(PATH).await.0, 403);
}

/// As in the published document of Kubernetes 1.36: get and list, not namespaced.
#[tokio::test]
async fn it_is_discovered_and_described() {
    let (api, _) = with_parts().await;
    let (_, list) = api.get("/api/v1").await;
    let mut resources = list["resources"].as_array().unwrap().iter();
    let matching = resources.find(|resource| resource["name"] == "componentstatuses");
    assert_eq!(
        matching.unwrap(),
        &json!({"name": "componentstatuses", "singularName": "componentstatus",
            "namespaced": false, "kind": "ComponentStatus", "verbs": ["get", "list"],
            "shortNames": ["cs"]})
    );
    let (_, document) = api.get("/openapi/v3/api/v1").await;
    let paths = &document["paths"];
    for (path, action) in [
        (PATH.to_owned(), "list"),
        (format!("{PATH}/{{name}}"), "get"),
    ] {
        let operations = paths[&path].as_object().unwrap();
        let methods: Vec<&String> = operations
            .keys()
            .filter(|key| *key != "parameters")
            .collect();
        assert_eq!(methods, ["get"], "{path}");
        assert_eq!(operations["get"]["x-kubernetes-action"], action);
        let kind = json!({"group": "", "version": "v1", "kind": "ComponentStatus"});
        assert_eq!(operations["get"]["x-kubernetes-group-version-kind"], kind);
    }
    let schema = &document["components"]["schemas"]["io.k8s.api.core.v1.ComponentStatus"];
    let conditions = &schema["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-patch-merge-key"], "type");
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    let response = api.raw("GET", PATH, &protobuf, "").await;
    assert_eq!(
        (response.code, &response.bytes[..4]),
        (200, b"k8s\0".as_slice())
    );
}
