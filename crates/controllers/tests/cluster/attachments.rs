//! Attachment of volumes; the node and the driver's attacher are played by the test.

use api_client::{Api, DeleteParams, Patch, PatchParams, PostParams, Resource, ResourceExt};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use serde_json::{Value, json};

use crate::support::{Cluster, eventually};

const NAME: &str = "kubernetes.io/csi/d.example.com^h";

async fn create_all<K>(cluster: &Cluster, object: Value)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::all(cluster.client.clone());
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn pod(name: &str, node: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "nodeName": node,
        "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "c", "image": "a" }],
        "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] } })
}

async fn attachments(cluster: &Cluster) -> Vec<VolumeAttachment> {
    let api: Api<VolumeAttachment> = Api::all(cluster.client.clone());
    api.list(&Default::default()).await.unwrap().items
}

async fn attached_to(cluster: &Cluster) -> Vec<String> {
    let all = attachments(cluster).await;
    all.iter().map(|one| one.spec.node_name.clone()).collect()
}

async fn set_status(cluster: &Cluster, node: &str, status: Value) {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let patch = Patch::Merge(json!({ "status": status }));
    let params = PatchParams::default();
    nodes.patch_status(node, &params, &patch).await.unwrap();
}

/// The part of the driver's attacher.
async fn attach(cluster: &Cluster) {
    let api: Api<VolumeAttachment> = Api::all(cluster.client.clone());
    let params = PatchParams::default();
    for one in attachments(cluster).await {
        let patch = Patch::Merge(json!({ "status": { "attached": true } }));
        let done = api.patch_status(&one.name_any(), &params, &patch).await;
        done.unwrap();
    }
}

/// Deletes a pod as a node does when it has ended.
async fn ended(cluster: &Cluster, pod: &str) {
    let at_once = DeleteParams::default().grace_period(0);
    cluster.delete::<Pod>(pod, at_once).await;
}

/// The volume follows the pod from one node to another, and never before the first has let it go.
#[tokio::test]
async fn a_volume_follows_its_pod_when_the_node_has_let_it_go() {
    let cluster = Cluster::without_node().await;
    for node in ["n1", "n2"] {
        create_all::<Node>(&cluster, json!({ "metadata": { "name": node } })).await;
    }
    let volume = json!({ "metadata": { "name": "pv" }, "spec": {
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
        "claimRef": { "namespace": "default", "name": "c" },
        "csi": { "driver": "d.example.com", "volumeHandle": "h" } } });
    create_all::<PersistentVolume>(&cluster, volume).await;
    let claim = json!({ "metadata": { "name": "c" }, "spec": { "volumeName": "pv",
        "storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "1Gi" } } } });
    cluster.create::<PersistentVolumeClaim>(claim).await;
    cluster.create::<Pod>(pod("first", "n1")).await;
    eventually(async || attached_to(&cluster).await == ["n1"]).await;

    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let told = async |node: &str| {
        let status = nodes.get(node).await.unwrap().status.unwrap_or_default();
        let attached = status.volumes_attached.unwrap_or_default();
        attached.iter().any(|volume| volume.name == NAME)
    };
    set_status(&cluster, "n1", json!({ "volumesInUse": [NAME] })).await;
    assert!(!told("n1").await);
    attach(&cluster).await;
    eventually(async || told("n1").await).await;

    // The pod goes elsewhere, and the node still has the volume mounted.
    ended(&cluster, "first").await;
    cluster.create::<Pod>(pod("second", "n2")).await;
    eventually(async || {
        let events: Api<k8s_openapi::api::core::v1::Event> = cluster.api();
        let events = events.list(&Default::default()).await.unwrap().items;
        let words = |event: &k8s_openapi::api::core::v1::Event| event.message.clone();
        let mut words = events.iter().filter_map(words);
        words.any(|words| words.contains("Multi-Attach error"))
    })
    .await;
    assert_eq!(attached_to(&cluster).await, ["n1"]);
    assert!(told("n1").await);
    set_status(&cluster, "n1", json!({ "volumesInUse": null })).await;
    eventually(async || attached_to(&cluster).await == ["n2"]).await;
    assert!(!told("n1").await);

    // The second node is lost with the volume in use; a person says that it is off.
    attach(&cluster).await;
    set_status(&cluster, "n2", json!({ "volumesInUse": [NAME] })).await;
    eventually(async || told("n2").await).await;
    ended(&cluster, "second").await;
    let taint = json!({ "key": "node.kubernetes.io/out-of-service", "effect": "NoExecute" });
    let patch = Patch::Strategic(json!({ "spec": { "taints": [taint] } }));
    let params = PatchParams::default();
    nodes.patch("n2", &params, &patch).await.unwrap();
    eventually(async || attachments(&cluster).await.is_empty()).await;
}
