//! The attach limit that a CSI driver reports, from the driver's response to the decision of the scheduler.

use json_tree::json;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSINode;
use kube_api_client::{Api, Patch, PatchParams};
use kube_api_server::UserInfo;
use tokio_util::sync::CancellationToken;

use crate::csi::{Disks, claim, key, started, until, with};
use crate::harness::{Harness, NODE};

/// Removes the taint, so that the scheduler uses the node. No controller runs in this test.
async fn admit_pods(harness: &Harness) {
    let nodes: Api<Node> = Api::all(harness.client.clone());
    let patch = Patch::Merge(json!({"spec": {"taints": null}}));
    let params = PatchParams::default();
    nodes.patch(NODE, &params, &patch).await.unwrap();
}

/// A claim with a bound volume.
async fn bound_claim(harness: &Harness, disks: &Disks, name: &str) {
    disks.claim(harness, name).await;
    let annotations = json!({"pv.kubernetes.io/bind-completed": "yes"});
    let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
    let claims = harness.api::<PersistentVolumeClaim>();
    let params = PatchParams::default();
    claims.patch(name, &params, &patch).await.unwrap();
}

/// The reason why the scheduler has chosen no node for the pod.
fn unscheduled(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|one| one.type_ == "PodScheduled")?;
    scheduled.message.as_deref()
}

pub async fn a_pod_waits_until_the_driver_takes_its_volume_too() {
    let harness = started("csi-limit").await;
    let mut disks = Disks::with_volumes_max(&harness, 2);
    key(&harness).await;
    let spec = json!({"attachRequired": false});
    disks.driver_object(&harness, spec).await;
    for name in ["v1", "v2", "v3"] {
        bound_claim(&harness, &disks, name).await;
    }
    disks.start();
    let drivers: Api<CSINode> = Api::all(harness.client.clone());
    until("the limit is known", || async {
        let node = drivers.get_opt(NODE).await.unwrap()?;
        let limit = node.spec.drivers.first()?.allocatable.as_ref()?.count;
        (limit == Some(2)).then_some(())
    })
    .await;
    admit_pods(&harness).await;
    let stop = CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let user = UserInfo::new("system:kube-scheduler", ["system:authenticated"]);
    let client = kube_api_client::Client::new(harness.server.local(user), "default");
    tokio::spawn(pod_scheduler::run(
        client,
        pod_scheduler::Config::default(),
        stop,
    ));

    for (pod, volume) in [("first", "v1"), ("second", "v2")] {
        harness.unplaced_pod(pod, with(claim(volume), "true")).await;
        harness.ready(pod).await;
    }
    harness
        .unplaced_pod("third", with(claim("v3"), "true"))
        .await;
    let message = "0/1 nodes are available: 1 node(s) exceed max volume count.";
    let is_limited = |pod: &Pod| unscheduled(pod).is_some_and(|text| text.starts_with(message));
    harness
        .until("third", "told of the limit", is_limited)
        .await;
    // A pod whose volume is on the node already does not count.
    harness
        .unplaced_pod("again", with(claim("v1"), "true"))
        .await;
    harness.ready("again").await;
    harness.delete("second").await;
    harness.ready("third").await;
    for pod in ["first", "again", "third"] {
        harness.delete(pod).await;
        harness.wait_deleted(pod).await;
    }
    for volume in ["v1", "v2", "v3"] {
        disks.free(volume).await;
    }
    disks.end(harness).await;
}
