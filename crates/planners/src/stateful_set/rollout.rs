//! Outdated pods: replaced from the highest ordinal down to the partition, as far as
//! availability allows.

use super::draft::Draft;
use super::observed::{Member, Rolling, World};
use super::replica;
use super::revisions::Chosen;
use super::waiting::Cause;

pub(super) fn replace_outdated(
    world: &World<'_>,
    chosen: &Chosen,
    rolling: Option<Rolling>,
    draft: &mut Draft,
) {
    let max = rolling.and_then(|rolling| rolling.max_unavailable);
    match max {
        None => one_at_a_time(world, chosen, draft),
        Some(max) => {
            let replicas = i32::try_from(world.spec.replicas).unwrap_or(i32::MAX);
            let max = i64::from(max.of(replicas, false).max(1));
            within_budget(world, chosen, max, draft);
        }
    }
}

/// The ordinals that may be updated, highest first.
fn updatable(world: &World<'_>) -> impl Iterator<Item = i64> + use<> {
    (world.spec.first_updatable()..world.spec.ordinals().end).rev()
}

/// Deletes the highest outdated pod, if all above it are available.
fn one_at_a_time(world: &World<'_>, chosen: &Chosen, draft: &mut Draft) {
    for ordinal in updatable(world) {
        // A missing pod is being created.
        let Some(member) = world.members.get(&ordinal) else {
            return;
        };
        if outdated(member, chosen) && !member.terminating {
            return replace(member, chosen, draft);
        }
        if member.unavailable() {
            mention(member, draft);
            return;
        }
    }
}

/// Deletes outdated pods from the top while no more than `max` pods are unavailable. In
/// `Parallel` those that are unavailable anyway cost nothing and go at once (statefulset.md 3.45).
fn within_budget(world: &World<'_>, chosen: &Chosen, max: i64, draft: &mut Draft) {
    let available = world
        .members
        .values()
        .filter(|member| !member.unavailable())
        .count();
    let mut unavailable = world.spec.replicas - i64::try_from(available).unwrap_or(i64::MAX);
    let candidates = || {
        let members = world.members.range(world.spec.first_updatable()..).rev();
        let members = members.map(|(_, member)| member);
        members.filter(|member| outdated(member, chosen) && !member.terminating)
    };
    if !world.spec.ordered {
        for member in candidates().filter(|member| member.unavailable()) {
            replace(member, chosen, draft);
        }
    }
    let mut held_back = false;
    for member in candidates().filter(|member| world.spec.ordered || !member.unavailable()) {
        if unavailable < max {
            unavailable += 1;
            replace(member, chosen, draft);
        } else {
            held_back = true;
        }
    }
    if held_back {
        draft.wait(None, Cause::Unavailable { unavailable, max });
    }
}

/// With `OnDelete` outdated pods are somebody else's to delete; they are only mentioned.
pub(super) fn mention_outdated(world: &World<'_>, chosen: &Chosen, draft: &mut Draft) {
    let outdated = world
        .members
        .values()
        .filter(|member| outdated(member, chosen))
        .count();
    if outdated > 0 {
        draft.wait(None, Cause::OnDelete { outdated });
    }
}

pub(super) fn outdated(member: &Member<'_>, chosen: &Chosen) -> bool {
    member.revision != chosen.update
}

pub(super) fn replace(member: &Member<'_>, chosen: &Chosen, draft: &mut Draft) {
    // A failed pod is being deleted already.
    let waiting = draft
        .pods
        .iter()
        .find(|work| work.ordinal == member.ordinal);
    let delete = replica::delete(member);
    if waiting.is_some_and(|work| work.actions.contains(&delete)) {
        return;
    }
    if member.created && member.revision == chosen.current {
        draft.current_less += 1;
    }
    draft.act(member.ordinal, delete);
}

fn mention(member: &Member<'_>, draft: &mut Draft) {
    let Some(cause) = replica::unhealthy(member) else {
        return;
    };
    if !draft.waiting.iter().any(|waiting| waiting.cause == cause) {
        draft.wait(member.ordinal, cause);
    }
}
