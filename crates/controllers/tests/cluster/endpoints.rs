//! Endpoints of a headless Service follow its pods.

use json_tree::json;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::DeleteParams;

use crate::stateful_sets::set;
use crate::support::{Cluster, names, wait_for};

fn hostnames(slices: &[EndpointSlice]) -> String {
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .is_some_and(|conditions| conditions.ready == Some(true))
    });
    let mut names: Vec<String> = ready
        .filter_map(|endpoint| endpoint.hostname.clone())
        .collect();
    names.sort();
    names.join(" ")
}

#[tokio::test]
async fn endpoints_follow_their_pods() {
    let cluster = Cluster::new().await;
    let service = json!({ "metadata": { "name": "svc" }, "spec": { "clusterIP": "None",
        "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80 }] } });
    cluster.create::<Service>(service).await;
    cluster.create::<StatefulSet>(set(3, "a", json!({}))).await;
    wait_for(&cluster, "web-0 web-1 web-2", hostnames).await;
    wait_for::<Endpoints>(&cluster, "3", |all| {
        let subsets = all
            .iter()
            .flat_map(|endpoints| endpoints.subsets.iter().flatten());
        subsets
            .flat_map(|subset| subset.addresses.iter().flatten())
            .count()
            .to_string()
    })
    .await;
    cluster
        .patch::<StatefulSet>("web", json!({ "spec": { "replicas": 1 } }))
        .await;
    wait_for(&cluster, "web-0", hostnames).await;
    // There is one slice all the time: a created slice is not created again.
    wait_for::<EndpointSlice>(&cluster, "1", |slices| slices.len().to_string()).await;
    cluster
        .delete::<Service>("svc", DeleteParams::default())
        .await;
    wait_for::<EndpointSlice>(&cluster, "", names).await;
    wait_for::<Endpoints>(&cluster, "", names).await;
    wait_for::<Pod>(&cluster, "web-0", names).await;
}
