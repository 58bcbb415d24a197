//! Attachment of volumes; the test acts as the node and as the driver's attacher.

use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Event, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube_api_client::{
    Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, Resource, ResourceExt,
};
use resource_kinds::namespaces::NODE_LEASES;
use tokio_util::sync::CancellationToken;

use crate::support::{Cluster, eventually};

const CLAIMED_AT: &str = "node.mainstay.dev/claimed-at";
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
    let object = json_tree::from_value(object).unwrap();
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

/// Acts as the driver's attacher.
async fn attach(cluster: &Cluster) {
    let api: Api<VolumeAttachment> = Api::all(cluster.client.clone());
    let params = PatchParams::default();
    for one in attachments(cluster).await {
        let patch = Patch::Merge(json!({ "status": { "attached": true } }));
        let done = api.patch_status(&one.name_any(), &params, &patch).await;
        done.unwrap();
    }
}

/// Deletes a pod as a node does after the end of the pod.
async fn ended(cluster: &Cluster, pod: &str) {
    let at_once = DeleteParams::default().grace_period(0);
    cluster.delete::<Pod>(pod, at_once).await;
}

/// Nodes, and a claim with a volume for one node.
async fn with_volume(nodes: &[&str]) -> Cluster {
    let cluster = Cluster::without_node().await;
    for node in nodes {
        create_all::<Node>(&cluster, json!({ "metadata": { "name": node } })).await;
    }
    volume(&cluster).await;
    cluster
}

async fn volume(cluster: &Cluster) {
    let volume = json!({ "metadata": { "name": "pv" }, "spec": {
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
        "claimRef": { "namespace": "default", "name": "c" },
        "csi": { "driver": "d.example.com", "volumeHandle": "h" } } });
    create_all::<PersistentVolume>(cluster, volume).await;
    let claim = json!({ "metadata": { "name": "c" }, "spec": { "volumeName": "pv",
        "storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": { "requests": { "storage": "1Gi" } } } });
    cluster.create::<PersistentVolumeClaim>(claim).await;
}

/// Whether the node's status lists the volume as attached.
async fn is_attached_in_status(cluster: &Cluster, node: &str) -> bool {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let status = nodes.get(node).await.unwrap().status.unwrap_or_default();
    let attached = status.volumes_attached.unwrap_or_default();
    attached.iter().any(|volume| volume.name == NAME)
}

/// Waits for an event that contains the text.
async fn event(cluster: &Cluster, text: &str) -> Event {
    let events: Api<Event> = cluster.api();
    for _ in 0..1000 {
        let listed = events.list(&Default::default()).await.unwrap().items;
        let has = |event: &Event| {
            event
                .message
                .as_deref()
                .is_some_and(|note| note.contains(text))
        };
        if let Some(matching) = listed.into_iter().find(has) {
            return matching;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no event: {text}");
}

/// The volume follows the pod to another node, and is never attached there before the first node has released the
/// volume.
#[tokio::test]
async fn a_volume_follows_its_pod_when_the_node_has_let_it_go() {
    let cluster = with_volume(&["n1", "n2"]).await;
    cluster.create::<Pod>(pod("first", "n1")).await;
    eventually(async || attached_to(&cluster).await == ["n1"]).await;

    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let is_attached = async |node: &str| is_attached_in_status(&cluster, node).await;
    set_status(&cluster, "n1", json!({ "volumesInUse": [NAME] })).await;
    assert!(!is_attached("n1").await);
    attach(&cluster).await;
    eventually(async || is_attached("n1").await).await;

    // The pod is bound to another node, and the first node still has the volume mounted.
    ended(&cluster, "first").await;
    cluster.create::<Pod>(pod("second", "n2")).await;
    event(&cluster, "Multi-Attach error").await;
    assert_eq!(attached_to(&cluster).await, ["n1"]);
    assert!(is_attached("n1").await);
    set_status(&cluster, "n1", json!({ "volumesInUse": null })).await;
    eventually(async || attached_to(&cluster).await == ["n2"]).await;
    assert!(!is_attached("n1").await);

    // The second node is lost with the volume in use; an administrator declares that the node is off.
    attach(&cluster).await;
    set_status(&cluster, "n2", json!({ "volumesInUse": [NAME] })).await;
    eventually(async || is_attached("n2").await).await;
    ended(&cluster, "second").await;
    let taint = json!({ "key": "node.kubernetes.io/out-of-service", "effect": "NoExecute" });
    let patch = Patch::Strategic(json!({ "spec": { "taints": [taint] } }));
    let params = PatchParams::default();
    nodes.patch("n2", &params, &patch).await.unwrap();
    eventually(async || attachments(&cluster).await.is_empty()).await;
}

/// The deletion of a Node does not prove that its machine is stopped: the volume stays attached until the node's lease
/// is fenced, because the agent has ended the pods by then.
#[tokio::test]
async fn a_deleted_node_keeps_its_volume_until_its_pods_are_known_to_be_dead() {
    let cluster = with_volume(&["n1", "n2"]).await;
    cluster.create::<Pod>(pod("first", "n1")).await;
    eventually(async || attached_to(&cluster).await == ["n1"]).await;
    set_status(&cluster, "n1", json!({ "volumesInUse": [NAME] })).await;
    attach(&cluster).await;
    eventually(async || is_attached_in_status(&cluster, "n1").await).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    ended(&cluster, "first").await;
    cluster.create::<Pod>(pod("second", "n2")).await;
    event(
        &cluster,
        "The Node n1 was deleted, and nothing proves that its pods are dead",
    )
    .await;
    assert_eq!(attached_to(&cluster).await, ["n1"]);

    let lease = json!({ "metadata": { "name": "n1",
            "annotations": { resource_kinds::annotations::FENCED: "its lease lapsed" } },
        "spec": { "leaseDurationSeconds": 40, "leaseTransitions": 1 } });
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), NODE_LEASES);
    let lease = json_tree::from_value(lease).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    eventually(async || attached_to(&cluster).await == ["n2"]).await;
}

