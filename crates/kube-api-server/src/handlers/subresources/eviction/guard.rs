//! The guard of a StatefulSetPolicy: an eviction leaves enough pods of the set healthy (`docs/contract/rollouts.md`
//! R27–R31). Updates and scale-downs of a guarded set are evictions, too, so all voluntary deletions are decided here.

use jiff::Timestamp;
use json_tree::Value;
use object_model::{Cause, Status, StatusDetails, StatusReason};
use resource_kinds::apps::ordinal;
use resource_kinds::stateful_set_policy::{
    CheckKind, GROUP, Guard, HealthCount, HealthFacts, PLURAL, StatefulSetPolicy, in_force,
};

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
    pod: &Value,
    now: Timestamp,
) -> Result<Guarding, Status> {
    let Some(set) = GuardedSet::of(reads, namespace, pod)? else {
        return Ok(Guarding::Unguarded);
    };
    if let Some(turn) = turn {
        turn.take(reads);
    }
    let pods = reads.list_with("", "pods", namespace, &[&set.uid]);
    let desired = pods.iter().filter(|pod| {
        let owner = set_of(pod);
        owner.is_some_and(|(_, uid)| uid == set.uid) && set.desires(pod)
    });
    let count = set.guard.count(set.replicas, desired.map(facts), now);
    match count.permits(set.guard.judge(facts(pod), now), set.desires(pod)) {
        true => Ok(Guarding::Guarded {
            has_budgets: set.guard.budgets,
        }),
        false => Err(refused(&set.policy, count)),
    }
}

/// A set with the policy whose guard decides about its pods.
struct GuardedSet {
    name: String,
    uid: String,
    start: i64,
    replicas: i64,
    /// The name of the policy.
    policy: String,
    guard: Guard,
}

impl GuardedSet {
    /// The set of a pod, if a policy with a guard is in force for it.
    fn of(reads: &SyncReads<'_>, namespace: &str, pod: &Value) -> Result<Option<Self>, Status> {
        use resource_kinds::ObjectReader;

        let Some((name, uid)) = set_of(pod) else {
            return Ok(None);
        };
        let policies = reads.all(GROUP, PLURAL, namespace);
        if policies.is_empty() {
            return Ok(None);
        }
        let Some(set) = reads.get("apps", "statefulsets", namespace, name) else {
            return Ok(None);
        };
        if metadata::text(&set, "uid") != uid {
            return Ok(None);
        }
        let labels = set["metadata"]["labels"].as_object().map(|labels| {
            let texts = labels
                .iter()
                .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned())));
            texts.collect()
        });
        let decoded: Result<Vec<StatefulSetPolicy>, Status> =
            policies.into_iter().map(decoded).collect();
        let Some(policy) = in_force(name, labels.as_ref(), decoded?) else {
            return Ok(None);
        };
        let number = |value: &Value, default| value.as_i64().unwrap_or(default);
        Ok(policy.spec.guard.clone().map(|guard| Self {
            name: name.to_owned(),
            uid: uid.to_owned(),
            start: number(&set["spec"]["ordinals"]["start"], 0),
            replicas: number(&set["spec"]["replicas"], 1),
            policy: policy.name().to_owned(),
            guard,
        }))
    }

    /// Whether the ordinal of a pod is one of the desired ordinals.
    fn desires(&self, pod: &Value) -> bool {
        let ordinal = ordinal(&self.name, metadata::text(pod, "name"));
        ordinal.is_some_and(|ordinal| (self.start..self.start + self.replicas).contains(&ordinal))
    }
}

fn decoded(policy: Value) -> Result<StatefulSetPolicy, Status> {
    let name = metadata::text(&policy, "name").to_owned();
    json_tree::from_value(policy).map_err(|error| {
        Status::internal(format!(
            "StatefulSetPolicy {name} is unreadable, so no pod is evicted: {error}"
        ))
    })
}

/// The name and the UID of the StatefulSet that controls a pod.
fn set_of(pod: &Value) -> Option<(&str, &str)> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let group = owner["apiVersion"].as_str()?.split_once('/')?.0;
    let is_set = owner["kind"] == "StatefulSet" && group == "apps";
    is_set.then_some((owner["name"].as_str()?, owner["uid"].as_str()?))
}

fn facts(pod: &Value) -> HealthFacts {
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

fn refused(policy: &str, count: HealthCount) -> Status {
    let why = count.text();
    let text = format!(
        "Cannot evict pod as it would violate the guard of StatefulSetPolicy {policy}: {why}."
    );
    let mut status = Status::new(StatusReason::TooManyRequests, text);
    status.details = Some(Box::new(StatusDetails {
        causes: vec![Cause {
            reason: "StatefulSetPolicy".to_owned(),
            message: format!("The guard of StatefulSetPolicy {policy} holds the pod: {why}"),
            field: String::new(),
        }],
        ..StatusDetails::default()
    }));
    status
}
