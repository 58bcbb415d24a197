//! PodDisruptionBudget: the number of pods that may be evicted now.
//!
//! **Goal**: a status with the number of allowed evictions, for the API server to decide on. **Relies on**: the API
//! server, which writes each eviction into `disruptedPods` of the budget that the API server read. **Guarantees**: a
//! budget that cannot be computed allows no eviction.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use object_model::{IncompleteMetadata, IntOrPercent, LabelSelector, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;
use resource_kinds::stateful_set_policy::EVICTION_WITHIN;
use thiserror::Error;

use crate::batching::WriteUrgency;
use crate::pod_set::{PodState, state};

const ALLOWED: &str = "DisruptionAllowed";

/// The observed state of one PodDisruptionBudget.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The PodDisruptionBudget.
    pub budget: Arc<PodDisruptionBudget>,
    /// The pods that the budget selects, and the pods whose eviction the budget records. Further pods have no effect.
    pub pods: Vec<Arc<PodView>>,
    /// The scale of the pods, by the UID of the pods' controller. The controller of a ReplicaSet's pods
    /// is the Deployment, if the ReplicaSet has one.
    pub scales: BTreeMap<Uid, PodScale>,
}

/// The controller that sets the number of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodScale {
    /// Two controllers of pods with one scaler count once.
    pub scaler: Uid,
    pub replicas: i32,
}

/// The reason why the expected number of pods is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum UnknownScale {
    #[error("found no controllers for pod \"{pod}\"")]
    NoController { pod: String },
    #[error("{kind} of pod \"{pod}\" does not implement the scale subresource")]
    NoScale { kind: String, pod: String },
}

/// The status of a budget, with an event if it cannot be computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DisruptionPlan {
    /// The new status, if it differs from the stored one.
    pub status: Option<PodDisruptionBudgetStatus>,
    /// The reason why the budget cannot be computed, for an event.
    pub problem: Option<String>,
    /// The time after which to plan again even without an event.
    pub requeue_after: Option<Duration>,
}

impl DisruptionPlan {
    /// The weight of the new status; `None` if there is nothing to write. The API server allows evictions by the stored
    /// status, so a lower number of allowed evictions is written at once.
    pub fn urgency(&self, budget: &PodDisruptionBudget) -> Option<WriteUrgency> {
        let planned = self.status.as_ref()?;
        let Some(stored) = &budget.status else {
            return Some(WriteUrgency::Immediate);
        };
        let allowed = |status: &PodDisruptionBudgetStatus| status.disruptions_allowed;
        let decides = allowed(planned) < allowed(stored)
            || planned.observed_generation != stored.observed_generation;
        Some(match decides {
            true => WriteUrgency::Immediate,
            false => WriteUrgency::Prompt,
        })
    }
}

/// The selector of a budget; `None` if it is missing or invalid, and selects no pod.
pub fn selector(budget: &PodDisruptionBudget) -> Option<LabelSelector> {
    LabelSelector::of(budget.spec.as_ref()?.selector.as_ref()?)
}

/// Whether the status of a budget records the eviction of the pod of that name.
pub fn records_eviction(budget: &PodDisruptionBudget, pod: &str) -> bool {
    let status = budget.status.as_ref();
    let recorded = status.and_then(|status| status.disrupted_pods.as_ref());
    recorded.is_some_and(|recorded| recorded.contains_key(pod))
}

/// The pods that a budget of the namespace selects.
pub fn selected<'p>(
    namespace: &str,
    budget: &PodDisruptionBudget,
    pods: &'p [Arc<PodView>],
) -> Vec<&'p PodView> {
    let Some(selector) = selector(budget) else {
        return Vec::new();
    };
    let matches =
        |pod: &&PodView| *pod.namespace == *namespace && selector.matches_by(|key| pod.label(key));
    pods.iter().map(AsRef::as_ref).filter(matches).collect()
}

