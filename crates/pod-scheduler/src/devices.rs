//! Devices for claims: the writes, and the expected claims until the caches show the writes.

use std::sync::Arc;

use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::resource::v1::{
    AllocationResult, ResourceClaim, ResourceClaimConsumerReference,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;
use resource_kinds::resource::ALLOCATED;

/// Allocates devices to a claim and reserves the claim for the pod, if the claim is unchanged.
pub(crate) async fn allocate(
    client: &Client,
    pod: &PodView,
    claim: &ResourceClaim,
    allocation: &AllocationResult,
) -> kube_api_client::Result<ObjectMeta> {
    // The finalizer comes first, so that an allocated claim is never removed.
    let mut claim = protect(client, claim).await?;
    let status = claim.status.get_or_insert_default();
    status.allocation = Some(AllocationResult {
        allocation_timestamp: Some(Time(Timestamp::now())),
        ..allocation.clone()
    });
    reserve(client, pod, claim).await
}

/// Reserves an allocated claim for the pod, if the claim is unchanged.
pub(crate) async fn reserve(
    client: &Client,
    pod: &PodView,
    mut claim: ResourceClaim,
) -> kube_api_client::Result<ObjectMeta> {
    add_user(&mut claim, pod);
    let name = claim.metadata.object_name()?.to_owned();
    let params = PostParams::default();
    let written = api(client, &claim)?
        .replace_status(&name, &params, &claim)
        .await?;
    Ok(written.metadata)
}

async fn protect(client: &Client, claim: &ResourceClaim) -> kube_api_client::Result<ResourceClaim> {
    let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    if finalizers.iter().any(|finalizer| finalizer == ALLOCATED) {
        return Ok(claim.clone());
    }
    finalizers.push(ALLOCATED.to_owned());
    let patch = json!({"metadata": {"finalizers": finalizers, "uid": claim.metadata.object_uid()?,
        "resourceVersion": claim.metadata.object_version()?}});
    let name = claim.metadata.object_name()?;
    let params = PatchParams::default();
    api(client, claim)?
        .patch(name, &params, &Patch::Merge(&patch))
        .await
}

fn api(client: &Client, claim: &ResourceClaim) -> Result<Api<ResourceClaim>, IncompleteMetadata> {
    let namespace = claim.metadata.object_namespace()?;
    Ok(Api::namespaced(client.clone(), namespace))
}

fn add_user(claim: &mut ResourceClaim, pod: &PodView) {
    let status = claim.status.get_or_insert_default();
    let users = status.reserved_for.get_or_insert_default();
    if !users.iter().any(|user| pod.uid == *user.uid) {
        users.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".to_owned(),
            name: pod.name.to_string(),
            uid: pod.uid.to_string(),
        });
    }
}

/// The claim after the write: with its allocation, if any, and with the reservation for the pod.
pub(crate) fn overlay(
    claim: &mut Arc<ResourceClaim>,
    pod: &PodView,
    allocation: Option<&AllocationResult>,
) {
    let claim = Arc::make_mut(claim);
    if let Some(allocation) = allocation {
        let status = claim.status.get_or_insert_default();
        status.allocation = Some(allocation.clone());
    }
    add_user(claim, pod);
}
