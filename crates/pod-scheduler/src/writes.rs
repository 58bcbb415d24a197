//! The writes of the scheduler. Each write names the UID of its object, so that a late or repeated write has no effect.

use std::sync::Arc;

use controller_framework::Cache;
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube_api_client::guarded_writes::{Delete, delete, unless_outrun};
use kube_api_client::{Api, Client, Patch, PatchParams, PostParams};
use pod_placement::{ClaimStep, PlacementFailure, Preemption};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::pod_condition;
use resource_kinds::volume_fit::claim_reference;

use crate::devices;
use crate::reservations::ReservedClaim;

const NOMINATED: &str = "nominatedNodeName";

/// Binds the pod to the node.
pub(crate) async fn bind(client: Client, pod: &PodView, node: &str) -> kube_api_client::Result<()> {
    let (namespace, name): (&str, &str) = (&pod.namespace, &pod.name);
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let api: Api<Pod> = Api::namespaced(client, namespace);
    let created: kube_api_client::Result<json_tree::Value> = api
        .create_subresource("binding", name, &PostParams::default(), &binding)
        .await;
    created.map(|_| ())
}

/// The observed objects of the steps.
#[derive(Clone, Copy)]
pub(crate) struct ObservedCaches<'a> {
    pub claims: &'a Cache<PersistentVolumeClaim>,
    pub volumes: &'a Cache<PersistentVolume>,
    pub device_claims: &'a Cache<ResourceClaim>,
}

/// Executes the steps that bind the pod's claims to volumes on the node. Returns the revision of each write.
pub(crate) async fn prepare(
    client: Client,
    pod: &PodView,
    node: &str,
    steps: Vec<ClaimStep>,
    caches: ObservedCaches<'_>,
) -> kube_api_client::Result<Vec<ReservedClaim>> {
    let ObservedCaches {
        claims,
        volumes,
        device_claims,
    } = caches;
    let mut reserved = Vec::new();
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
            ClaimStep::Allocate { claim, allocation } => {
                let Some(claim) = device_claims.get(&pod.namespace, claim) else {
                    continue;
                };
                devices::allocate(&client, pod, &claim, allocation).await?
            }
            ClaimStep::UseDevices { claim } => {
                let Some(claim) = device_claims.get(&pod.namespace, claim) else {
                    continue;
                };
                devices::reserve(&client, pod, (*claim).clone()).await?
            }
        };
        let revision = written
            .resource_version
            .and_then(|written| written.parse().ok());
        reserved.push(ReservedClaim { step, revision });
    }
    Ok(reserved)
}

