//! Pods of nodes without a Node object.

use std::time::Duration;

use controller_planners::node_lifecycle::reach::{KUBELET_REACHABLE, KubeletPath};
use controllers::NodeReach;
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Event, Node, NodeCondition, PersistentVolume, PersistentVolumeClaim, Pod,
};
use kube_api_client::guarded_writes::{WriteRefusal, refusal};
use kube_api_client::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, ResourceExt};
use resource_kinds::annotations;

use crate::support::{Cluster, names, wait_for};

/// statefulset.md 3.31, T41: the terminating pods of an out-of-service node are removed; statefulset.md 12.17: a
/// `NoExecute` taint evicts the pods that do not tolerate it.
#[tokio::test]
async fn an_out_of_service_node_gives_up_its_pods() {
    let cluster = Cluster::without_node().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = json_tree::from_value(json!({ "metadata": { "name": "n1" } })).unwrap();
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

/// docs/many-machines.md: the Node reports the path to its kubelet API; a node in the process of the server has no such
/// condition.
#[tokio::test]
async fn a_node_has_the_way_to_it() {
    let cluster = Cluster::without_controllers().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    create_node(&nodes, "far").await;
    create_node(&nodes, "own").await;
    let address = "192.0.2.2:10250".to_owned();
    let reach = NodeReach::of(move |node| {
        let reached = (node == "far").then(|| KubeletPath::ThroughTunnel(address.clone()));
        Box::pin(async move { reached })
    });
    let _ended = cluster.start_controllers_with(Some(reach), &cluster.shutdown);
    let reason = |node: Node| {
        let conditions = node.status?.conditions?;
        let of_type = |one: &NodeCondition| one.type_ == KUBELET_REACHABLE;
        conditions.into_iter().find(of_type)?.reason
    };
    for _ in 0..2400 {
        if let Some(reason) = reason(nodes.get("far").await.unwrap()) {
            assert_eq!(reason, "Tunnel");
            let local = nodes.get("own").await.unwrap();
            assert_eq!(local.status.unwrap().conditions.unwrap().len(), 1);
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no condition");
}

async fn create_node(nodes: &Api<Node>, name: &str) {
    let node = json_tree::from_value(json!({ "metadata": { "name": name } })).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    say_ready(nodes, name).await;
}

async fn say_ready(nodes: &Api<Node>, name: &str) {
    let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady",
        "lastHeartbeatTime": Timestamp::now(), "lastTransitionTime": Timestamp::now() });
    let patch = Patch::Strategic(json!({ "status": { "conditions": [ready] } }));
    let params = PatchParams::default();
    nodes.patch_status(name, &params, &patch).await.unwrap();
}

async fn bind(cluster: &Cluster, pod: &str, node: &str) {
    let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod },
        "target": { "kind": "Node", "name": node } });
    let pods = cluster.api::<Pod>();
    let params = PostParams::default();
    let bound = pods
        .create_subresource::<Value>("binding", pod, &params, &binding)
        .await;
    bound.unwrap();
}

fn uid_of(pods: &[Pod], name: &str) -> String {
    let pod = pods.iter().find(|pod| pod.name_any() == name);
    pod.and_then(|pod| pod.metadata.uid.clone())
        .unwrap_or_default()
}