/// Plans the status of a budget.
pub fn plan(observed: &Observed, now: Timestamp) -> Result<DisruptionPlan, IncompleteMetadata> {
    let budget = &observed.budget;
    let stored = budget.status.clone().unwrap_or_default();
    if budget.metadata.deletion_timestamp.is_some() {
        return Ok(DisruptionPlan::default());
    }
    let namespace = budget.metadata.object_namespace()?;
    let states: Vec<PodState<'_>> = selected(namespace, budget, &observed.pods)
        .into_iter()
        .map(|pod| state(pod, SignedDuration::ZERO, now))
        .filter(|pod| !pod.ended())
        .collect();
    let (disrupted, wake) = still_disrupted(&stored, &observed.pods, now);
    let healthy = states
        .iter()
        .filter(|pod| !pod.terminating && pod.ready() && !disrupted.contains_key(pod.name()));
    let healthy = number(healthy.count());
    let uncounted = states.iter().filter(|pod| !pod.terminating);
    let expected = expected(observed, uncounted.map(|pod| pod.pod), number(states.len()));
    let (expected, desired, problem) = match expected {
        Ok((expected, desired)) => (expected, desired.max(0), None),
        Err(problem) => (0, 0, Some(problem.to_string())),
    };
    let allowed = match &problem {
        None if expected > 0 => healthy.saturating_sub(desired).max(0),
        _ => 0,
    };
    let status = PodDisruptionBudgetStatus {
        conditions: Some(vec![condition(
            &stored,
            budget,
            allowed,
            problem.as_deref(),
            now,
        )]),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: budget.metadata.generation,
    };
    Ok(DisruptionPlan {
        requeue_after: wake
            .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default()),
        status: (status != stored).then_some(status),
        problem,
    })
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Evictions whose pods still exist, and the time at which the first one stops counting.
fn still_disrupted(
    stored: &PodDisruptionBudgetStatus,
    pods: &[Arc<PodView>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Timestamp>) {
    let mut still = BTreeMap::new();
    let mut wake: Option<Timestamp> = None;
    for (name, since) in stored.disrupted_pods.iter().flatten() {
        let waits = pods
            .iter()
            .any(|pod| *pod.name == **name && !pod.is_deleting());
        let until = since.0.checked_add(EVICTION_WITHIN).unwrap_or(now);
        if waits && until > now {
            still.insert(name.clone(), since.clone());
            wake = Some(wake.map_or(until, |other| other.min(until)));
        }
    }
    (still, wake)
}

/// The expected number of pods, and the number that must stay healthy.
fn expected<'p>(
    observed: &Observed,
    pods: impl Iterator<Item = &'p PodView>,
    count: i32,
) -> Result<(i32, i32), UnknownScale> {
    let spec = observed.budget.spec.clone().unwrap_or_default();
    let parse = |value: &IntOrString| {
        let value = json_tree::to_value(value).ok()?;
        IntOrPercent::from_json(&value)
    };
    if let Some(most) = spec.max_unavailable.as_ref().and_then(parse) {
        let expected = desired_pods(observed, pods)?;
        return Ok((expected, expected.saturating_sub(most.of(expected, true))));
    }
    match spec.min_available.as_ref().and_then(parse) {
        Some(IntOrPercent::Int(least)) => Ok((count, least)),
        Some(share) => {
            let expected = desired_pods(observed, pods)?;
            Ok((expected, share.of(expected, true)))
        }
        None => Ok((count, 0)),
    }
}

/// The sum of the replicas of these pods' controllers.
fn desired_pods<'p>(
    observed: &Observed,
    pods: impl Iterator<Item = &'p PodView>,
) -> Result<i32, UnknownScale> {
    let mut scales: BTreeMap<&Uid, i32> = BTreeMap::new();
    for pod in pods {
        let name = &pod.name;
        let Some(owner) = &pod.controller else {
            let pod = name.to_string();
            return Err(UnknownScale::NoController { pod });
        };
        let Some(scale) = observed.scales.get(&owner.uid) else {
            return Err(UnknownScale::NoScale {
                kind: owner.kind.to_string(),
                pod: name.to_string(),
            });
        };
        scales.insert(&scale.scaler, scale.replicas);
    }
    Ok(scales
        .values()
        .fold(0, |sum, scale| sum.saturating_add(*scale)))
}

fn condition(
    stored: &PodDisruptionBudgetStatus,
    budget: &PodDisruptionBudget,
    allowed: i32,
    problem: Option<&str>,
    now: Timestamp,
) -> Condition {
    let (status, reason) = match problem {
        Some(_) => ("False", "SyncFailed"),
        None if allowed > 0 => ("True", "SufficientPods"),
        None => ("False", "InsufficientPods"),
    };
    let mut stored_conditions = stored.conditions.iter().flatten();
    // An unchanged condition keeps its transition time.
    let since = stored_conditions
        .find(|c| c.type_ == ALLOWED && c.status == status)
        .map(|c| c.last_transition_time.clone());
    Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: problem.unwrap_or_default().to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}
