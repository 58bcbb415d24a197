//! Distribution of the replicas between the ReplicaSets when the Deployment is scaled or paused.

use std::cmp::Reverse;

use resource_kinds::annotations::{DESIRED_REPLICAS, MAX_REPLICAS};

use super::observed::{ParsedDeployment, Set, Strategy};
use super::plan::stored;
use super::sets::Sets;

/// Whether the Deployment was scaled after its ReplicaSets.
pub(super) fn is_due(parsed: &ParsedDeployment<'_>, sets: &Sets<'_>) -> bool {
    let mut active = sets.all().filter(|set| set.target > 0);
    active.any(|set| {
        let desired = set.number(DESIRED_REPLICAS);
        desired.is_some_and(|desired| desired != i64::from(parsed.replicas))
    })
}

/// Assigns the replicas to the only set that has replicas, or distributes the replicas in proportion to the sets'
/// sizes.
pub(super) fn share_out(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>) {
    if let Some(only) = only_one(sets) {
        // The call is needed also if the number is right: the annotations must contain the Deployment's current number.
        only.scale(parsed.replicas, parsed);
        return;
    }
    let saturated = sets.new.as_ref().is_some_and(|new| {
        new.target == parsed.replicas
            && new.number(DESIRED_REPLICAS) == Some(parsed.replicas.into())
            && new.available() == parsed.replicas
    });
    if saturated {
        for old in sets.old.iter_mut().filter(|set| set.target > 0) {
            old.scale(0, parsed);
        }
    } else if parsed.strategy == Strategy::Rolling {
        in_proportion(parsed, sets);
    }
}

/// The only set with replicas; if no set has replicas, the newest.
fn only_one<'s, 'a>(sets: &'s mut Sets<'a>) -> Option<&'s mut Set<'a>> {
    let active = sets.all().filter(|set| set.target > 0).count();
    match active {
        0 if sets.new.is_some() => sets.new.as_mut(),
        0 => sets.old.last_mut(),
        1 => sets
            .old
            .iter_mut()
            .chain(&mut sets.new)
            .find(|set| set.target > 0),
        _ => None,
    }
}

/// Distributes the added or removed replicas in proportion to the sets' sizes; the first set gets the remainder. The
/// largest set is first. Of equal sets the newer set is first when replicas are added, and the older set when replicas
/// are removed.
fn in_proportion(parsed: &ParsedDeployment<'_>, sets: &mut Sets<'_>) {
    let allowed = match parsed.replicas {
        0 => 0,
        replicas => replicas + parsed.surge,
    };
    let total = allowed - sets.replicas();
    let mut active: Vec<(usize, &mut Set<'_>)> = sets
        .old
        .iter_mut()
        .chain(&mut sets.new)
        .enumerate()
        .filter(|(_, set)| set.target > 0)
        .collect();
    active.sort_by_key(|(age, set)| {
        let age = i64::try_from(*age).unwrap_or(i64::MAX);
        (Reverse(set.target), if total > 0 { -age } else { age })
    });
    let mut added = 0;
    let mut sizes = Vec::new();
    for (_, set) in &active {
        let share = share(parsed, set, total, added);
        added += share;
        sizes.push(set.target.saturating_add(share));
    }
    if let Some(first) = sizes.first_mut() {
        *first = first.saturating_add(total - added);
    }
    for ((_, set), size) in active.into_iter().zip(sizes) {
        set.scale(size, parsed);
    }
}

fn share(parsed: &ParsedDeployment<'_>, set: &Set<'_>, total: i32, added: i32) -> i32 {
    if total == 0 || total == added {
        return 0;
    }
    let rest = total - added;
    let fraction = fraction(parsed, set);
    if total > 0 {
        fraction.min(rest)
    } else {
        fraction.max(rest)
    }
}

/// The number of replicas to add to (or remove from) a set to keep its share.
fn fraction(parsed: &ParsedDeployment<'_>, set: &Set<'_>) -> i32 {
    if parsed.replicas == 0 {
        return -set.target;
    }
    let current = || stored(parsed).and_then(|status| status.replicas);
    let before = set.number(MAX_REPLICAS).filter(|number| *number > 0);
    let before = before.unwrap_or_else(|| current().unwrap_or_default().into());
    if before <= 0 {
        return 0;
    }
    let most = i64::from(parsed.replicas + parsed.surge);
    let size = i64::from(set.target);
    let doubled = size.saturating_mul(most).saturating_mul(2);
    let rounded = doubled.saturating_add(before) / before.saturating_mul(2);
    i32::try_from(rounded - size).unwrap_or_default()
}
