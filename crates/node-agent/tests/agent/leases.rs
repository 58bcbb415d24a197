//! The node's Lease, and pods that stop with it.

use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube_api_client::{Api, DeleteParams, Patch, PatchParams};
use resource_kinds::annotations;

use crate::harness::{Harness, IMAGE, NODE};
use crate::node::until_some;
use crate::pods::SLEEP;

pub fn pod(name: &str, ends: bool) -> Value {
    let marks = match ends {
        true => json!({ annotations::ENDS_WITH_LEASE: "true" }),
        false => json!({}),
    };
    json!({
        "metadata": { "name": name, "annotations": marks },
        "spec": {
            "nodeName": NODE,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "c", "image": IMAGE, "command": ["sh", "-c", SLEEP] }],
        },
    })
}

/// A fenced node stops the pods that may run on other nodes, and deletes their objects. Only then does the
/// node renew its Lease in the new epoch. Other pods continue.
pub async fn a_fenced_node_returns_without_the_pods_that_fail_over() {
    let harness = Harness::started("fenced").await;
    let leases: Api<Lease> = Api::namespaced(harness.client.clone(), "kube-node-lease");
    harness.create::<Pod>(pod("goes", true)).await;
    harness.create::<Pod>(pod("stays", false)).await;
    harness.ready("goes").await;
    let stays = harness.ready("stays").await;
    let lease = leases.get(NODE).await.unwrap();
    let epoch = lease.spec.unwrap().lease_transitions.unwrap();
    let marks = lease.metadata.annotations.unwrap_or_default();
    assert!(marks.contains_key(annotations::ENDS_PODS));
    let fence = json!({ "spec": { "holderIdentity": Value::Null, "leaseTransitions": epoch + 1 } });
    let params = PatchParams::default();
    leases
        .patch(NODE, &params, &Patch::Merge(fence))
        .await
        .unwrap();
    harness.wait_deleted("goes").await;
    let lease = until_some("the node has its lease again", async || {
        let spec = leases.get(NODE).await.unwrap().spec?;
        spec.holder_identity.is_some().then_some(spec)
    })
    .await;
    assert_eq!(lease.holder_identity.as_deref(), Some(NODE));
    assert_eq!(lease.lease_transitions, Some(epoch + 1));
    runs_in_the_new_epoch(&harness, &stays).await;
    harness.end().await;
}

/// New pods run, and the pod `stays` was not restarted.
async fn runs_in_the_new_epoch(harness: &Harness, stays: &Pod) {
    harness.create::<Pod>(pod("next", true)).await;
    harness.ready("next").await;
    let after = harness.ready("stays").await;
    assert_eq!(
        crate::restarts::container_id(&after),
        crate::restarts::container_id(stays)
    );
}

/// The Lease of a node may have been deleted after a fence. The node creates the Lease in a new epoch,
/// without the pods that may run on other nodes.
pub async fn a_node_whose_lease_is_gone_returns_without_the_pods_that_fail_over() {
    let harness = Harness::started("no-lease").await;
    let leases: Api<Lease> = Api::namespaced(harness.client.clone(), "kube-node-lease");
    harness.create::<Pod>(pod("goes", true)).await;
    harness.create::<Pod>(pod("stays", false)).await;
    harness.ready("goes").await;
    let stays = harness.ready("stays").await;
    let epoch = |lease: Lease| lease.spec.unwrap().lease_transitions.unwrap();
    let former = epoch(leases.get(NODE).await.unwrap());
    let params = DeleteParams::default();
    leases.delete(NODE, &params).await.unwrap();
    harness.wait_deleted("goes").await;
    let lease = until_some("the node has a lease", async || {
        leases.get_opt(NODE).await.unwrap()
    })
    .await;
    assert_eq!(epoch(lease), former + 1);
    runs_in_the_new_epoch(&harness, &stays).await;
    harness.end().await;
}
