//! Pods of nodes that are not there.

use api_client::{Api, Patch, PatchParams, PostParams};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;

use crate::support::{Cluster, names, wait_for};

/// statefulset.md 3.31, T41: a node that a person has declared out of service gives up its terminating pods;
/// statefulset.md 12.17: and a NoExecute taint drives away those that do not tolerate it.
#[tokio::test]
async fn an_out_of_service_node_gives_up_its_pods() {
    let cluster = Cluster::without_node().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = serde_json::from_value(json!({ "metadata": { "name": "n1" } })).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n1",
        "containers": [{ "name": "c", "image": "a" }] } });
    cluster.create::<Pod>(pod).await;
    wait_for::<Pod>(&cluster, "p", names).await;
    let taint = json!({ "key": "node.kubernetes.io/out-of-service", "effect": "NoExecute" });
    let patch = Patch::Strategic(json!({ "spec": { "taints": [taint] } }));
    nodes
        .patch("n1", &PatchParams::default(), &patch)
        .await
        .unwrap();
    wait_for::<Pod>(&cluster, "", names).await;
}
