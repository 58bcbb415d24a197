//! resource.k8s.io/v1: devices, and claims of them.

use json_tree::{Value, json};

use crate::harness::Api;

const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn class(expression: &str) -> Value {
    json!({"metadata": {"name": "gpu"}, "spec": {
        "selectors": [{"cel": {"expression": expression}}],
        "config": [{"opaque": {"driver": "dra.example.com", "parameters": {"mode": ""}}}]}})
}

fn spec() -> Value {
    json!({"devices": {
        "requests": [{"name": "one", "exactly": {"deviceClassName": "gpu", "selectors": [
            {"cel": {"expression": "device.attributes['dra.example.com'].index > 0"}}]}}],
        "constraints": [{"requests": ["one"], "matchAttribute": "dra.example.com/numa"}]}})
}

fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": spec()})
}

fn slice(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"driver": "dra.example.com", "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "attributes": {"index": {"int": 0}, "ecc": {"bool": false},
                "model": {"string": ""}, "driver": {"version": "1.2.3"}},
            "capacity": {"memory": {"value": "1024Mi"}}}]}})
}

fn allocation() -> Value {
    json!({"devices": {"results": [{"request": "one", "driver": "dra.example.com", "pool": "n1",
        "device": "gpu-0"}]}})
}

/// findings C42
#[tokio::test]
async fn the_group_is_discovered() {
    let api = Api::new().await;
    let (code, list) = api.get("/apis/resource.k8s.io/v1").await;
    assert_eq!(code, 200);
    let mut names: Vec<&str> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|resource| resource["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "deviceclasses",
            "resourceclaims",
            "resourceclaims/status",
            "resourceclaimtemplates",
            "resourceslices"
        ]
    );
}

/// findings C43
#[tokio::test]
async fn what_is_asked_for_is_filled_in_and_stays() {
    let api = Api::new().await;
    let class = api
        .create(CLASSES, class("device.driver == 'dra.example.com'"))
        .await;
    assert_eq!(class["metadata"]["generation"], 1);
    // The content of the configuration belongs to the driver, so empty values stay.
    assert_eq!(
        class["spec"]["config"][0]["opaque"]["parameters"],
        json!({"mode": ""})
    );
    let created = api.create(CLAIMS, claim("c")).await;
    let request = &created["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!(
        (&request["allocationMode"], &request["count"]),
        (&json!("ExactCount"), &json!(1))
    );
    let mut other = created.clone();
    other["spec"]["devices"]["requests"][0]["exactly"]["count"] = json!(2);
    let (code, refused) = api.send("PUT", &format!("{CLAIMS}/c"), other).await;
    assert_eq!(code, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with("field is immutable"), "{message}");
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": spec()}});
    let template = api.create(TEMPLATES, template).await;
    let request = &template["spec"]["spec"]["devices"]["requests"][0];
    assert_eq!(request["exactly"]["count"], 1);
}

/// findings C46
#[tokio::test]
async fn expressions_that_cannot_be_read_are_refused() {
    let api = Api::new().await;
    let (code, refused) = api.send("POST", CLASSES, class("node.x ==")).await;
    assert_eq!(code, 422);
    let cause = &refused["details"]["causes"][0];
    assert_eq!(cause["field"], "spec.selectors[0].cel.expression");
    assert!(
        cause["message"]
            .as_str()
            .unwrap()
            .contains("compilation failed: ")
    );
}

