//! Invariants of the creation and the deletion of pods.

use std::collections::BTreeSet;

use resource_kinds::annotations::REJECTED;
use resource_kinds::labels;
use resource_kinds::stateful_set_policy::OnFailure;

use super::super::identity;
use super::super::member::{Member, Phase};
use super::super::observed::Strategy;
use super::super::options::StuckRollout;
use super::super::plan::StatefulSetAction;
use super::super::revisions::RevisionName;
use super::guard::fails_check;
use super::{
    Facts, deleted, is_other_there, is_up_to_date, is_updatable, missing, planned_revision,
    recreates,
};

/// A pod is created only for a desired ordinal, only once, and never while a pod of its name exists, even if that pod
/// is terminating, ended or foreign.
pub(super) fn names_are_free(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts { parsed, .. } = facts;
    let mut created = BTreeSet::new();
    let namespace = parsed.spec.namespace;
    let present: BTreeSet<&str> = parsed
        .observed
        .pods
        .iter()
        .filter(|pod| *pod.namespace == *namespace)
        .map(|pod| &*pod.name)
        .collect();
    for pod in &facts.created {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if present.contains(name) {
            violations.push(format!("{name} is created while it exists"));
        }
        if !created.insert(name) {
            violations.push(format!("{name} is created twice"));
        }
        let ordinal = identity::ordinal(parsed.spec.name, name);
        if !ordinal.is_some_and(|ordinal| parsed.spec.in_range(ordinal)) {
            violations.push(format!("{name} is created and not wanted"));
        }
    }
}

/// A desired pod is deleted only if it has ended or is outdated, and by its UID.
pub(super) fn deletions_are_justified(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts { parsed, .. } = facts;
    let status = parsed.spec.set.status.as_ref();
    let current = status.and_then(|status| status.current_revision.as_deref());
    let update = &facts.update;
    for (name, uid) in deleted(facts.plan) {
        let Some(member) = parsed.all().find(|member| member.name() == name) else {
            violations.push(format!("{name} is deleted and is not of the set"));
            continue;
        };
        if member.uid != *uid || member.terminating {
            violations.push(format!("{name} is deleted twice or under another uid"));
        }
        if !parsed.spec.in_range(member.ordinal) || member.phase == Phase::Ended {
            continue;
        }
        if is_up_to_date(parsed, update.as_ref(), member) {
            violations.push(format!("{name} is deleted though it is up to date"));
        }
        let below = member.ordinal < parsed.spec.first_updatable();
        if below && (current == Some(member.revision.as_str()) || member.ready_since.is_some()) {
            violations.push(format!(
                "{name} is deleted though it is below the partition"
            ));
        }
        if parsed.spec.strategy == Strategy::OnDelete {
            violations.push(format!("{name} is deleted in spite of OnDelete"));
        }
        if below && parsed.spec.options.stuck_rollout == StuckRollout::Wait {
            violations.push(format!("{name} is deleted though it is to be waited for"));
        }
    }
}

/// New pods have the update revision from the partition on, and the current revision below the partition.
pub(super) fn revisions_are_right(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts { parsed, .. } = facts;
    let planned = planned_revision(facts.plan);
    let update = planned.as_ref().or(facts.update.as_ref());
    let status = parsed.spec.set.status.as_ref();
    let named = status.and_then(|status| status.current_revision.as_deref());
    let mut stored = parsed.observed.revisions.iter();
    let current = named.filter(|named| stored.any(|r| r.metadata.name.as_deref() == Some(*named)));
    for pod in &facts.created {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let all = pod.metadata.labels.as_ref();
        let label = all.and_then(|all| all.get(labels::CONTROLLER_REVISION_HASH));
        let Some(label) = label.filter(|label| !label.is_empty()) else {
            violations.push(format!("{name} is created without a revision"));
            continue;
        };
        let ordinal = identity::ordinal(parsed.spec.name, name).unwrap_or_default();
        let expected = match parsed.spec.strategy {
            _ if facts.rejected.is_some() => current,
            Strategy::RollingUpdate(Some(_)) if !is_updatable(parsed, ordinal) => {
                current.or(update.map(RevisionName::as_str))
            }
            // A pod beyond the present step (rollouts.md R8).
            Strategy::RollingUpdate(_) if Some(label.as_str()) == current && facts.is_step_full => {
                current
            }
            // The number of current pods decides which pods keep the current revision (statefulset.md 5.9).
            Strategy::RollingUpdate(None) if Some(label.as_str()) == current => current,
            _ => update.map(RevisionName::as_str),
        };
        if expected.is_some_and(|expected| expected != label) {
            violations.push(format!("{name} is created at the wrong revision {label}"));
        }
    }
}

