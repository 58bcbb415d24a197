//! DaemonSets.

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube_api_client::{Api, DeleteParams, Patch, PatchParams, PostParams};

use crate::support::{Cluster, names, wait_for};

async fn add_node(cluster: &Cluster, name: &str, labels: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json!({ "metadata": { "name": name, "labels": labels } });
    let node: Node = json_tree::from_value(node).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
}

async fn patch_node(cluster: &Cluster, name: &str, patch: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let params = PatchParams::default();
    nodes
        .patch(name, &params, &Patch::Merge(patch))
        .await
        .unwrap();
}

fn set(image: &str) -> Value {
    json!({ "metadata": { "name": "agent" }, "spec": {
        "selector": { "matchLabels": { "app": "agent" } },
        "template": { "metadata": { "labels": { "app": "agent" } }, "spec": {
            "nodeSelector": { "disk": "fast" },
            // These nodes send no heartbeats.
            "tolerations": [{ "operator": "Exists", "effect": "NoSchedule" }],
            "containers": [{ "name": "c", "image": image }] } } } })
}

/// `n1:a n2:a`: the nodes that the pods require, and their images.
fn places(pods: &[Pod]) -> String {
    let mut printed: Vec<String> = pods
        .iter()
        .map(|pod| {
            let spec = json_tree::to_value(pod.spec.as_ref().unwrap()).unwrap();
            let terms = &spec["affinity"]["nodeAffinity"]
                ["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
            let node = terms[0]["matchFields"][0]["values"][0].as_str().unwrap();
            format!("{node}:{}", spec["containers"][0]["image"].as_str().unwrap())
        })
        .collect();
    printed.sort();
    printed.join(" ")
}

/// The counts of desired, current, updated and misscheduled pods.
fn counts(sets: &[DaemonSet]) -> String {
    let status = sets[0].status.clone().unwrap_or_default();
    format!(
        "{} {} {} {}",
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.updated_number_scheduled.unwrap_or_default(),
        status.number_misscheduled
    )
}

/// The node of a pod is that of its affinity, whichever node the simulated scheduler names.
#[tokio::test]
async fn each_fitting_node_has_a_pod() {
    let cluster = Cluster::without_node().await;
    add_node(&cluster, "n1", json!({ "disk": "fast" })).await;
    add_node(&cluster, "n2", json!({ "disk": "slow" })).await;
    cluster.create::<DaemonSet>(set("a")).await;
    wait_for(&cluster, "n1:a", places).await;
    wait_for(&cluster, "1 1 1 0", counts).await;

    patch_node(
        &cluster,
        "n2",
        json!({ "metadata": { "labels": { "disk": "fast" } } }),
    )
    .await;
    wait_for(&cluster, "n1:a n2:a", places).await;
    let taint = json!([{ "key": "k", "effect": "NoExecute" }]);
    patch_node(&cluster, "n1", json!({ "spec": { "taints": taint } })).await;
    wait_for(&cluster, "n2:a", places).await;
    wait_for(&cluster, "1 1 1 0", counts).await;

    let image = json!([{ "name": "c", "image": "b" }]);
    let change = json!({ "spec": { "template": { "spec": { "containers": image } } } });
    cluster.patch::<DaemonSet>("agent", change).await;
    wait_for(&cluster, "n2:b", places).await;
    wait_for::<ControllerRevision>(&cluster, "2", |all| all.len().to_string()).await;

    cluster
        .delete::<DaemonSet>("agent", DeleteParams::background())
        .await;
    wait_for::<Pod>(&cluster, "", names).await;
}
