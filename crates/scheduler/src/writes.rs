//! The scheduler's writes. Each names the identity it means, so that one that comes too late, or
//! twice, does no harm.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use placement::{ClaimStep, Obstacle};
use reconcile::{Cache, Key};
use resource_kinds::annotations::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;
use resource_kinds::volume_fit::claim_reference;
use serde_json::json;

use crate::reservations::TakenStep;

/// Binds the pod to the node.
pub(crate) async fn bind(client: Client, pod: &PodView, node: &str) -> kube::Result<()> {
    let (namespace, name): (&str, &str) = (&pod.namespace, &pod.name);
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": &*pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let api: Api<Pod> = Api::namespaced(client, namespace);
    let created: kube::Result<serde_json::Value> = api
        .create_subresource("binding", name, &PostParams::default(), &binding)
        .await;
    created.map(|_| ())
}

/// Takes the steps that get the pod's claims bound on the node; says where each was written.
pub(crate) async fn prepare(
    client: Client,
    pod: &Key,
    node: &str,
    steps: Vec<ClaimStep>,
    claims: &Cache<PersistentVolumeClaim>,
    volumes: &Cache<PersistentVolume>,
) -> kube::Result<Vec<TakenStep>> {
    let mut taken = Vec::new();
    for step in steps {
        let written = match &step {
            ClaimStep::Reserve { claim, volume } => {
                let (Some(claim), Some(volume)) =
                    (claims.get(&pod.namespace, claim), volumes.get("", volume))
                else {
                    continue; // gone meanwhile: the next decision sees it
                };
                reserve(&client, &claim, &volume).await?
            }
            ClaimStep::SelectNode { claim } => {
                let Some(claim) = claims.get(&pod.namespace, claim) else {
                    continue;
                };
                select_node(&client, &claim, node).await?
            }
        };
        let revision = written
            .resource_version
            .and_then(|written| written.parse().ok());
        taken.push(TakenStep { step, revision });
    }
    Ok(taken)
}

async fn reserve(
    client: &Client,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> kube::Result<ObjectMeta> {
    let by_user = volume
        .spec
        .as_ref()
        .is_some_and(|spec| spec.claim_ref.is_some());
    let mut metadata = json!({"resourceVersion": volume.metadata.resource_version});
    if !by_user {
        metadata["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
    }
    let patch = json!({"metadata": metadata, "spec": {"claimRef": claim_reference(claim)}});
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(written.metadata)
}

async fn select_node(
    client: &Client,
    claim: &PersistentVolumeClaim,
    node: &str,
) -> kube::Result<ObjectMeta> {
    let patch = json!({"metadata": {
        "uid": claim.metadata.uid,
        "annotations": {SELECTED_NODE: node},
    }});
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(written.metadata)
}

/// The condition that says why the pod has no node; `None` when the pod has it already.
pub(crate) fn condition(
    pod: &PodView,
    obstacle: &Obstacle,
    now: Timestamp,
) -> Option<PodCondition> {
    let present = pod.condition(pod_condition::SCHEDULED);
    let present = present.filter(|present| present.status() == "False");
    let same = present.is_some_and(|present| {
        present.reason() == Some(obstacle.reason)
            && present.message() == Some(obstacle.message.as_str())
    });
    if same {
        return None;
    }
    let since = present.and_then(|present| present.since);
    Some(PodCondition {
        type_: pod_condition::SCHEDULED.to_owned(),
        status: "False".to_owned(),
        reason: Some(obstacle.reason.to_owned()),
        message: Some(obstacle.message.clone()),
        last_transition_time: Some(Time(since.unwrap_or(now))),
        observed_generation: pod.generation,
        ..PodCondition::default()
    })
}

/// Writes the condition.
pub(crate) async fn explain(
    client: Client,
    pod: &PodView,
    condition: PodCondition,
) -> kube::Result<()> {
    let patch = json!({
        "metadata": {"uid": &*pod.uid},
        "status": {"conditions": [condition]},
    });
    let api: Api<Pod> = Api::namespaced(client, &pod.namespace);
    api.patch_status(
        &pod.name,
        &PatchParams::default(),
        &Patch::Strategic(&patch),
    )
    .await
    .map(|_| ())
}
