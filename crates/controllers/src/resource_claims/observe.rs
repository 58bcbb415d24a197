//! The observed state of the pods that a claim names.

use std::collections::BTreeMap;

use controller_framework::Cache;
use controller_planners::resource_claims::{ConsumerState, consumers};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube_api_client::guarded_writes::existing_object;
use kube_api_client::{Api, Client};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

/// Pods by name and UID.
pub(super) type Pods = BTreeMap<(String, String), ConsumerState>;

/// Whether a pod has ResourceClaims.
pub(super) fn has_claims(pod: &PodView) -> bool {
    let claims = pod.spec.resource_claims.as_deref();
    claims.is_some_and(|claims| !claims.is_empty())
}

/// The names of the pods of a claim: its consumers and its owner.
pub(super) fn pods_of(claim: &ResourceClaim) -> impl Iterator<Item = &str> {
    named(claim).map(|(name, _)| name)
}

/// The names and UIDs of the pods of a claim: its consumers and its owner.
fn named(claim: &ResourceClaim) -> impl Iterator<Item = (&str, &str)> {
    let users = consumers(claim).iter();
    let users = users.filter(|user| user.resource == "pods");
    let users = users.map(|user| (user.name.as_str(), user.uid.as_str()));
    let owners = claim.metadata.owner_references.iter().flatten();
    let owners = owners.filter(|owner| owner.kind == "Pod");
    users.chain(owners.map(|owner| (owner.name.as_str(), owner.uid.as_str())))
}

/// Observes the pods of a claim. Pods that are missing in the cache are read from the API server: a new pod may not be
/// in the cache yet, and must keep its claim.
pub(super) async fn observe(
    client: &Client,
    cache: &Cache<PodView>,
    claim: &ResourceClaim,
) -> kube_api_client::Result<Pods> {
    let namespace = claim.metadata.object_namespace()?;
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut pods = Pods::new();
    for (name, uid) in named(claim) {
        let cached = cache.get(namespace, name).filter(|pod| pod.uid == *uid);
        let observed_state = match cached {
            Some(pod) => state(&pod),
            None => match existing_object(api.get(name).await)? {
                Some(pod) if pod.metadata.object_uid()? == *uid => {
                    state(&pod.try_into().map_err(kube_api_client::Error::Json)?)
                }
                _ => ConsumerState::Absent,
            },
        };
        pods.insert((name.to_owned(), uid.to_owned()), observed_state);
    }
    Ok(pods)
}

/// The state of a pod.
pub(super) fn state_of(pods: &Pods, name: &str, uid: &str) -> ConsumerState {
    let key = (name.to_owned(), uid.to_owned());
    pods.get(&key).copied().unwrap_or(ConsumerState::Unknown)
}

fn state(pod: &PodView) -> ConsumerState {
    let never_runs = pod.is_deleting() && pod.node.is_none();
    if pod.has_ended() || never_runs {
        ConsumerState::Ended
    } else {
        ConsumerState::Living
    }
}