/// Pods of a node whose lease is not renewed: pods of a set with the failover annotation are deleted by force, after
/// the lease was fenced; other pods wait (statefulset.md 3.31). The former holder cannot renew the lease any more.
#[tokio::test]
async fn a_silent_node_is_fenced_before_its_pods_are_replaced() {
    let cluster = Cluster::without_node().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    create_node(&nodes, "n1").await;
    create_node(&nodes, "n2").await;
    // The other node stays ready during the whole test.
    let beats = tokio::spawn(async move {
        loop {
            say_ready(&nodes, "n2").await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = json!({
        "metadata": { "name": "n1", "annotations": { annotations::ENDS_PODS: "true" } },
        "spec": { "holderIdentity": "n1", "leaseDurationSeconds": 2, "leaseTransitions": 4 },
    });
    let lease: Lease = json_tree::from_value(lease).unwrap();
    let lease = leases.create(&PostParams::default(), &lease).await.unwrap();
    let of_node = json!([{ "name": "v", "hostPath": { "path": "/v" } }]);
    for (name, annotation, volumes) in [
        ("goes", "Failover", json!([])),
        ("stays", "Failover", of_node),
        ("waits", "Wait", json!([])),
    ] {
        let containers = json!([{ "name": "c", "image": "a" }]);
        let template = json!({ "metadata": { "labels": { "app": name } },
            "spec": { "containers": containers, "volumes": volumes } });
        let set = json!({
            "metadata": { "name": name, "annotations": { annotations::NODE_FAILURE: annotation } },
            "spec": { "serviceName": name, "replicas": 1, "template": template,
                "selector": { "matchLabels": { "app": name } } },
        });
        cluster.create::<StatefulSet>(set).await;
    }
    wait_for::<Pod>(&cluster, "goes-0 stays-0 waits-0", names).await;
    let first = cluster
        .api::<Pod>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    let mark = |pod: &Pod| pod.annotations().contains_key(annotations::ENDS_WITH_LEASE);
    let marked: Vec<_> = first
        .iter()
        .filter(|pod| mark(pod))
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(marked, ["goes-0", "stays-0"]);
    bind(&cluster, "waits-0", "n1").await;
    bind(&cluster, "stays-0", "n1").await;
    wait_for::<Event>(&cluster, "true", |events| {
        let is_reported = events.iter().any(|event| {
            event.reason.as_deref() == Some("StaysWithNode")
                && event.involved_object.name.as_deref() == Some("stays-0")
                && event
                    .message
                    .as_deref()
                    .unwrap_or_default()
                    .contains("hostPath")
        });
        is_reported.to_string()
    })
    .await;
    // There was no reason for a fence.
    let fenced_lease = leases.get("n1").await.unwrap();
    assert_eq!(
        fenced_lease.metadata.resource_version,
        lease.metadata.resource_version
    );
    bind(&cluster, "goes-0", "n1").await;
    wait_for::<Pod>(&cluster, "true", |pods: &[Pod]| {
        let now = uid_of(pods, "goes-0");
        (!now.is_empty() && now != uid_of(&first, "goes-0")).to_string()
    })
    .await;
    let now = cluster
        .api::<Pod>()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    for name in ["stays-0", "waits-0"] {
        assert_eq!(uid_of(&now, name), uid_of(&first, name));
    }

    let fenced = leases.get("n1").await.unwrap();
    let spec = fenced.spec.clone().unwrap();
    assert_eq!(
        (spec.holder_identity, spec.lease_transitions),
        (None, Some(5))
    );
    let proof = &fenced.annotations()[annotations::FENCED];
    assert!(proof.contains("with epoch 5"), "{proof}");
    // A renewal that was sent earlier is refused.
    let late = Patch::Merge(json!({
        "metadata": { "resourceVersion": lease.metadata.resource_version },
        "spec": { "holderIdentity": "n1", "leaseTransitions": 4 },
    }));
    let refused = leases
        .patch("n1", &PatchParams::default(), &late)
        .await
        .unwrap_err();
    assert_eq!(refusal(&refused), WriteRefusal::Conflict);
    beats.abort();
}

/// A set with the annotation gives up its volume on a fenced node after the annotated time: claim and pod are created
/// again (docs/node-failure.md).
#[tokio::test]
async fn a_volume_of_a_fenced_node_is_given_up_where_the_set_says_so() {
    let cluster = Cluster::without_node().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    create_node(&nodes, "n1").await;
    create_node(&nodes, "n2").await;
    let beats = tokio::spawn(async move {
        loop {
            say_ready(&nodes, "n2").await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = json!({
        "metadata": { "name": "n1", "annotations": { annotations::ENDS_PODS: "true" } },
        "spec": { "holderIdentity": "n1", "leaseDurationSeconds": 2, "leaseTransitions": 0 },
    });
    let lease: Lease = json_tree::from_value(lease).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let volumes: Api<PersistentVolume> = Api::all(cluster.client.clone());
    for name in ["one", "two"] {
        let volume = json!({
            "metadata": { "name": name },
            "spec": { "capacity": { "storage": "1Mi" }, "accessModes": ["ReadWriteOnce"],
                "local": { "path": "/x" }, "nodeAffinity": { "required": { "nodeSelectorTerms": [
                    { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In",
                        "values": ["n1"] }] }] } } },
        });
        let volume: PersistentVolume = json_tree::from_value(volume).unwrap();
        volumes
            .create(&PostParams::default(), &volume)
            .await
            .unwrap();
    }
    for (name, annotation) in [("copies", "Recreate"), ("waits", "Wait")] {
        let template = json!({ "metadata": { "labels": { "app": name } },
            "spec": { "containers": [{ "name": "c", "image": "a" }] } });
        let claim = json!({ "metadata": { "name": "d" }, "spec": { "storageClassName": "",
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Mi" } } } });
        let set = json!({
            "metadata": { "name": name, "annotations": { annotations::NODE_FAILURE: "Failover",
                annotations::LOST_VOLUME: annotation, annotations::LOST_VOLUME_SECONDS: "1" } },
            "spec": { "serviceName": name, "replicas": 1, "template": template,
                "volumeClaimTemplates": [claim], "selector": { "matchLabels": { "app": name } } },
        });
        cluster.create::<StatefulSet>(set).await;
    }
    wait_for::<Pod>(&cluster, "copies-0 waits-0", names).await;
    let bound = |claims: &[PersistentVolumeClaim]| {
        let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref()?.phase.clone();
        let bound = claims
            .iter()
            .filter(|one| phase(one).as_deref() == Some("Bound"));
        bound.count().to_string()
    };
    wait_for::<PersistentVolumeClaim>(&cluster, "2", bound).await;
    let params = ListParams::default();
    let before = cluster.api::<Pod>().list(&params).await.unwrap().items;
    let claims = cluster.api::<PersistentVolumeClaim>();
    let lost = claims.get("d-copies-0").await.unwrap();
    let remaining_claim = claims.get("d-waits-0").await.unwrap();
    bind(&cluster, "waits-0", "n1").await;
    bind(&cluster, "copies-0", "n1").await;
    wait_for::<Pod>(&cluster, "true", |pods: &[Pod]| {
        let now = uid_of(pods, "copies-0");
        (!now.is_empty() && now != uid_of(&before, "copies-0")).to_string()
    })
    .await;
    let new = claims.get("d-copies-0").await.unwrap();
    assert_ne!(new.metadata.uid, lost.metadata.uid);
    let after = cluster.api::<Pod>().list(&params).await.unwrap().items;
    assert_eq!(uid_of(&after, "waits-0"), uid_of(&before, "waits-0"));
    let same = claims.get("d-waits-0").await.unwrap();
    assert_eq!(same.metadata.uid, remaining_claim.metadata.uid);
    wait_for::<Event>(&cluster, "true", |events| {
        let given_up = events
            .iter()
            .find(|event| event.reason.as_deref() == Some("VolumeGivenUp"));
        let text = given_up.and_then(|event| event.message.as_deref());
        text.is_some_and(|text| text.contains("(d-copies-0)"))
            .to_string()
    })
    .await;
    beats.abort();
}

/// The lease of a node whose Node object was deleted stays, and is fenced before the node's pods are deleted; then the
/// lease is deleted (statefulset.md 3.31, DESIGN §15).
#[tokio::test]
async fn pods_of_a_deleted_node_go_after_its_lease_was_taken() {
    let cluster = Cluster::without_node().await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    create_node(&nodes, "n1").await;
    let node = nodes.get("n1").await.unwrap();
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let owner =
        json!({ "apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node.metadata.uid });
    let lease = json!({
        "metadata": { "name": "n1", "ownerReferences": [owner],
            "annotations": { annotations::ENDS_PODS: "true" } },
        "spec": { "holderIdentity": "n1", "leaseDurationSeconds": 12, "leaseTransitions": 4 },
    });
    let lease: Lease = json_tree::from_value(lease).unwrap();
    leases.create(&PostParams::default(), &lease).await.unwrap();
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n1",
        "containers": [{ "name": "c", "image": "a" }] } });
    cluster.create::<Pod>(pod).await;
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    let mut epochs = Vec::new();
    wait_for::<Pod>(&cluster, "", names).await;
    for _ in 0..12_000 {
        let Some(lease) = leases.get_opt("n1").await.unwrap() else {
            break;
        };
        epochs.push(lease.spec.unwrap().lease_transitions);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The lease was fenced when the pod was deleted.
    assert!(!epochs.is_empty() && epochs.iter().all(|epoch| *epoch == Some(5)));
    assert!(leases.get_opt("n1").await.unwrap().is_none());
}
