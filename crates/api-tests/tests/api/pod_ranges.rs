//! The pod ranges of nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use json_tree::{Value, json};
use mvcc_store::embedded::EmbeddedStore;
use resource_kinds::{ClusterConfig, PodRanges};

use crate::harness::Api;

const NODES: &str = "/api/v1/nodes";

async fn over(store: Arc<EmbeddedStore>) -> Api {
    let cluster = ClusterConfig {
        pod_ranges: Some(PodRanges::new("10.244.0.0/19".parse().unwrap(), 24).unwrap()),
        ..ClusterConfig::default()
    };
    Api::of_cluster(store, &cluster).await
}

fn node(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

fn range(node: &Value) -> String {
    let range = node["spec"]["podCIDR"].as_str().unwrap_or_default();
    let list = &node["spec"]["podCIDRs"];
    assert!(range.is_empty() && list.is_null() || *list == json!([range]));
    range.to_owned()
}

#[tokio::test]
async fn nodes_that_are_created_at_once_get_different_ranges() {
    let api = over(EmbeddedStore::in_memory()).await;
    let created = (0..33).map(|n| api.create(NODES, node(&format!("n{n}"), &json!({}))));
    let ranges: Vec<String> = join_all(created).await.iter().map(range).collect();
    let some: BTreeSet<&String> = ranges.iter().filter(|range| !range.is_empty()).collect();
    assert_eq!(some.len(), 32, "the cluster has 32 ranges: {ranges:?}");
    let holder = ranges.iter().position(|range| range == "10.244.7.0/24");
    let holder = format!("{NODES}/n{}", holder.unwrap());
    assert_eq!(api.send("DELETE", &holder, Value::Null).await.0, 200);
    let next = api.create(NODES, node("next", &json!({}))).await;
    assert_eq!(range(&next), "10.244.7.0/24");
}

#[tokio::test]
async fn a_range_of_another_node_is_refused() {
    let api = over(EmbeddedStore::in_memory()).await;
    let spec = json!({"podCIDR": "10.244.0.0/24"});
    let first = api.create(NODES, node("a", &spec)).await;
    assert_eq!(range(&first), "10.244.0.0/24");
    let (code, status) = api.send("POST", NODES, node("b", &spec)).await;
    assert_eq!(code, 422);
    assert_eq!(
        status["message"],
        "Node \"b\" is invalid: spec.podCIDR: Invalid value: \"10.244.0.0/24\": provided range is \
         already allocated"
    );
    // An agent that creates its Node again must get the error that the Node exists.
    let (code, status) = api.send("POST", NODES, node("a", &spec)).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    let elsewhere = json!({"podCIDR": "10.9.0.0/24"});
    assert_eq!(api.send("POST", NODES, node("b", &elsewhere)).await.0, 422);
    let second = api.create(NODES, node("b", &json!({}))).await;
    assert_eq!(range(&second), "10.244.1.0/24");
    let changed = json!({"spec": {"podCIDR": "10.244.2.0/24", "podCIDRs": null}});
    let path = format!("{NODES}/b");
    assert_eq!(api.patch(&path, "merge", changed).await.0, 422);
}

#[tokio::test]
async fn nodes_of_before_keep_their_ranges() {
    let store = EmbeddedStore::in_memory();
    {
        let before = Api::of_cluster(store.clone(), &ClusterConfig::default()).await;
        let spec = json!({"podCIDR": "10.244.0.0/24"});
        before.create(NODES, node("old", &spec)).await;
        before.create(NODES, node("bare", &json!({}))).await;
    }
    let api = over(store).await;
    let new = api.create(NODES, node("new", &json!({}))).await;
    assert_eq!(range(&new), "10.244.1.0/24");
    let set = |range: &str| json!({"spec": {"podCIDR": range}});
    let bare = format!("{NODES}/bare");
    for range in ["10.244.0.0/24", "10.244.1.0/24"] {
        assert_eq!(api.patch(&bare, "merge", set(range)).await.0, 422);
    }
    let (code, updated) = api.patch(&bare, "merge", set("10.244.2.0/24")).await;
    assert_eq!((code, range(&updated).as_str()), (200, "10.244.2.0/24"));
    let next = api.create(NODES, node("next", &json!({}))).await;
    assert_eq!(range(&next), "10.244.3.0/24");
    let old = format!("{NODES}/old");
    assert_eq!(api.send("DELETE", &old, Value::Null).await.0, 200);
    let next = api.create(NODES, node("last", &json!({}))).await;
    assert_eq!(range(&next), "10.244.0.0/24");
}
