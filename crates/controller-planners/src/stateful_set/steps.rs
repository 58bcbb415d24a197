//! The steps of a rollout (rollouts.md R6 to R8, R10): so many pods get the update, and then the rollout pauses, for a time or
//! until somebody approves.
//!
//! The progress is an annotation of the ControllerRevision, so times count from what is stored. No pod is released beyond
//! the present step, and a missing pod beyond it gets the revision before.

use resource_kinds::annotations::{APPROVED_STEP, ROLLOUT_STEP};
use resource_kinds::stateful_set_policy::{RolloutStrategy, StepRecord, UpdateStep};

use super::draft::Draft;
use super::member::Member;
use super::observed::{ParsedSet, StoredRevision, Strategy};
use super::plan::StatefulSetAction;
use super::revisions::ChosenRevisions;
use super::waiting::Cause;

/// The maximum number of pods at the update revision, from the partition on; `None` if the rollout has no steps left.
/// Records the progress of the steps.
pub(super) fn limit(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) -> Option<i64> {
    let steps = steps(parsed)?;
    let is_rollout = chosen.current != chosen.update && chosen.rejected.is_none();
    if !is_rollout || !matches!(parsed.spec.strategy, Strategy::RollingUpdate(_)) {
        return None;
    }
    let updatable = updatable(parsed);
    let update = parsed.stored_revisions.iter();
    let mut update = update.filter(|revision| chosen.update == *revision.name);
    // A revision that is created or renumbered by this plan has no progress yet.
    let stored = update
        .next()
        .filter(|revision| !is_written(revision, draft));
    let Some(stored) = stored else {
        return Some(steps.first()?.limit(updatable));
    };
    let annotation = |key: &str| {
        let annotations = stored.object.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(key)).map(String::as_str)
    };
    let record = StepRecord::of(annotation(ROLLOUT_STEP), stored.object.revision);
    let step = steps.get(record.passed)?;
    let limit = step.limit(updatable);
    let next = match (record.reached, step.pause()) {
        (None, _) if available(parsed, chosen) < limit => return Some(limit),
        (_, None) => record.next(),
        (None, Some(_)) => StepRecord {
            reached: Some(parsed.now),
            ..record.clone()
        },
        // An approval ends a pause for a time as well.
        (Some(_), Some(pause)) => {
            let end = record.pause_ends(pause);
            let is_over = end.is_some_and(|end| end <= parsed.now)
                || record.is_approved_by(annotation(APPROVED_STEP));
            match is_over {
                true => record.next(),
                false => record.clone(),
            }
        }
    };
    if next != record {
        draft.prepare.push(StatefulSetAction::RecordStep {
            name: stored.name.to_owned(),
            uid: stored.uid.clone(),
            record: Box::new(next.clone()),
        });
    }
    if let Some(pause) = step.pause().filter(|_| next.reached.is_some()) {
        let until = next.pause_ends(pause);
        if let Some(until) = until {
            draft.wake(until);
        }
        let cause = Cause::RolloutPaused {
            revision: chosen.update.to_string(),
            step: next.passed + 1,
            steps: steps.len(),
            until,
            approval: next.approval(),
        };
        draft.wait(None, cause);
    }
    // The next step begins when the record is stored.
    Some(limit)
}

/// The steps of the policy, if it has some. With Recreate all pods end at once.
fn steps<'p>(parsed: &'p ParsedSet<'_>) -> Option<&'p [UpdateStep]> {
    let rules = parsed.observed.rollout()?;
    let has_steps = !rules.steps.is_empty() && rules.strategy == RolloutStrategy::RollingUpdate;
    has_steps.then_some(rules.steps.as_slice())
}

/// The number of ordinals that may be updated.
fn updatable(parsed: &ParsedSet<'_>) -> i64 {
    let ordinals = parsed.spec.updatable();
    (ordinals.end - ordinals.start).max(0)
}

fn is_written(revision: &StoredRevision<'_>, draft: &Draft) -> bool {
    let mut renumbered = draft.prepare.iter().filter_map(|action| match action {
        StatefulSetAction::RenumberRevision { name, .. } => Some(name.as_str()),
        _ => None,
    });
    renumbered.any(|name| name == revision.name)
}

/// The number of pods that are available at the update revision.
fn available(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions) -> i64 {
    let members = parsed.members.from(parsed.spec.first_updatable()).iter();
    let updated = members.filter(|member| {
        member.revision == chosen.update && member.has_its_claims && !member.unavailable()
    });
    i64::try_from(updated.count()).unwrap_or(i64::MAX)
}

/// Whether a new pod of that ordinal is beyond the present step, and gets the revision before (rollouts.md R8).
pub(super) fn is_beyond(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    ordinal: i64,
    draft: &Draft,
) -> bool {
    let is_updatable = ordinal >= parsed.spec.first_updatable();
    let is_full = |limit| updated(parsed, chosen) + draft.updates.created >= limit;
    is_updatable && chosen.limit.is_some_and(is_full)
}

/// Whether the present step has a place for another pod to be updated. Waits, if it has not.
pub(super) fn has_place(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    member: &Member<'_>,
    draft: &mut Draft,
) -> bool {
    // A pod that only lacks a claim has its place already.
    let limit = chosen.limit.filter(|_| member.revision != chosen.update);
    let Some(limit) = limit else {
        return true;
    };
    let members = parsed.members.from(parsed.spec.first_updatable());
    let staying = members.iter().filter(|member| !member.terminating);
    let staying = i64::try_from(staying.count()).unwrap_or(i64::MAX);
    // A missing pod may get the update, too.
    let missing = updatable(parsed) - staying;
    if updated(parsed, chosen) + missing + draft.updates.released < limit {
        return true;
    }
    // A pod of neither revision, which an earlier template broke, becomes one of them.
    if member.unavailable() && member.revision != chosen.current {
        return true;
    }
    draft.wait(member.ordinal, Cause::LaterStep { limit });
    false
}

/// The number of pods at the update revision that stay.
fn updated(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions) -> i64 {
    let members = parsed.members.from(parsed.spec.first_updatable()).iter();
    let updated = members.filter(|member| member.revision == chosen.update && !member.terminating);
    i64::try_from(updated.count()).unwrap_or(i64::MAX)
}