/// An update makes healthy pods unavailable only within the budget: `maxUnavailable`, or one pod, and that pod only
/// when all higher pods are updated and healthy.
pub(super) fn budget_is_respected(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts { parsed, .. } = facts;
    let disrupted: Vec<&Member<'_>> = facts
        .deleted
        .iter()
        .copied()
        .filter(|member| parsed.spec.in_range(member.ordinal) && !member.unavailable())
        .filter(|member| !facts.is_recreated(member))
        .collect();
    let Some(lowest) = disrupted.iter().map(|member| member.ordinal).min() else {
        return;
    };
    let down = parsed.members.iter().filter(|member| member.unavailable());
    let down = missing(parsed) + i64::try_from(down.count()).unwrap_or(i64::MAX);
    let all = down + i64::try_from(disrupted.len()).unwrap_or(i64::MAX);
    let max = match parsed.spec.strategy {
        Strategy::RollingUpdate(Some(rolling)) => rolling.max_unavailable,
        _ => None,
    };
    if let Some(max) = max {
        let replicas = i32::try_from(parsed.spec.replicas).unwrap_or(i32::MAX);
        let max = i64::from(max.of(replicas, false).max(1));
        if all > max {
            violations.push(format!(
                "{all} pods are down on account of an update that may take {max}"
            ));
        }
        return;
    }
    let update = &facts.update;
    let done = |ordinal: i64| {
        let member = parsed.members.get(ordinal);
        member.is_some_and(|m| !m.unavailable() && is_up_to_date(parsed, update.as_ref(), m))
    };
    // A pod in which the check of the guard fails may go first (rollouts.md R6).
    let fails_check = disrupted.iter().any(|member| fails_check(parsed, member));
    // With an order of the policy, all other pods that the update may touch are available.
    let is_available = |ordinal: i64| {
        let member = parsed.members.get(ordinal);
        member.is_some_and(|member| !member.unavailable())
    };
    let first = parsed.spec.first_updatable().max(parsed.spec.start);
    let is_next = fails_check
        || match facts.order.is_empty() {
            true => (lowest + 1..parsed.spec.ordinals().end).all(done),
            false => (first..parsed.spec.ordinals().end).all(is_available),
        };
    if disrupted.len() > 1 || !is_next {
        violations.push(format!(
            "pod {lowest} is updated before those above it work"
        ));
    }
}

/// While a rejected revision is held, no pod is deleted for an update (rollouts.md R13). A verdict is stored once, with
/// the evidence of a pod of that revision.
pub(super) fn a_rejected_revision_is_not_released(
    facts: &Facts<'_, '_>,
    violations: &mut Vec<String>,
) {
    let Facts { parsed, .. } = facts;
    if facts.rejected == Some(OnFailure::Hold) {
        let mut deleted = facts.deleted.iter();
        let is_update = |member: &&&Member<'_>| {
            parsed.spec.in_range(member.ordinal) && member.phase != Phase::Ended
        };
        if let Some(member) = deleted.find(is_update) {
            violations.push(format!(
                "{} is deleted though its update is held",
                member.name()
            ));
        }
    }
    let before = parsed.spec.set.status.as_ref();
    let before = before.and_then(|status| status.current_revision.as_ref());
    let after = facts.plan.status.as_ref();
    let after = after.and_then(|status| status.current_revision.as_ref());
    if facts.rejected.is_some() && after.is_some() && after != before {
        violations.push("the current revision changes in spite of a verdict".to_owned());
    }
    for action in facts.plan.actions() {
        let StatefulSetAction::RejectRevision { name, evidence, .. } = action else {
            continue;
        };
        let mut revisions = parsed.stored_revisions.iter();
        let stored = revisions.find(|revision| revision.name == name.as_str());
        let annotations = stored.and_then(|stored| stored.object.metadata.annotations.as_ref());
        if stored.is_none() || annotations.is_some_and(|all| all.contains_key(REJECTED)) {
            violations.push(format!("{name} is rejected twice, or is not stored"));
        }
        let mut members = parsed.members.iter();
        let is_witness = members.any(|member| {
            member.name() == evidence.pod
                && *member.uid.to_string() == *evidence.uid
                && member.revision == **name
        });
        if !is_witness {
            violations.push(format!("{name} is rejected without a pod that fails"));
        }
    }
}

/// With `Recreate`, no pod is created while a pod of another revision exists (rollouts.md R34).
pub(super) fn versions_do_not_mix(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Some(pod) = facts.created.first() else {
        return;
    };
    let is_held = facts.rejected == Some(OnFailure::Hold) && recreates(facts.parsed);
    let mut members = facts.parsed.all();
    let mixes = members.any(|member| facts.is_recreated(member));
    if mixes || (is_held && is_other_there(facts.parsed)) {
        let new = pod.metadata.name.as_deref().unwrap_or_default();
        violations.push(format!("{new} is created beside a pod of another revision"));
    }
}