async fn reserve(
    client: &Client,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> kube_api_client::Result<ObjectMeta> {
    let by_user = volume
        .spec
        .as_ref()
        .is_some_and(|spec| spec.claim_ref.is_some());
    let mut metadata = json!({"resourceVersion": volume.metadata.object_version()?});
    if !by_user {
        metadata["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
    }
    let patch = json!({"metadata": metadata, "spec": {"claimRef": claim_reference(claim)}});
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let name = volume.metadata.object_name()?;
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(written.metadata)
}

async fn select_node(
    client: &Client,
    claim: &PersistentVolumeClaim,
    node: &str,
) -> kube_api_client::Result<ObjectMeta> {
    let patch = json!({"metadata": {
        "uid": claim.metadata.object_uid()?,
        "annotations": {SELECTED_NODE: node},
    }});
    let namespace = claim.metadata.object_namespace()?;
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let name = claim.metadata.object_name()?;
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    Ok(written.metadata)
}

/// The condition with the reason why the pod has no node; `None` if the pod already has the condition.
pub(crate) fn condition(
    pod: &PodView,
    obstacle: &PlacementFailure,
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

/// The change of the pod's nomination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nominated {
    /// The nomination is unchanged.
    Unchanged,
    /// The pod is nominated for this node.
    On(String),
    /// The pod has no nomination.
    Nowhere,
}

/// Writes the reason why the pod has no node, and its nomination. Returns the revision of the write.
pub(crate) async fn explain(
    client: &Client,
    pod: &PodView,
    condition: Option<PodCondition>,
    nominated: Nominated,
) -> kube_api_client::Result<Option<u64>> {
    let status = explanation(condition, nominated);
    let written = patch_status(client, pod, json!({"uid": pod.uid}), status).await?;
    let revision = written.metadata.resource_version;
    Ok(revision.and_then(|revision| revision.parse().ok()))
}

/// As [`explain`], but only if the pod is unchanged. *Errors.* A conflict if the pod has changed: it may have a node by
/// now.
pub(crate) async fn explain_unless_changed(
    client: &Client,
    pod: &PodView,
    condition: Option<PodCondition>,
    nominated: Nominated,
) -> kube_api_client::Result<()> {
    let metadata = json!({"uid": pod.uid, "resourceVersion": pod.resource_version});
    let status = explanation(condition, nominated);
    patch_status(client, pod, metadata, status).await.map(drop)
}

fn explanation(condition: Option<PodCondition>, nominated: Nominated) -> Value {
    let mut status = json_tree::Map::new();
    if let Some(condition) = condition {
        status.insert("conditions".to_owned(), json!([condition]));
    }
    match nominated {
        Nominated::Unchanged => {}
        Nominated::On(node) => {
            status.insert(NOMINATED.to_owned(), node.into());
        }
        Nominated::Nowhere => {
            status.insert(NOMINATED.to_owned(), Value::Null);
        }
    }
    status.into()
}

async fn patch_status(
    client: &Client,
    pod: &PodView,
    metadata: Value,
    status: Value,
) -> kube_api_client::Result<Pod> {
    let patch = json!({"metadata": metadata, "status": status});
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let patch = Patch::Strategic(&patch);
    api.patch_status(&pod.name, &PatchParams::default(), &patch)
        .await
}

/// Nominates the pod, clears the nominations of the displaced pods, and deletes the victims. Returns the pod's
/// resourceVersion and the deleted pods.
pub(crate) async fn preempt(
    client: &Client,
    pod: &PodView,
    condition: Option<PodCondition>,
    preemption: Preemption,
) -> kube_api_client::Result<(Option<u64>, Vec<Arc<PodView>>)> {
    let on = Nominated::On(preemption.node);
    let revision = explain(client, pod, condition, on).await?;
    for other in &preemption.displaced {
        let written = explain(client, other, None, Nominated::Nowhere).await;
        unless_outrun(written)?;
    }
    let mut deleted = Vec::new();
    for victim in preemption.victims {
        if !victim.is_deleting() && preempt_pod(client, &victim, pod).await? {
            deleted.push(victim);
        }
    }
    Ok((revision, deleted))
}

/// Sets the `DisruptionTarget` condition of the victim, and deletes it. Returns `false` if the victim did not exist.
async fn preempt_pod(
    client: &Client,
    victim: &PodView,
    pod: &PodView,
) -> kube_api_client::Result<bool> {
    let scheduler = pod.spec.scheduler_name.as_deref().unwrap_or_default();
    let condition = PodCondition {
        type_: pod_condition::DISRUPTION_TARGET.to_owned(),
        status: "True".to_owned(),
        reason: Some(pod_condition::PREEMPTION_BY_SCHEDULER.to_owned()),
        message: Some(format!(
            "{scheduler}: preempting to accommodate a higher priority pod"
        )),
        last_transition_time: Some(Time(Timestamp::now())),
        observed_generation: victim.generation,
        ..PodCondition::default()
    };
    let status = json!({"conditions": [condition]});
    let marked = patch_status(client, victim, json!({"uid": victim.uid}), status).await;
    if unless_outrun(marked)?.is_none() {
        return Ok(false);
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &victim.namespace);
    delete(&api, &victim.name, Delete::of_uid(victim.uid.clone())).await
}
