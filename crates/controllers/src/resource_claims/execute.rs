//! The writes, each guarded by the observed resourceVersion.

use controller_planners::resource_claims::{ClaimStep, PodStep};
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube_api_client::guarded_writes::{self, Delete, WriteRefusal, refusal, unless_outrun};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use resource_kinds::MetadataIdentity;

/// Executes one step for a pod.
///
/// # Errors
/// The API server refused the request, other than by a conflict.
pub(super) async fn pod_step(
    client: &Client,
    pod: &Pod,
    step: PodStep,
) -> kube_api_client::Result<()> {
    let namespace = pod.metadata.object_namespace()?;
    let claims: Api<ResourceClaim> = Api::namespaced(client.clone(), namespace);
    match step {
        PodStep::Create(claim) => match claims.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            // The name is derived from the pod: an earlier plan created the claim, which will be in the cache soon.
            Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        },
        PodStep::Note(names) => {
            let statuses: Vec<Value> = names
                .iter()
                .map(|(name, claim)| json!({"name": name, "resourceClaimName": claim}))
                .collect();
            let patch = json!({"metadata": {"uid": pod.metadata.object_uid()?},
                "status": {"resourceClaimStatuses": statuses}});
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let name = pod.metadata.object_name()?;
            let params = PatchParams::default();
            let patch = Patch::Strategic(patch);
            let written = pods.patch_status(name, &params, &patch).await;
            unless_outrun(written).map(drop)
        }
        PodStep::Reserve { claim, user } => {
            let mut claim = *claim;
            let users = claim.status.get_or_insert_default();
            users.reserved_for.get_or_insert_default().push(user);
            write_status(&claims, &claim).await.map(drop)
        }
        PodStep::Wait(_) => Ok(()),
    }
}

/// Executes the steps for a claim, until a conflict.
///
/// # Errors
/// The API server refused the request, other than by a conflict.
pub(super) async fn claim_steps(
    client: &Client,
    claim: &ResourceClaim,
    steps: Vec<ClaimStep>,
) -> kube_api_client::Result<()> {
    let namespace = claim.metadata.object_namespace()?;
    let name = claim.metadata.object_name()?;
    let api: Api<ResourceClaim> = Api::namespaced(client.clone(), namespace);
    let mut claim = claim.clone();
    for step in steps {
        match step {
            ClaimStep::Release {
                consumers: remaining,
                free,
            } => {
                let status = claim.status.get_or_insert_default();
                status.reserved_for = Some(remaining).filter(|remaining| !remaining.is_empty());
                if free {
                    status.allocation = None;
                }
                let Some(written) = write_status(&api, &claim).await? else {
                    return Ok(());
                };
                claim = written;
            }
            ClaimStep::Unprotect {
                finalizers: remaining,
            } => {
                let patch = json!({"metadata": {"finalizers": remaining,
                    "resourceVersion": claim.metadata.object_version()?}});
                let params = PatchParams::default();
                let written = api.patch(name, &params, &Patch::Merge(patch)).await;
                let Some(written) = unless_outrun(written)? else {
                    return Ok(());
                };
                claim = written;
            }
            ClaimStep::Delete => {
                let uid = claim.metadata.object_uid()?;
                guarded_writes::delete(&api, name, Delete::of_uid(uid.clone())).await?;
            }
        }
    }
    Ok(())
}

/// Replaces a claim's status; `None` after a conflict.
async fn write_status(
    api: &Api<ResourceClaim>,
    claim: &ResourceClaim,
) -> kube_api_client::Result<Option<ResourceClaim>> {
    let name = claim.metadata.object_name()?;
    let params = PostParams::default();
    unless_outrun(api.replace_status(name, &params, claim).await)
}
