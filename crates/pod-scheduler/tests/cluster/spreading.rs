//! Pods without constraints, spread over the nodes.

use json_tree::json;
use k8s_openapi::api::core::v1::Service;
use kube_api_client::{Api, PostParams};

use crate::{Cluster, eventually, typed};

// <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/#internal-default-constraints>
#[tokio::test]
async fn pods_of_a_service_without_a_controller_are_spread() {
    let cluster = Cluster::new(&["a", "b", "c"]).await;
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let service = typed(json!({"metadata": {"name": "web"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80}]}}));
    services
        .create(&PostParams::default(), &service)
        .await
        .unwrap();
    // Too little to count in the score of free room.
    let resources = json!({"requests": {"cpu": "1m", "memory": "1Ki"}});
    for (index, node) in ["a", "b", "c", "a", "b", "c"].into_iter().enumerate() {
        let name = format!("web-{index}");
        let pod = typed(json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": "a", "resources": resources}]}}));
        let pods = cluster.pods();
        pods.create(&PostParams::default(), &pod).await.unwrap();
        eventually(node.to_owned(), || cluster.node_or_reason(&name)).await;
    }
}
