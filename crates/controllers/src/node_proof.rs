//! The proof that nothing runs on a node (docs/node-failure.md).

use controller_planners::attach_detach::DetachProof;
use controller_planners::node_lifecycle::fence::NodeLease;
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::guarded_writes;
use kube_api_client::{Api, Client, Patch, PatchParams};
use object_model::ResourceVersion;
use resource_kinds::annotations;
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::node_conditions;

/// The proof, from the node's taints and its Lease, which is read now.
pub(crate) async fn proof(
    client: &Client,
    name: &str,
    node: Option<&Node>,
) -> kube_api_client::Result<Option<DetachProof>> {
    if node.is_some_and(node_conditions::is_out_of_service) {
        return Ok(Some(DetachProof::OutOfService));
    }
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let lease = leases.get_opt(name).await?;
    let fenced = lease.is_some_and(|lease| NodeLease::from(&lease).fenced);
    Ok(fenced.then_some(DetachProof::Fenced))
}

/// A lease that may be fenced.
pub(crate) struct FencedLease<'o> {
    pub node: &'o str,
    pub version: ResourceVersion,
    pub lease: &'o NodeLease,
    /// The time for which the lease has had this version.
    pub unchanged_for: SignedDuration,
}

/// Fences the lease of a node by compare-and-swap, and writes the proof into it. Returns the proof; `None` if the lease
/// was renewed or deleted in the meantime.
pub(crate) async fn fence_lease(
    client: &Client,
    observed: &FencedLease<'_>,
    epoch: i32,
) -> kube_api_client::Result<Option<String>> {
    let proof = proof_text(observed.lease, epoch, observed.unchanged_for);
    let patch = json!({
        "metadata": {
            "resourceVersion": observed.version,
            "annotations": { annotations::FENCED: proof },
        },
        "spec": { "holderIdentity": Value::Null, "leaseTransitions": epoch },
    });
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let params = PatchParams::default();
    let written = leases
        .patch(observed.node, &params, &Patch::Merge(patch))
        .await;
    Ok(guarded_writes::unless_outrun(written)?.map(|_| proof))
}

/// The text of the proof, for users: the node's pods have ended.
fn proof_text(lease: &NodeLease, epoch: i32, unchanged_for: SignedDuration) -> String {
    let (length, silent) = (lease.length.as_secs(), unchanged_for.as_secs());
    let now = Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_default();
    format!(
        "its lease of {length}s was not renewed for {silent}s; taken at {now} with epoch {epoch}"
    )
}
