//! Namespaces and extension API servers that do not respond.

use std::time::{Duration, Instant};

use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube_api_client::{Api, DeleteParams, PostParams};

use crate::support::{Cluster, names, wait_for};

async fn namespace(cluster: &Cluster) -> Api<Namespace> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let shop: Namespace = json_tree::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
    api.create(&PostParams::default(), &shop).await.unwrap();
    api
}

/// The message of the condition about discovery; empty if it does not hold.
fn undiscovered(namespace: &Namespace) -> String {
    let status = namespace.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|one| one.conditions.iter().flatten());
    let condition = conditions
        .find(|one| one.type_ == "NamespaceDeletionDiscoveryFailure" && one.status == "True");
    condition
        .and_then(|one| one.message.clone())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_namespace_waits_for_an_absent_server_and_others_are_collected() {
    let cluster = Cluster::without_node().await;
    let services: Api<APIService> = Api::all(cluster.client.clone());
    let absent: Value = json!({"metadata": {"name": "v1.absent.example.com"}, "spec": {
        "group": "absent.example.com", "version": "v1", "groupPriorityMinimum": 1000,
        "versionPriority": 100, "insecureSkipTLSVerify": true,
        "service": {"namespace": "default", "name": "nothing"}}});
    let absent: APIService = json_tree::from_value(absent).unwrap();
    services
        .create(&PostParams::default(), &absent)
        .await
        .unwrap();
    let namespaces = namespace(&cluster).await;
    namespaces
        .delete("shop", &DeleteParams::default())
        .await
        .unwrap();
    let mut message = String::new();
    for _ in 0..1000 {
        let shop = namespaces.get("shop").await.unwrap();
        message = undiscovered(&shop);
        if !message.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        message.contains("absent.example.com/v1: stale GroupVersion discovery"),
        "{message:?}"
    );
    // Objects of other kinds are still collected with their owners.
    let owner: ConfigMap = cluster.create(json!({"metadata": {"name": "owner"}})).await;
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
        "uid": owner.metadata.uid});
    let dependent = json!({"metadata": {"name": "dependent", "ownerReferences": [reference]}});
    cluster.create::<Secret>(dependent).await;
    cluster
        .delete::<ConfigMap>("owner", DeleteParams::default())
        .await;
    wait_for::<Secret>(&cluster, "", names).await;
    assert!(namespaces.get_opt("shop").await.unwrap().is_some());
    // The namespace goes soon after the APIService.
    let params = DeleteParams::default();
    services
        .delete("v1.absent.example.com", &params)
        .await
        .unwrap();
    let started = Instant::now();
    while namespaces.get_opt("shop").await.unwrap().is_some() {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
