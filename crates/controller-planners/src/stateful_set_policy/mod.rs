//! StatefulSetPolicy: the status of a policy (rollouts.md S1, S4, S8, S9).
//!
//! **Goal**: the number of sets for which the policy is in force, and the condition `Accepted`. **Guarantees**: the status does
//! not change while the state does not change.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use resource_kinds::stateful_set_policy::{ACCEPTED, PolicyStatus, StatefulSetPolicy, in_force};

/// The observed state of a policy.
#[derive(Clone, Copy, Debug)]
pub struct ObservedPolicy<'o> {
    pub policy: &'o StatefulSetPolicy,
    /// All policies of its namespace.
    pub policies: &'o [Arc<StatefulSetPolicy>],
    /// All sets of its namespace.
    pub sets: &'o [Arc<StatefulSet>],
}

/// Plans the status of a policy; `None` if the stored status is right.
pub fn plan(observed: &ObservedPolicy<'_>, now: Timestamp) -> Option<PolicyStatus> {
    let ObservedPolicy {
        policy,
        policies,
        sets,
    } = *observed;
    let (mut in_force_for, mut conflict) = (0_i32, None);
    for set in sets {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let labels = set.metadata.labels.as_ref();
        if !policy.concerns(name, labels) {
            continue;
        }
        match in_force(name, labels, policies) {
            Some(winner) if winner.metadata.uid == policy.metadata.uid => in_force_for += 1,
            // A policy that names a set has precedence over one that selects it: that is no conflict.
            Some(winner) if winner.names_a_set() == policy.names_a_set() => {
                conflict.get_or_insert_with(|| (name, winner.name()));
            }
            _ => {}
        }
    }
    let (status, reason, message) = match (conflict, in_force_for) {
        (Some((set, winner)), _) => {
            let message = format!("StatefulSetPolicy {winner} is in force for StatefulSet {set}");
            ("False", "Conflict", message)
        }
        (None, 0) => {
            let message = "no StatefulSet is named or selected yet".to_owned();
            ("True", "WaitingForSet", message)
        }
        (None, _) => ("True", "InForce", String::new()),
    };
    let stored = policy.status.clone().unwrap_or_default();
    let mut conditions = stored.conditions.clone();
    let before = conditions.iter().position(|c| c.type_ == ACCEPTED);
    let before = before.map(|index| conditions.remove(index));
    let since = before.filter(|before| before.status == status);
    conditions.push(Condition {
        type_: ACCEPTED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: policy.metadata.generation,
        last_transition_time: since.map_or(Time(now), |before| before.last_transition_time),
    });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    let planned = PolicyStatus {
        observed_generation: policy.metadata.generation,
        sets: Some(in_force_for),
        conditions,
    };
    (planned != stored).then_some(planned)
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn policy(name: &str, created: &str, spec: Value) -> Arc<StatefulSetPolicy> {
        let object = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": created, "generation": 3},
            "spec": spec,
        });
        Arc::new(json_tree::from_value(object).unwrap())
    }

    fn set(name: &str) -> Arc<StatefulSet> {
        let object = json!({
            "metadata": {"name": name},
            "spec": {"selector": {}, "serviceName": "", "template": {}},
        });
        Arc::new(json_tree::from_value(object).unwrap())
    }

    fn status(
        policy: &StatefulSetPolicy,
        policies: &[Arc<StatefulSetPolicy>],
        sets: &[&str],
    ) -> (Option<i32>, String, String) {
        let sets: Vec<_> = sets.iter().map(|name| set(name)).collect();
        let observed = ObservedPolicy {
            policy,
            policies,
            sets: &sets,
        };
        let planned = plan(&observed, Timestamp::UNIX_EPOCH).unwrap();
        let again = StatefulSetPolicy {
            status: Some(planned.clone()),
            ..policy.clone()
        };
        let observed = ObservedPolicy {
            policy: &again,
            ..observed
        };
        assert_eq!(plan(&observed, Timestamp::from_second(60).unwrap()), None);
        assert_eq!(planned.observed_generation, Some(3));
        let condition = &planned.conditions[0];
        (
            planned.sets,
            condition.reason.clone(),
            condition.message.clone(),
        )
    }

    /// rollouts.md S1, S4, S8, S9
    #[test]
    fn a_policy_says_where_it_is_in_force() {
        let (old, new) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
        let first = policy("a", old, json!({"setRef": {"name": "db"}}));
        let second = policy("b", new, json!({"setRef": {"name": "db"}}));
        let default = policy("c", old, json!({"selector": {}}));
        let policies = [first.clone(), second.clone(), default.clone()];
        let in_force = |sets| (Some(sets), "InForce".to_owned(), String::new());
        assert_eq!(status(&first, &policies, &["db", "web"]), in_force(1));
        // A named set is left out of a default without a conflict.
        assert_eq!(status(&default, &policies, &["db", "web"]), in_force(1));
        let (sets, reason, message) = status(&second, &policies, &["db"]);
        assert_eq!((sets, reason.as_str()), (Some(0), "Conflict"));
        assert_eq!(
            message,
            "StatefulSetPolicy a is in force for StatefulSet db"
        );
        let (sets, reason, _) = status(&first, &policies, &["web"]);
        assert_eq!((sets, reason.as_str()), (Some(0), "WaitingForSet"));
    }
}
