//! ReplicaSet and ReplicationController: a number of equal pods.
//!
//! **Goal**: as many active pods as `spec.replicas`. **Relies on**: a snapshot that contains the set's own last writes
//! (`pod_set`). **Guarantees**: surplus pods are deleted in kube-controller-manager's order; the status counts the
//! existing pods, even if writes fail.

mod rank;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use object_model::IncompleteMetadata;
use resource_kinds::pod_view::PodView;

use crate::pod_set::{self, BURST_MAX, Names, Owner, OwnerKind, PodAction, PodState, pod_of};

/// API version and kind of a ReplicaSet.
pub const REPLICA_SET: OwnerKind = OwnerKind {
    api_version: "apps/v1",
    kind: "ReplicaSet",
};
/// API version and kind of a ReplicationController.
pub const REPLICATION_CONTROLLER: OwnerKind = OwnerKind {
    api_version: "v1",
    kind: "ReplicationController",
};
/// The condition about failed creations and deletions of pods.
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The observed state of one ReplicaSet or ReplicationController.
#[derive(Clone, Debug)]
pub struct Observed {
    pub kind: OwnerKind,
    /// The set; a ReplicationController is [`converted`] first.
    pub set: Arc<ReplicaSet>,
    /// Pods of its namespace: at least those it owns, and those without an owner.
    pub pods: Vec<Arc<PodView>>,
}

/// The writes that bring a ReplicaSet closer to its specification.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaSetPlan {
    /// Writes to pods, in order.
    pub actions: Vec<PodAction>,
    /// The status after successful writes; see [`with_failure`] for failed ones.
    pub status: ReplicaSetStatus,
    /// The time after which to plan again even without an event.
    pub requeue_after: Option<Duration>,
}

/// Plans the writes for a set. Any specification gives a plan.
pub fn plan(observed: &Observed, now: Timestamp) -> Result<ReplicaSetPlan, IncompleteMetadata> {
    let set = &observed.set;
    let spec = set.spec.clone().unwrap_or_default();
    let owner = Owner::new(observed.kind, &set.metadata, &spec.selector)?;
    let min_ready = SignedDuration::from_secs(spec.min_ready_seconds.unwrap_or_default().into());
    let sorted = owner.sort(&observed.pods);
    let states: Vec<PodState<'_>> = sorted
        .mine
        .iter()
        .map(|pod| pod_set::state(pod, min_ready, now))
        .collect();
    let active: Vec<&PodState<'_>> = states.iter().filter(|state| state.active()).collect();
    let mut actions = sorted.actions;
    let desired = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
    let mut full = false;
    if !owner.deleting && owner.selector.is_some() {
        if let Some(missing) = desired.checked_sub(active.len()) {
            let template = spec.template.clone().unwrap_or_default();
            let mut names = Names::new(owner.name, &owner.uid, now, sorted.names);
            let pods = std::iter::repeat_with(|| new_pod(&owner, &template, &mut names));
            actions.extend(pods.take(missing.min(BURST_MAX)));
            full = missing > BURST_MAX;
        } else {
            let surplus = (active.len() - desired).min(BURST_MAX);
            let victims = rank::least_missed(&active, now).into_iter().take(surplus);
            actions.extend(victims.map(PodAction::delete));
        }
    }
    let wake = states.iter().filter_map(|state| state.available_at).min();
    let wait = wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    Ok(ReplicaSetPlan {
        actions,
        status: status(set, &spec.template.unwrap_or_default(), &states),
        requeue_after: if full { Some(Duration::ZERO) } else { wait },
    })
}

fn new_pod(owner: &Owner<'_>, template: &PodTemplateSpec, names: &mut Names) -> PodAction {
    let mut pod = pod_of(owner, template);
    pod.metadata.name = Some(names.draw());
    PodAction::Create(Box::new(pod))
}

fn status(
    set: &ReplicaSet,
    template: &PodTemplateSpec,
    states: &[PodState<'_>],
) -> ReplicaSetStatus {
    let stored = set.status.clone().unwrap_or_default();
    let labels = template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let fully_labeled = |state: &&PodState<'_>| {
        labels
            .into_iter()
            .flatten()
            .all(|(key, value)| state.label(key) == Some(value))
    };
    let active = || states.iter().filter(|state| state.active());
    let mut conditions = stored.conditions.unwrap_or_default();
    conditions.retain(|condition| condition.type_ != REPLICA_FAILURE);
    let terminating = states.iter().filter(|state| state.terminating);
    ReplicaSetStatus {
        replicas: count(active()),
        fully_labeled_replicas: Some(count(active().filter(fully_labeled))),
        ready_replicas: Some(count(active().filter(|state| state.ready()))),
        available_replicas: Some(count(active().filter(|state| state.available))),
        terminating_replicas: Some(count(terminating.filter(|state| !state.ended()))),
        observed_generation: set.metadata.generation.max(stored.observed_generation),
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// The status after a failed write to a pod.
pub fn with_failure(
    mut status: ReplicaSetStatus,
    stored: Option<&ReplicaSetStatus>,
    failed: &PodAction,
    message: String,
    now: Timestamp,
) -> ReplicaSetStatus {
    let reason = match failed {
        PodAction::Create(_) => "FailedCreate",
        PodAction::Delete { .. } => "FailedDelete",
        _ => return status,
    };
    let before = stored
        .and_then(|stored| stored.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .find(|c| c.type_ == REPLICA_FAILURE && c.reason.as_deref() == Some(reason));
    let failure = before.cloned().unwrap_or_else(|| ReplicaSetCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
    });
    status.conditions.get_or_insert_default().push(failure);
    status
}

/// Whether a status has to be written because it differs from the stored status.
pub fn differs(stored: Option<&ReplicaSetStatus>, status: &ReplicaSetStatus) -> bool {
    let plain = |status: &ReplicaSetStatus| {
        let number = |value: Option<i32>| value.unwrap_or_default();
        (
            status.replicas,
            number(status.fully_labeled_replicas),
            number(status.ready_replicas),
            number(status.available_replicas),
            number(status.terminating_replicas),
            status.observed_generation.unwrap_or_default(),
            status.conditions.clone().unwrap_or_default(),
        )
    };
    stored.is_none_or(|stored| plain(stored) != plain(status))
}

/// A ReplicationController as a ReplicaSet with equal behaviour.
pub fn converted(controller: &ReplicationController) -> ReplicaSet {
    let spec = controller.spec.clone().unwrap_or_default();
    let selector = LabelSelector {
        match_labels: spec.selector,
        match_expressions: None,
    };
    let status: Option<Value> = controller.status.as_ref().map(|status| json!(status));
    ReplicaSet {
        metadata: controller.metadata.clone(),
        spec: Some(k8s_openapi::api::apps::v1::ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector,
            template: spec.template,
        }),
        // Both types have equal field names.
        status: status.and_then(|status| json_tree::from_value(status).ok()),
    }
}
