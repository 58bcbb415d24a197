//! The limits and the free storage of CSI drivers, with the rights of the scheduler.

use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
};

use super::*;

pub const DRIVER: &str = "disks.example.com";

/// The condition of a pod that no node's driver takes the volume of.
const FULL: &str = "0/1 nodes are available: 1 node(s) exceed max volume count. preemption: \
    0/1 nodes are available: 1 No preemption victims found for incoming pod.";

fn drivers(count: u8) -> Value {
    json!({"drivers": [{"name": DRIVER, "nodeID": "id", "topologyKeys": null,
        "allocatable": {"count": count}}]})
}

impl Cluster {
    /// A cluster with a driver and its class `disks`.
    pub async fn with_driver(nodes: &[&str], spec: Value) -> Self {
        let cluster = Self::new(nodes).await;
        let params = PostParams::default();
        let drivers: Api<CSIDriver> = Api::all(cluster.client.clone());
        let driver = json!({"metadata": {"name": DRIVER}, "spec": spec});
        drivers.create(&params, &typed(driver)).await.unwrap();
        let classes: Api<StorageClass> = Api::all(cluster.client.clone());
        let class = json!({"metadata": {"name": "disks"}, "provisioner": DRIVER,
            "allowVolumeExpansion": true, "volumeBindingMode": "WaitForFirstConsumer"});
        classes.create(&params, &typed(class)).await.unwrap();
        cluster
    }

    fn attachments(&self) -> Api<VolumeAttachment> {
        Api::all(self.client.clone())
    }

    /// The driver on the node takes so many volumes.
    pub async fn limit(&self, node: &str, count: u8) {
        let api: Api<CSINode> = Api::all(self.client.clone());
        let params = PostParams::default();
        if api.get_opt(node).await.unwrap().is_none() {
            let object = json!({"metadata": {"name": node}, "spec": drivers(count)});
            api.create(&params, &typed(object)).await.unwrap();
        } else {
            let patch = Patch::Merge(json!({"spec": drivers(count)}));
            let params = PatchParams::default();
            api.patch(node, &params, &patch).await.unwrap();
        }
    }

    /// A volume of the driver for the claim of its name, with that claim or without it.
    async fn driver_volume(&self, name: &str, has_claim: bool) {
        let volume = json!({"metadata": {"name": format!("pv-{name}")}, "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "default", "name": name},
            "csi": {"driver": DRIVER, "volumeHandle": name}}});
        let params = PostParams::default();
        let volumes = self.volumes();
        volumes.create(&params, &typed(volume)).await.unwrap();
        if has_claim {
            self.create_claim(name, "").await;
        }
    }
}

#[tokio::test]
async fn a_pod_waits_for_a_place_among_the_driver_s_volumes() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.limit("n1", 1).await;
    for name in ["a", "b", "c"] {
        cluster.driver_volume(name, true).await;
    }
    cluster.create_pod("a", claiming("a")).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("a")).await;
    cluster.create_pod("b", claiming("b")).await;
    eventually(FULL.to_owned(), || cluster.node_or_reason("b")).await;
    // The driver takes more.
    cluster.limit("n1", 2).await;
    eventually("n1".to_owned(), || cluster.node_or_reason("b")).await;
    cluster.create_pod("c", claiming("c")).await;
    eventually(FULL.to_owned(), || cluster.node_or_reason("c")).await;
    let now = DeleteParams::default().grace_period(0);
    cluster.pods().delete("a", &now).await.unwrap();
    eventually("n1".to_owned(), || cluster.node_or_reason("c")).await;
}

#[tokio::test]
async fn a_pod_waits_until_the_driver_has_detached_another_volume() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.limit("n1", 1).await;
    cluster.driver_volume("old", false).await;
    cluster.driver_volume("new", true).await;
    let attachment = typed(json!({
        "metadata": {"name": "old", "finalizers": ["external-attacher/disks-example-com"]},
        "spec": {"attacher": DRIVER, "nodeName": "n1",
            "source": {"persistentVolumeName": "pv-old"}}}));
    let params = PostParams::default();
    let attachments = cluster.attachments();
    attachments.create(&params, &attachment).await.unwrap();
    cluster.create_pod("new", claiming("new")).await;
    eventually(FULL.to_owned(), || cluster.node_or_reason("new")).await;
    // The attacher has done its work.
    let params = DeleteParams::default();
    attachments.delete("old", &params).await.unwrap();
    eventually(FULL.to_owned(), || cluster.node_or_reason("new")).await;
    let detached = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let params = PatchParams::default();
    attachments.patch("old", &params, &detached).await.unwrap();
    eventually("n1".to_owned(), || cluster.node_or_reason("new")).await;
}

/// Of two decisions soon after each other, the reason of the last one stays.
#[tokio::test]
async fn a_reason_that_another_write_has_replaced_is_written_again() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.limit("n1", 0).await;
    cluster.driver_volume("data", true).await;
    cluster.create_pod("web-0", claiming("data")).await;
    eventually(FULL.to_owned(), || cluster.node_or_reason("web-0")).await;
    let late = Patch::Strategic(json!({"status": {"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "pod has unbound immediate PersistentVolumeClaims"}]}}));
    let params = PatchParams::default();
    let pods = cluster.pods();
    pods.patch_status("web-0", &params, &late).await.unwrap();
    eventually(FULL.to_owned(), || cluster.node_or_reason("web-0")).await;
}

/// KEP-1472.
#[tokio::test]
async fn a_volume_is_made_where_its_driver_has_room() {
    let spec = json!({"storageCapacity": true});
    let cluster = Cluster::with_driver(&["n1", "n2"], spec).await;
    let params = PostParams::default();
    let capacities: Api<CSIStorageCapacity> =
        Api::namespaced(cluster.client.clone(), "kube-system");
    for (node, free) in [("n1", "0"), ("n2", "500Mi")] {
        let capacity = json!({"metadata": {"name": node}, "storageClassName": "disks",
            "capacity": free,
            "nodeTopology": {"matchLabels": {"kubernetes.io/hostname": node}}});
        capacities.create(&params, &typed(capacity)).await.unwrap();
    }
    cluster.create_claim("data", "disks").await;
    cluster.create_pod("web-0", claiming("data")).await;
    let full = "0/2 nodes are available: 2 node(s) did not have enough free storage. preemption: \
        0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    eventually(full.to_owned(), || cluster.node_or_reason("web-0")).await;
    let more = Patch::Merge(json!({"capacity": "2Gi"}));
    let params = PatchParams::default();
    capacities.patch("n2", &params, &more).await.unwrap();
    let selected = || async {
        let claim = cluster.claims().get("data").await.unwrap();
        let annotations = claim.metadata.annotations.unwrap_or_default();
        annotations
            .get("volume.kubernetes.io/selected-node")
            .cloned()
    };
    eventually(Some("n2".to_owned()), selected).await;
}
