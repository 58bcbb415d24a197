//! Volumes that are local to a node: the related objects, and the records in their annotations.

use controller_planners::volume_move::NodePresence;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube_api_client::guarded_writes::{existing_object, merge};
use kube_api_client::{Api, Client, ListParams};
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;

/// The claim that a volume names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClaimName<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
}

/// The claim of a volume's `claimRef`; `None` if the volume has no claim, or names it without a namespace or a name.
pub(crate) fn claim_of(volume: &PersistentVolume) -> Option<ClaimName<'_>> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let claim = ClaimName {
        namespace: reference.namespace.as_deref()?,
        name: reference.name.as_deref()?,
    };
    (!claim.namespace.is_empty() && !claim.name.is_empty()).then_some(claim)
}

/// Whether a node exists and is ready.
pub(crate) fn presence(node: Option<&Node>) -> NodePresence {
    match node {
        None => NodePresence::Absent,
        Some(node) if node_conditions::is_ready(node) => NodePresence::Ready,
        Some(_) => NodePresence::Silent,
    }
}

/// A node, read from the API server.
pub(crate) async fn read_node(
    client: &Client,
    name: &str,
) -> kube_api_client::Result<Option<Node>> {
    let nodes: Api<Node> = Api::all(client.clone());
    existing_object(nodes.get(name).await)
}

/// The pods in the namespace of a volume's claim, read from the API server, because a pod that is missing in a cache
/// would lose its files.
pub(crate) async fn pods_in_namespace_of(
    client: &Client,
    volume: &PersistentVolume,
) -> kube_api_client::Result<Vec<PodView>> {
    let Some(claim) = claim_of(volume) else {
        return Ok(Vec::new());
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), claim.namespace);
    let listed = pods.list(&ListParams::default()).await?;
    let views = listed.items.iter().map(PodView::try_from);
    views
        .collect::<Result<_, _>>()
        .map_err(kube_api_client::Error::Json)
}

/// Replaces the record in an annotation, and changes the spec with it, if the volume is unchanged since it was read.
/// `false` if the volume has changed: the next round reads it again.
pub(crate) async fn write_record(
    client: &Client,
    volume: &PersistentVolume,
    annotation: &str,
    text: &str,
    spec: Option<Value>,
) -> kube_api_client::Result<bool> {
    let mut patch = json!({"metadata": {"annotations": {annotation: text}}});
    if let Some(spec) = spec {
        patch["spec"] = spec;
    }
    let written = merge(&Api::all(client.clone()), volume, patch).await?;
    Ok(written.is_some())
}
