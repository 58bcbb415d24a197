//! Moves replicas from the old ReplicaSets to the new ReplicaSet.

use super::observed::{ParsedDeployment, Strategy};
use super::sets::Sets;

/// The allowed number of replicas of the new set, which has `current` now.
pub(super) fn replicas_of_new(parsed: &ParsedDeployment<'_>, sets: &Sets<'_>, current: i32) -> i32 {
    match parsed.strategy {
        Strategy::Recreate => parsed.replicas,
        Strategy::Rolling => {
            let remaining = parsed.replicas + parsed.surge - sets.replicas();
            if remaining <= 0 {
                return current;
            }
            current + remaining.min((parsed.replicas - current).max(0))
        }
    }
}

/// One step of a rolling update: either scale the new set up or the old sets down, never both from one snapshot.
pub(super) fn roll(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>) {
    if fill_step(parsed, sets) {
        return;
    }
    let Some(new) = &sets.new else {
        return;
    };
    let least = parsed.replicas - parsed.unavailable;
    let not_available = new.target - new.available();
    let spare = sets
        .replicas()
        .saturating_sub(least)
        .saturating_sub(not_available);
    if spare <= 0 {
        return;
    }
    drop_unhealthy(parsed, sets, spare);
    drop_healthy(parsed, sets, least);
}

/// Scales the new set. Returns whether its size changed.
fn fill_step(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>) -> bool {
    let Some(current) = sets.new.as_ref().map(|new| new.target) else {
        return false;
    };
    let size = match current {
        more if more > parsed.replicas => parsed.replicas,
        current => replicas_of_new(parsed, sets, current),
    };
    if let Some(new) = sets.new.as_mut().filter(|_| size != current) {
        new.scale(size, parsed);
        return true;
    }
    false
}

/// Scales down unhealthy old pods first.
fn drop_unhealthy(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>, spare: i32) {
    let mut left = spare;
    for old in sets.old.iter_mut().filter(|set| set.target > 0) {
        let unhealthy = (old.target - old.available()).max(0).min(left);
        if unhealthy > 0 {
            left -= unhealthy;
            old.scale(old.target - unhealthy, parsed);
        }
    }
}

fn drop_healthy(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>, least: i32) {
    let available = sets.all().map(|set| set.available());
    let available = available.fold(0, i32::saturating_add);
    let mut left = available.saturating_sub(least).max(0);
    for old in sets.old.iter_mut().filter(|set| set.target > 0) {
        let healthy = old.target.min(left);
        if healthy > 0 {
            left -= healthy;
            old.scale(old.target - healthy, parsed);
        }
    }
}

/// Scales all old sets to zero. Returns whether no old pod runs any more.
pub(super) fn empty_old(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>) -> bool {
    let mut empty = true;
    for old in &mut sets.old {
        if old.target > 0 {
            old.scale(0, parsed);
            empty = false;
        }
        empty &= old.actual() == 0;
    }
    empty && !old_pods_run(parsed, sets)
}

/// Whether old pods still run. A pod that is being deleted counts as running until the pod has ended.
fn old_pods_run(parsed: &ParsedDeployment<'_>, sets: &Sets<'_>) -> bool {
    parsed.observed.pods.iter().any(|pod| {
        let owner = pod.controller.as_ref();
        owner.is_some_and(|owner| sets.old.iter().any(|set| set.uid == owner.uid))
            && !pod.has_ended()
    })
}

/// Gives all replicas to the new set at once.
pub(super) fn fill_new(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>) {
    if let Some(new) = sets
        .new
        .as_mut()
        .filter(|new| new.target != parsed.replicas)
    {
        new.scale(parsed.replicas, parsed);
    }
}
