//! Invariants of a status.

use k8s_openapi::api::apps::v1::{StatefulSetCondition, StatefulSetStatus};
use resource_kinds::reasons::stateful_set_condition as kinds;

use super::super::observed::ParsedSet;
use super::super::plan::StatefulSetPlan;

/// The counters are consistent, the generation is the observed generation, and each condition occurs once, has the time
/// of its last transition, and does not contradict another condition.
pub(super) fn is_sound(
    parsed: &ParsedSet<'_>,
    plan: &StatefulSetPlan,
    violations: &mut Vec<String>,
) {
    let Some(status) = &plan.status else {
        return;
    };
    let selected = parsed.spec.selector.is_some();
    if selected {
        counters_fit(status, violations);
    }
    let stored = parsed.spec.set.status.as_ref();
    let collisions = stored.and_then(|stored| stored.collision_count);
    if status.collision_count.unwrap_or_default() < collisions.unwrap_or_default() {
        violations.push("the count of collisions falls".to_owned());
    }
    if status.observed_generation < parsed.spec.set.metadata.generation {
        violations.push("an old generation is called observed".to_owned());
    }
    if !parsed.spec.deleting {
        conditions_agree(parsed, status, violations);
    }
}

fn counters_fit(status: &StatefulSetStatus, violations: &mut Vec<String>) {
    let number = |value: Option<i32>| value.unwrap_or_default();
    let parts = [
        number(status.ready_replicas),
        number(status.current_replicas),
        number(status.updated_replicas),
        number(status.available_replicas),
    ];
    let all = status.replicas;
    if parts.iter().any(|part| !(0..=all).contains(part)) || parts[3] > parts[0] {
        violations.push(format!("the counters {parts:?} do not fit {all} pods"));
    }
}

fn conditions_agree(
    parsed: &ParsedSet<'_>,
    status: &StatefulSetStatus,
    violations: &mut Vec<String>,
) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let stored = parsed.spec.set.status.as_ref();
    let stored = stored.and_then(|status| status.conditions.as_deref());
    let find = |all: &[StatefulSetCondition], kind: &str| {
        let mut of_kind = all
            .iter()
            .filter(|condition| condition.type_ == kind)
            .cloned();
        (of_kind.next(), of_kind.next())
    };
    let mut states = Vec::new();
    for kind in [kinds::AVAILABLE, kinds::PROGRESSING, kinds::STALLED] {
        let (Some(new), None) = find(conditions, kind) else {
            violations.push(format!("condition {kind} is not there once"));
            continue;
        };
        let (old, _) = find(stored.unwrap_or_default(), kind);
        let same = old.as_ref().filter(|old| old.status == new.status);
        let stored_time = same.and_then(|old| old.last_transition_time.as_ref());
        let at = new.last_transition_time.as_ref().map(|time| time.0);
        if at != Some(stored_time.map_or(parsed.now, |time| time.0)) {
            violations.push(format!(
                "condition {kind} does not date from its last change"
            ));
        }
        if new.reason.as_deref().is_none_or(str::is_empty) {
            violations.push(format!("condition {kind} has no reason"));
        }
        states.push(new.status);
    }
    if let [_, progressing, stalled] = &states[..]
        && (stalled == "True") != (progressing == "False")
    {
        violations.push("what is stalled does not progress, and only that".to_owned());
    }
}
