//! Outdated pods: replaced from the highest ordinal down to the partition, while availability allows it.

use resource_kinds::stateful_set_policy::HookPurpose;

use super::draft::Draft;
use super::guard::{self, PlanGuard, Removal};
use super::hooks;
use super::identity;
use super::member::Member;
use super::observed::{ParsedSet, Strategy};
use super::options::MaxUnavailable;
use super::order::{self, Queued};
use super::revisions::ChosenRevisions;
use super::steps;
use super::waiting::Cause;

pub(super) fn replace_outdated(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) {
    match (parsed.spec.budget(), order::is_custom(parsed)) {
        (None, false) => one_at_a_time(parsed, chosen, draft),
        (None, true) => next_in_order(parsed, chosen, draft),
        (Some(max), _) => within_budget(parsed, chosen, max, draft),
    }
}

/// Deletes the highest outdated pod, if all higher pods are available. With a guard, an outdated pod that is down comes
/// first: a guard that holds the others would otherwise wait for this pod without end (rollouts.md R6). So it does on the way back
/// from a rejected revision (R16).
fn one_at_a_time(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) {
    if draft.guard.is_some() || chosen.rolls_back() {
        let mut members = parsed.members.from(parsed.spec.first_updatable()).iter();
        let guard = draft.guard.as_ref();
        let is_next =
            |member: &&Member<'_>| outdated(member, chosen) && order::is_down(guard, member);
        if let Some(member) = members.rfind(is_next) {
            draft.block(member.name());
            if !member.terminating {
                replace(parsed, member, chosen, draft);
            }
            return;
        }
    }
    for ordinal in parsed.spec.updatable().rev() {
        // The plan already creates the missing pod.
        let Some(member) = parsed.members.get(ordinal) else {
            return draft.block(&identity::pod_name(parsed.spec.name, ordinal));
        };
        if outdated(member, chosen) && !member.terminating {
            draft.block(member.name());
            replace(parsed, member, chosen, draft);
            return;
        }
        if member.unavailable() {
            // The plan for the desired ordinals has given the reason already.
            return draft.block(member.name());
        }
    }
}

/// Deletes the next pod in the order of the policy, if all pods from the partition on are available. An outdated pod that
/// is down does not wait for the others (rollouts.md R1, R6).
fn next_in_order(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) {
    let mut queue = order::queue(parsed, chosen, draft.guard.as_ref()).into_iter();
    let Some(Queued { member, hold }) = queue.next() else {
        return;
    };
    if !order::is_down(draft.guard.as_ref(), member) {
        for ordinal in parsed.spec.updatable().rev() {
            let Some(other) = parsed.members.get(ordinal) else {
                return draft.block(&identity::pod_name(parsed.spec.name, ordinal));
            };
            if other.unavailable() {
                return draft.block(other.name());
            }
        }
    }
    draft.block(member.name());
    if let Some(cause) = hold {
        draft.wait(member.ordinal, cause);
    } else if !member.terminating {
        replace(parsed, member, chosen, draft);
    }
}

/// Deletes outdated pods from the highest while at most `max` pods are unavailable. In `Parallel` unavailable pods use
/// no budget and are deleted at once (statefulset.md 3.45), except with the option for the original algorithm (3.43).
/// A pod that the guard holds keeps its turn: otherwise the pod that it waits for, which has not recovered, would be
/// deleted in its place (rollouts.md R30).
fn within_budget(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, max: i64, draft: &mut Draft) {
    let available = parsed
        .members
        .iter()
        .filter(|member| !member.unavailable())
        .count();
    let mut unavailable = parsed.spec.replicas - i64::try_from(available).unwrap_or(i64::MAX);
    let candidates = candidates(parsed, chosen, draft.guard.as_ref());
    let corrected = parsed.spec.options.max_unavailable == MaxUnavailable::Corrected;
    let free = corrected && !parsed.spec.ordered;
    if free {
        for Queued { member, .. } in candidates.iter().filter(|one| one.member.unavailable()) {
            replace(parsed, member, chosen, draft);
        }
    }
    let mut is_held = false;
    for Queued { member, hold } in candidates {
        let is_down = order::is_down(draft.guard.as_ref(), member);
        if (free && member.unavailable()) || (is_held && !is_down) {
            continue;
        }
        // A pod that is unavailable because of its hook has its place.
        let has_place = member.unavailable() && hooks::is_held(member);
        if let Some(cause) = hold {
            draft.wait(member.ordinal, cause);
        } else if unavailable < max || has_place {
            let removal = replace(parsed, member, chosen, draft);
            unavailable += i64::from(removal != Removal::Held && !has_place);
            if removal == Removal::Held {
                draft.block(member.name());
                is_held = true;
            }
        } else {
            draft.wait(member.ordinal, Cause::Unavailable { unavailable, max });
        }
    }
}

/// The outdated pods that may be updated and are not being deleted, in the order of the policy, or from the highest ordinal.
fn candidates<'p, 'a>(
    parsed: &'p ParsedSet<'a>,
    chosen: &ChosenRevisions,
    guard: Option<&PlanGuard>,
) -> Vec<Queued<'p, 'a>> {
    let mut candidates = match order::is_custom(parsed) {
        true => order::queue(parsed, chosen, guard),
        false => {
            let members = parsed.members.from(parsed.spec.first_updatable());
            let members = members.iter().rev();
            let members = members.filter(|member| outdated(member, chosen));
            let queued = members.map(|member| Queued { member, hold: None });
            queued.collect()
        }
    };
    candidates.retain(|queued| !queued.member.terminating);
    candidates
}

/// Reports outdated pods: with `OnDelete` the user deletes them.
pub(super) fn mention_outdated(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) {
    let outdated = parsed
        .members
        .iter()
        .filter(|member| outdated(member, chosen))
        .count();
    if outdated > 0 {
        draft.wait(None, Cause::OnDelete { outdated });
    }
}

pub(super) fn outdated(member: &Member<'_>, chosen: &ChosenRevisions) -> bool {
    // The claim templates of the set are those of the update revision.
    let lacks_claims = !member.has_its_claims && !chosen.rolls_back();
    member.revision != *chosen.target() || lacks_claims
}

/// Whether a rolling update will replace the pod.
pub(super) fn awaits_update(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    member: &Member<'_>,
) -> bool {
    matches!(parsed.spec.strategy, Strategy::RollingUpdate(_))
        && member.ordinal >= parsed.spec.first_updatable()
        && outdated(member, chosen)
}

/// The purpose for which an outdated pod goes.
pub(super) fn purpose(chosen: &ChosenRevisions) -> HookPurpose {
    match chosen.rolls_back() {
        true => HookPurpose::Rollback,
        false => HookPurpose::Update,
    }
}

/// Deletes an outdated pod, so that it is created at the update revision.
pub(super) fn replace(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) -> Removal {
    // The plan already deletes this failed pod.
    if draft.changes(member.ordinal) {
        return Removal::Planned;
    }
    if !steps::has_place(parsed, chosen, member, draft) {
        return Removal::Held;
    }
    let removal = guard::remove(parsed, member, purpose(chosen), draft);
    let is_released = removal != Removal::Held && member.revision != chosen.update;
    draft.updates.released += i64::from(is_released);
    if removal == Removal::Planned && member.created && member.revision == chosen.current {
        draft.current_less += 1;
    }
    removal
}
