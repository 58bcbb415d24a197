//! The steps of a rollout (rollouts.md R6 to R8).

use k8s_openapi::api::core::v1::Pod;
use resource_kinds::annotations::{APPROVED_STEP, ROLLOUT_STEP};
use resource_kinds::labels;
use resource_kinds::stateful_set_policy::{RolloutStrategy, StepPause, StepRecord, UpdateStep};

use super::super::identity;
use super::super::member::Member;
use super::super::observed::{ParsedSet, Strategy};
use super::super::plan::{StatefulSetAction, StatefulSetPlan};
use super::super::revisions::RevisionName;

/// The facts about a rollout that its steps need.
pub(super) struct StepFacts<'f, 'w> {
    pub parsed: &'f ParsedSet<'w>,
    pub plan: &'f StatefulSetPlan,
    pub current: Option<RevisionName>,
    pub update: Option<RevisionName>,
    pub is_rejected: bool,
    pub created: &'f [&'f Pod],
    pub deleted: &'f [&'f Member<'w>],
}

/// The present step of a rollout.
struct PresentStep<'f> {
    step: &'f UpdateStep,
    record: StepRecord,
    approval: Option<&'f str>,
    /// The lowest ordinal that may be updated, and the number of these ordinals.
    first: i64,
    all: i64,
    limit: i64,
    /// The pods at the update revision that stay, and those that the plan creates.
    updated: i64,
    created: i64,
}

fn present<'f>(facts: &'f StepFacts<'_, '_>) -> Option<PresentStep<'f>> {
    let parsed = facts.parsed;
    let rules = parsed.observed.rollout()?;
    let is_rolling = matches!(parsed.spec.strategy, Strategy::RollingUpdate(_));
    let is_ruled = is_rolling && rules.strategy != RolloutStrategy::Recreate;
    let update = facts.update.as_ref();
    let update = update.filter(|_| is_ruled && !facts.is_rejected)?;
    let current = facts.current.as_ref();
    if current.is_none_or(|current| current == update) {
        return None;
    }
    let mut revisions = parsed.stored_revisions.iter();
    let stored = revisions.find(|revision| *update == *revision.name);
    let is_renumbered = facts.plan.actions().any(|action| {
        matches!(action, StatefulSetAction::RenumberRevision { name, .. } if *update == **name)
    });
    let stored = stored.filter(|_| !is_renumbered);
    let annotation = |key: &str| {
        let annotations = stored?.object.metadata.annotations.as_ref()?;
        annotations.get(key).map(String::as_str)
    };
    let number = stored.map_or(0, |stored| stored.object.revision);
    let record = StepRecord::of(annotation(ROLLOUT_STEP), number);
    let step = rules.steps.get(record.passed)?;
    let first = parsed.spec.first_updatable().max(parsed.spec.start);
    let all = (parsed.spec.ordinals().end - first).max(0);
    let members = parsed.members.from(first).iter();
    let updated = members.filter(|member| member.revision == *update && !is_gone(facts, member));
    let created = facts.created.iter().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        let revision = labels.and_then(|all| all.get(labels::CONTROLLER_REVISION_HASH));
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let ordinal = identity::ordinal(parsed.spec.name, name).unwrap_or_default();
        ordinal >= first && revision.is_some_and(|revision| *update == **revision)
    });
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Some(PresentStep {
        approval: annotation(APPROVED_STEP),
        limit: step.limit(all),
        updated: number(updated.count()),
        created: number(created.count()),
        step,
        record,
        first,
        all,
    })
}

/// Whether the pod ends, by this plan or by an earlier deletion.
fn is_gone(facts: &StepFacts<'_, '_>, member: &Member<'_>) -> bool {
    let mut gone = facts.deleted.iter();
    member.terminating || gone.any(|gone| gone.ordinal == member.ordinal)
}

/// Whether the present step has all its pods, so that other missing pods get the revision before.
pub(super) fn is_full(facts: &StepFacts<'_, '_>) -> bool {
    present(facts).is_some_and(|present| present.updated + present.created >= present.limit)
}

/// No plan takes more pods to the update revision than the present step has, and no step passes before its pause is over.
pub(super) fn are_kept(facts: &StepFacts<'_, '_>, violations: &mut Vec<String>) {
    let (Some(present), Some(update)) = (present(facts), facts.update.as_ref()) else {
        return;
    };
    let PresentStep { step, limit, .. } = present;
    let parsed = facts.parsed;
    let sum = present.updated + present.created;
    if present.created > 0 && sum > limit {
        violations.push(format!(
            "{sum} pods get the update, and the step has {limit}"
        ));
    }
    let members = parsed.members.from(present.first);
    let is_released = |member: &&&Member<'_>| {
        let is_other = member.revision != *update && !member.terminating;
        is_other && !member.unavailable() && member.ordinal >= present.first
    };
    let released = facts
        .deleted
        .iter()
        .filter(|one| parsed.spec.in_range(one.ordinal));
    if released.filter(is_released).count() > 0 {
        let left = members
            .iter()
            .filter(|member| !is_gone(facts, member) && member.revision != *update);
        let left = i64::try_from(left.count()).unwrap_or(i64::MAX);
        if present.all - left > limit {
            violations.push(format!("a pod is released, and the step has {limit}"));
        }
    }
    let next = facts.plan.actions().find_map(|action| match action {
        StatefulSetAction::RecordStep { record, .. } => Some(record),
        _ => None,
    });
    let Some(next) = next else {
        return;
    };
    let available = members.iter().filter(|member| {
        member.revision == *update && member.has_its_claims && !member.unavailable()
    });
    let is_complete = i64::try_from(available.count()).is_ok_and(|count| count >= limit);
    let record = &present.record;
    if record.reached.is_none() && !is_complete {
        violations.push("a step is recorded before its pods are available".to_owned());
    }
    if next.passed != record.passed && !is_over(parsed, step, record, present.approval) {
        violations.push(format!("step {} passes during its pause", next.passed));
    }
}

fn is_over(
    parsed: &ParsedSet<'_>,
    step: &UpdateStep,
    record: &StepRecord,
    approval: Option<&str>,
) -> bool {
    let approved = format!("{}/{}", record.revision, record.passed + 1);
    match step.pause() {
        None => true,
        _ if record.reached.is_some() && approval == Some(&approved) => true,
        Some(StepPause::UntilApproved(_)) => false,
        Some(StepPause::Seconds(seconds)) => record.reached.is_some_and(|reached| {
            parsed.now.duration_since(reached).as_secs() >= i64::from(seconds)
        }),
    }
}