/// A cluster without controllers, in which a former leader has attached the volume of a pod to `n1`.
async fn after_a_leader() -> Cluster {
    let cluster = Cluster::without_controllers().await;
    create_all::<Node>(&cluster, json!({ "metadata": { "name": "n1" } })).await;
    volume(&cluster).await;
    let first = CancellationToken::new();
    let ended_first = cluster.start_controllers(&first);
    eventually(async || has_account(&cluster).await).await;
    cluster.create::<Pod>(pod("p", "n1")).await;
    eventually(async || attached_to(&cluster).await == ["n1"]).await;
    first.cancel();
    ended_first.await.unwrap();
    attach(&cluster).await;
    cluster
}

/// A late deletion by a former leader does no harm: a pod may use the attachment again only when the attachment has
/// another version.
#[tokio::test]
async fn a_late_deletion_of_a_former_leader_finds_another_version() {
    let cluster = after_a_leader().await;
    let attachment = attachments(&cluster).await.remove(0);

    cluster.start_controllers(&cluster.shutdown);
    eventually(async || is_attached_in_status(&cluster, "n1").await).await;
    let late = DeleteParams {
        preconditions: Some(Preconditions {
            uid: attachment.uid(),
            resource_version: attachment.resource_version(),
        }),
        ..DeleteParams::default()
    };
    let api: Api<VolumeAttachment> = Api::all(cluster.client.clone());
    let refused = api.delete(&attachment.name_any(), &late).await.unwrap_err();
    assert_eq!(refused.code(), Some(409), "{refused:?}");
    let left = attachments(&cluster).await.remove(0);
    assert_eq!(left.uid(), attachment.uid());
    assert_eq!(left.metadata.deletion_timestamp, None);
}

/// A late write of `volumesAttached` by a former leader does not return a volume to a node after it was detached.
#[tokio::test]
async fn a_late_write_of_attached_volumes_finds_another_version() {
    let cluster = after_a_leader().await;
    ended(&cluster, "p").await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = nodes.get("n1").await.unwrap();
    assert_eq!(node.annotations().get(CLAIMED_AT), None);

    cluster.start_controllers(&cluster.shutdown);
    eventually(async || attachments(&cluster).await.is_empty()).await;
    let claimed = nodes.get("n1").await.unwrap();
    assert!(claimed.annotations().contains_key(CLAIMED_AT));
    let late = json!({ "metadata": { "resourceVersion": node.resource_version() },
        "status": { "volumesAttached": [{ "name": NAME, "devicePath": "" }] } });
    let params = PatchParams::default();
    let written = nodes.patch_status("n1", &params, &Patch::Merge(late)).await;
    assert_eq!(written.unwrap_err().code(), Some(409));
}

#[tokio::test]
async fn a_pod_hears_why_its_volume_is_not_attached() {
    let cluster = with_volume(&["n1"]).await;
    cluster.create::<Pod>(pod("p", "n1")).await;
    eventually(async || attached_to(&cluster).await == ["n1"]).await;
    let api: Api<VolumeAttachment> = Api::all(cluster.client.clone());
    let name = attachments(&cluster).await.remove(0).name_any();
    let words = "rpc error: code = Internal desc = no room";
    let status = json!({ "attached": false, "attachError": { "message": words } });
    let patch = Patch::Merge(json!({ "status": status }));
    let params = PatchParams::default();
    api.patch_status(&name, &params, &patch).await.unwrap();
    let reported = event(
        &cluster,
        "AttachVolume.Attach failed for volume \"pv\" : rpc error",
    )
    .await;
    assert_eq!(reported.reason.as_deref(), Some("FailedAttachVolume"));
    assert_eq!(reported.involved_object.name.as_deref(), Some("p"));
    assert!(reported.message.unwrap().ends_with(words));
}

async fn has_account(cluster: &Cluster) -> bool {
    let accounts: Api<ServiceAccount> = cluster.api();
    accounts.get_opt("default").await.unwrap().is_some()
}
