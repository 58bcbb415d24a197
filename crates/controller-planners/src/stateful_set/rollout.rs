//! Outdated pods: replaced from the highest ordinal down to the partition, while availability allows it.

use resource_kinds::stateful_set_policy::Purpose;

use super::draft::Draft;
use super::guard::{self, Removal};
use super::identity;
use super::member::Member;
use super::observed::{ParsedSet, Strategy};
use super::options::MaxUnavailable;
use super::revisions::ChosenRevisions;
use super::waiting::Cause;

pub(super) fn replace_outdated(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) {
    match parsed.spec.budget() {
        None => one_at_a_time(parsed, chosen, draft),
        Some(max) => within_budget(parsed, chosen, max, draft),
    }
}

/// The ordinals that may be updated, highest first.
fn updatable(parsed: &ParsedSet<'_>) -> impl Iterator<Item = i64> + use<> {
    (parsed.spec.first_updatable()..parsed.spec.ordinals().end).rev()
}

/// Deletes the highest outdated pod, if all higher pods are available. With a guard, an outdated pod that is down comes
/// first: a guard that holds the others would otherwise wait for this pod without end (rollouts.md R6). So it does on the way back
/// from a rejected revision (R16).
fn one_at_a_time(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) {
    if draft.guard.is_some() || chosen.rolls_back() {
        let mut members = parsed.members.from(parsed.spec.first_updatable()).iter();
        let guard = draft.guard.as_ref();
        let fails_check =
            |member: &Member<'_>| guard.is_some_and(|guard| guard.fails_check(member));
        let is_down = |member: &&Member<'_>| {
            outdated(member, chosen) && (member.unavailable() || fails_check(member))
        };
        if let Some(member) = members.rfind(is_down) {
            draft.block(member.name());
            if !member.terminating {
                replace(parsed, member, chosen, draft);
            }
            return;
        }
    }
    for ordinal in updatable(parsed) {
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

/// Deletes outdated pods from the highest while at most `max` pods are unavailable. In `Parallel` unavailable pods use
/// no budget and are deleted at once (statefulset.md 3.45), except with the option for the original algorithm (3.43).
fn within_budget(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, max: i64, draft: &mut Draft) {
    let available = parsed
        .members
        .iter()
        .filter(|member| !member.unavailable())
        .count();
    let mut unavailable = parsed.spec.replicas - i64::try_from(available).unwrap_or(i64::MAX);
    let candidates = || {
        let members = parsed
            .members
            .from(parsed.spec.first_updatable())
            .iter()
            .rev();
        members.filter(|member| outdated(member, chosen) && !member.terminating)
    };
    let corrected = parsed.spec.options.max_unavailable == MaxUnavailable::Corrected;
    let free = corrected && !parsed.spec.ordered;
    if free {
        for member in candidates().filter(|member| member.unavailable()) {
            replace(parsed, member, chosen, draft);
        }
    }
    for member in candidates().filter(|member| !free || !member.unavailable()) {
        if unavailable < max {
            unavailable += i64::from(replace(parsed, member, chosen, draft) == Removal::Planned);
        } else {
            draft.wait(member.ordinal, Cause::Unavailable { unavailable, max });
        }
    }
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
    let removal = guard::remove(parsed, member, Purpose::Update, draft);
    if removal == Removal::Planned && member.created && member.revision == chosen.current {
        draft.current_less += 1;
    }
    removal
}