/// findings C42
#[tokio::test]
async fn slices_are_selected_and_shown_in_a_table() {
    let api = Api::new().await;
    for (name, node) in [("a", "n1"), ("b", "n2")] {
        let slice = api.create(SLICES, slice(name, node)).await;
        let device = &slice["spec"]["devices"][0];
        assert_eq!(device["capacity"]["memory"]["value"], "1Gi");
        assert_eq!(device["attributes"]["model"], json!({"string": ""}));
        assert_eq!(slice["metadata"]["generation"], 1);
    }
    for (selector, expected) in [
        ("spec.nodeName%3Dn2", vec!["b"]),
        ("spec.driver%3Ddra.example.com", vec!["a", "b"]),
        ("spec.driver%3Dother", vec![]),
    ] {
        let (code, list) = api.get(&format!("{SLICES}?fieldSelector={selector}")).await;
        assert_eq!(code, 200);
        let items = list["items"].as_array().unwrap().iter();
        let names: Vec<&str> = items
            .map(|item| item["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected);
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.raw("GET", SLICES, &table, "").await.json();
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        (&cells[1], &cells[2], &cells[3]),
        (&json!("n1"), &json!("dra.example.com"), &json!("n1"))
    );
}

/// findings C44
#[tokio::test]
async fn an_allocation_is_written_to_the_status_and_stays() {
    let api = Api::new().await;
    let mut new = claim("c");
    new["status"] = json!({"allocation": allocation()});
    let created = api.create(CLAIMS, new).await;
    assert_eq!(created["status"]["allocation"], Value::Null);
    let status = format!("{CLAIMS}/c/status");
    let user = json!({"resource": "pods", "name": "p", "uid": "u"});
    let early = json!({"status": {"reservedFor": [user]}});
    assert_eq!(api.patch(&status, "merge", early).await.0, 422);
    let whole = json!({"status": {"allocation": allocation(), "reservedFor": [user]}});
    let (code, claim) = api.patch(&status, "merge", whole).await;
    assert_eq!(code, 200, "{claim}");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.raw("GET", CLAIMS, &table, "").await.json();
    assert_eq!(table["rows"][0]["cells"][1], "allocated,reserved");
    // If two pods reserve the claim at the same time, both entries stay: entries are merged by UID.
    let second = json!({"status": {"reservedFor": [{"resource": "pods", "name": "q",
        "uid": "v"}]}});
    let (code, claim) = api.patch(&status, "strategic", second).await;
    assert_eq!(code, 200, "{claim}");
    assert_eq!(claim["status"]["reservedFor"].as_array().unwrap().len(), 2);
    let mut other = allocation();
    other["devices"]["results"][0]["device"] = json!("gpu-1");
    let other = json!({"status": {"allocation": other}});
    assert_eq!(api.patch(&status, "merge", other).await.0, 422);
    let free = json!({"status": {"allocation": null, "reservedFor": null}});
    let (code, claim) = api.patch(&status, "merge", free).await;
    assert_eq!(code, 200, "{claim}");
    assert_eq!(claim["status"]["allocation"], Value::Null);
}

/// findings C45
#[tokio::test]
async fn administrative_access_is_for_labelled_namespaces() {
    let api = Api::new().await;
    let mut desired = claim("c");
    desired["spec"]["devices"]["requests"][0]["exactly"]["adminAccess"] = json!(true);
    let (code, refused) = api.send("POST", CLAIMS, desired.clone()).await;
    assert_eq!(code, 422);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains(
            "admin access to devices requires the `resource.kubernetes.io/admin-access: true` \
             label on the containing namespace"
        ),
        "{message}"
    );
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    let (code, _) = api
        .patch("/api/v1/namespaces/default", "merge", label)
        .await;
    assert_eq!(code, 200);
    api.create(CLAIMS, desired).await;
}

/// findings C50
#[tokio::test]
async fn a_node_offers_its_own_devices() {
    let api = Api::new().await;
    let node = api.as_user("system:node:n1", &["system:nodes"]);
    let (code, refused) = node.send("POST", SLICES, slice("b", "n2")).await;
    assert_eq!(code, 403);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "can only create ResourceSlice with the same NodeName as the requesting node"
        ),
        "{message}"
    );
    node.create(SLICES, slice("a", "n1")).await;
    api.create(SLICES, slice("b", "n2")).await;
    assert_eq!(node.get(&format!("{SLICES}/a")).await.0, 200);
    assert_eq!(node.get(&format!("{SLICES}/b")).await.0, 403);
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let (code, _) = node
        .patch(&format!("{SLICES}/a"), "merge", labels.clone())
        .await;
    assert_eq!(code, 200);
    let (code, _) = node.patch(&format!("{SLICES}/b"), "merge", labels).await;
    assert_eq!(code, 403);
    let (code, _) = node
        .send("DELETE", &format!("{SLICES}/a"), Value::Null)
        .await;
    assert_eq!(code, 200);
}

/// findings C42: Go clients read and send these kinds in protobuf.
#[tokio::test]
async fn devices_and_claims_come_back_from_protobuf() {
    let api = Api::new().await;
    api.create(CLASSES, class("device.driver == 'x'")).await;
    api.create(SLICES, slice("a", "n1")).await;
    api.create(CLAIMS, claim("c")).await;
    let status = json!({"status": {"allocation": allocation()}});
    api.patch(&format!("{CLAIMS}/c/status"), "merge", status)
        .await;
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": spec()}});
    api.create(TEMPLATES, template).await;
    for path in [
        format!("{CLASSES}/gpu"),
        format!("{SLICES}/a"),
        format!("{CLAIMS}/c"),
        format!("{TEMPLATES}/t"),
    ] {
        let response = api.raw("GET", &path, &[("accept", PROTOBUF)], "").await;
        assert_eq!(response.headers["content-type"], PROTOBUF);
        let (_, before) = api.get(&path).await;
        let headers = [("content-type", PROTOBUF), ("accept", "application/json")];
        let after = api.raw("PUT", &path, &headers, response.bytes).await;
        assert_eq!(after.code, 200, "{}", after.text());
        assert_eq!(after.json()["spec"], before["spec"]);
        assert_eq!(
            after.json()["metadata"]["resourceVersion"],
            before["metadata"]["resourceVersion"]
        );
    }
}
