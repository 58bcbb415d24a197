//! The urgency of a new status. The write of counters and messages may be delayed by one window (`batching`). The write
//! of values that later plans depend on, and of a new stage of the set, must not be delayed.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use super::observed::{Strategy, strategy};
use super::plan::StatefulSetPlan;
use crate::batching::WriteUrgency;

impl StatefulSetPlan {
    /// The weight of the planned status of that set; `None` if no status is planned.
    pub fn status_urgency(&self, set: &StatefulSet) -> Option<WriteUrgency> {
        let planned = self.status.as_ref()?;
        let Some(stored) = &set.status else {
            return Some(WriteUrgency::Immediate);
        };
        // A notice is a difference from the stored status: until the status is stored, each plan would repeat the
        // notice.
        let decides = !self.notices.is_empty() || decides(set, stored, planned);
        Some(if decides {
            WriteUrgency::Immediate
        } else if is_progress(stored, planned) {
            WriteUrgency::Prompt
        } else {
            WriteUrgency::Minor
        })
    }
}

/// Whether the number of current pods in the status decides the revision of a new pod: true without `rollingUpdate`
/// (statefulset.md 5.9).
pub fn counts_decide(set: &StatefulSet) -> bool {
    strategy(set) == Strategy::RollingUpdate(None)
}

/// Whether the readiness of a pod decides about other pods: true in an ordered set, and during an update. Otherwise the
/// readiness changes only the status.
pub fn readiness_decides(set: &StatefulSet) -> bool {
    let policy = set.spec.as_ref();
    let policy = policy.and_then(|spec| spec.pod_management_policy.as_deref());
    let is_settled = set.status.as_ref().is_some_and(|status| {
        status.observed_generation == set.metadata.generation
            && status.current_revision == status.update_revision
    });
    policy != Some("Parallel") || !is_settled
}

/// Whether later plans depend on the change.
fn decides(set: &StatefulSet, stored: &StatefulSetStatus, planned: &StatefulSetStatus) -> bool {
    (counts_decide(set) && stored.current_replicas != planned.current_replicas)
        || stored.observed_generation != planned.observed_generation
        || stored.current_revision != planned.current_revision
        || stored.update_revision != planned.update_revision
        || stored.collision_count != planned.collision_count
}

/// Whether a pod became ready or available, or is no longer so, or a condition changed. A new pod that is not ready is
/// counted together with its readiness, if the pod becomes ready soon.
fn is_progress(stored: &StatefulSetStatus, planned: &StatefulSetStatus) -> bool {
    let number = Option::unwrap_or_default;
    number(stored.ready_replicas) != number(planned.ready_replicas)
        || number(stored.available_replicas) != number(planned.available_replicas)
        || stored.conditions != planned.conditions
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use json_tree::{Value, json};

    use super::super::{Observed, SetEvent, plan};
    use super::*;

    /// The weight of that change to the status of a set with this strategy.
    fn weight(strategy: Value, change: Value, has_notice: bool) -> Option<WriteUrgency> {
        let status = json!({ "replicas": 2, "readyReplicas": 1, "currentReplicas": 2,
            "updatedReplicas": 2, "observedGeneration": 1, "currentRevision": "a",
            "updateRevision": "a" });
        let mut planned = status.clone();
        for (field, value) in change.as_object().unwrap() {
            planned[field] = value.clone();
        }
        let set = json!({ "metadata": { "name": "web", "namespace": "default", "uid": "u" },
            "spec": { "updateStrategy": strategy },
            "status": status });
        let set: StatefulSet = json_tree::from_value(set).unwrap();
        let observed = Observed {
            set: Arc::new(set.clone()),
            pods: Vec::new(),
            revisions: Vec::new(),
            claims: Default::default(),
            policy: None,
            group: Vec::new(),
            refused: Vec::new(),
        };
        let notice = SetEvent {
            warning: false,
            reason: "Scaling",
            message: String::new(),
        };
        let plan = StatefulSetPlan {
            status: json_tree::from_value(planned).unwrap(),
            notices: has_notice.then_some(notice).into_iter().collect(),
            ..plan(&observed, Timestamp::UNIX_EPOCH).unwrap()
        };
        plan.status_urgency(&set)
    }

    /// statefulset.md 5.9, 5.14, 5.18: the fields that plans and `kubectl rollout status` depend on are never late;
    /// counters may be late.
    #[test]
    fn only_counters_and_texts_may_be_late() {
        let rolling = || json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } });
        let of = |change| weight(rolling(), change, false);
        assert_eq!(of(json!({ "replicas": 3 })), Some(WriteUrgency::Minor));
        assert_eq!(
            of(json!({ "currentReplicas": 1 })),
            Some(WriteUrgency::Minor)
        );
        assert_eq!(
            of(json!({ "readyReplicas": 2 })),
            Some(WriteUrgency::Prompt)
        );
        for change in [
            json!({ "observedGeneration": 2 }),
            json!({ "currentRevision": "b" }),
            json!({ "updateRevision": "b" }),
            json!({ "collisionCount": 1 }),
        ] {
            assert_eq!(of(change), Some(WriteUrgency::Immediate));
        }
    }

    /// statefulset.md 5.9: the number of current pods is not late where it decides the revision of a new pod.
    #[test]
    fn the_number_of_current_pods_is_not_late_where_it_chooses_revisions() {
        let without = json!({ "type": "RollingUpdate" });
        let change = json!({ "currentReplicas": 1 });
        assert_eq!(
            weight(without, change, false),
            Some(WriteUrgency::Immediate)
        );
    }

    /// statefulset.md: in `Parallel` no pod waits for another, except in an update.
    #[test]
    fn readiness_decides_in_order_and_in_updates() {
        let decides = |policy: &str, generation: i64, update: &str| {
            let set = json!({"metadata": {"generation": generation},
                "spec": {"podManagementPolicy": policy}, "status": {"replicas": 1,
                    "observedGeneration": 2, "currentRevision": "a", "updateRevision": update}});
            readiness_decides(&json_tree::from_value(set).unwrap())
        };
        assert!(!decides("Parallel", 2, "a"));
        assert!(decides("OrderedReady", 2, "a"));
        assert!(decides("Parallel", 3, "a"));
        assert!(decides("Parallel", 2, "b"));
        assert!(readiness_decides(&StatefulSet::default()));
    }

    #[test]
    fn a_status_with_a_notice_is_written_with_it() {
        let change = json!({ "readyReplicas": 2 });
        assert_eq!(
            weight(json!({}), change, true),
            Some(WriteUrgency::Immediate)
        );
    }
}
