//! The guard of a StatefulSetPolicy: an eviction leaves enough pods of the set healthy (`docs/contract/rollouts.md`
//! R27–R31). Updates and scale-downs of a guarded set are evictions, too, so all voluntary deletions are decided here.

use jiff::Timestamp;
use json_tree::Value;
use object_model::{Cause, Status, StatusDetails, StatusReason};
use resource_kinds::stateful_set_policy::{CheckKind, Guard, GuardCount, HealthFacts, SetHealth};

use super::set::GovernedSet;
use crate::objects::metadata;
use crate::objects::storage::SyncReads;
use crate::objects::write_turn::WriteTurn;

/// The guard of a pod's set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guarding {
    /// The pod has no set, or its set no guard.
    Unguarded,
    Guarded {
        /// Whether budgets hold evictions by the controller of the set, too.
        has_budgets: bool,
    },
}

/// Checks that the guard of the pod's set permits the eviction. The turn is taken before the pods are counted, so that two evictions never use the same healthy pod.
///
/// *Errors.* 429 if the guard holds the pod; 500 if the policies cannot be read.
pub(super) fn check(
    reads: &SyncReads<'_>,
    turn: Option<&WriteTurn>,
    namespace: &str,
    set: Option<&GovernedSet>,
    pod: &Value,
    now: Timestamp,
) -> Result<Guarding, Status> {
    let Some((set, guard)) = set.and_then(|set| Some((set, set.policy.spec.guard.as_ref()?)))
    else {
        return Ok(Guarding::Unguarded);
    };
    if let Some(turn) = turn {
        turn.take(reads);
    }
    let others = set.others(reads, namespace)?;
    // Pods of other sets need not be decoded for a set without a group.
    let word = if others.is_empty() {
        &*set.uid
    } else {
        "StatefulSet"
    };
    let pods = reads.list_with("", "pods", namespace, &[word]);
    let health = |set: &GovernedSet, guard: &Guard| {
        let desired = pods.iter().filter(|pod| set.has_desired(pod));
        SetHealth::of(&set.name, guard, set.replicas, desired.map(facts), now)
    };
    let of_others = others.iter();
    let of_others = of_others.filter_map(|set| Some(health(set, set.policy.spec.guard.as_ref()?)));
    let count = GuardCount::of(guard, health(set, guard), of_others.collect());
    match count
        .pods
        .permits(guard.judge(facts(pod), now), set.desires(pod))
    {
        true => Ok(Guarding::Guarded {
            has_budgets: guard.budgets,
        }),
        false => Err(refused(set.policy.name(), &count)),
    }
}

/// The facts of a pod from which its health is judged.
pub(super) fn facts(pod: &Value) -> HealthFacts {
    let conditions = pod["status"]["conditions"].as_array();
    let holds = |kind: &str| {
        let mut conditions = conditions.into_iter().flatten();
        conditions.find(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    let time = |condition: &Value| condition["lastTransitionTime"].as_str()?.parse().ok();
    HealthFacts {
        is_ready: holds("Ready").is_some(),
        is_deleting: metadata::is_deleting(pod),
        disrupted_at: holds("DisruptionTarget").and_then(time),
        passes_health: holds(CheckKind::Health.condition()).is_some(),
        passes_recovery: holds(CheckKind::Recovery.condition()).is_some(),
    }
}

fn refused(policy: &str, count: &GuardCount) -> Status {
    let why = count.text();
    let text = format!(
        "Cannot evict pod as it would violate the guard of StatefulSetPolicy {policy}: {why}."
    );
    let cause = format!("The guard of StatefulSetPolicy {policy} holds the pod: {why}");
    held(text, cause)
}

/// The refusal of an eviction by a policy.
pub(super) fn held(text: String, cause: String) -> Status {
    let mut status = Status::new(StatusReason::TooManyRequests, text);
    status.details = Some(Box::new(StatusDetails {
        causes: vec![Cause {
            reason: "StatefulSetPolicy".to_owned(),
            message: cause,
            field: String::new(),
        }],
        ..StatusDetails::default()
    }));
    status
}
