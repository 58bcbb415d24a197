//! The order of `OrderedReady`: one pod at a time; creations from the lowest ordinal, deletions from the highest, and
//! no deletion while a desired pod is not available.

use super::super::identity;
use super::super::member::{Member, Phase};
use super::super::observed::{ParsedSet, Strategy};
use super::super::options::{ScaleDown, StuckRollout};
use super::super::scale::end_of_moment;
use super::{Facts, is_updatable, missing};

/// A pod is created only when all lower pods are available, and pods are created one at a time.
pub(super) fn creations(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts {
        world,
        created,
        deleted,
        ..
    } = facts;
    if !world.spec.ordered {
        return;
    }
    let rolling = match world.spec.strategy {
        Strategy::RollingUpdate(Some(rolling)) => rolling.max_unavailable.is_some(),
        _ => false,
    };
    if created.len() + deleted.len() > 1 && !(rolling && created.is_empty()) {
        violations.push("more than one pod is created or deleted at a time".to_owned());
    }
    for pod in created {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let ordinal = identity::ordinal(world.spec.name, name).unwrap_or_default();
        for lower in world.spec.start..ordinal {
            if is_down(world, lower) {
                violations.push(format!("{name} is created before {lower} is available"));
            }
        }
    }
}

/// Surplus pods are deleted from the highest, each after the end of the previous pod and while all desired pods are
/// available. Desired pods are deleted for an update from the highest, when there are no surplus pods.
pub(super) fn deletions(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts { world, deleted, .. } = facts;
    let above = |ordinal: i64| world.condemned.from(ordinal + 1).first();
    let mut desired = world.spec.ordinals();
    let all_up = missing(world) == 0 && !desired.any(|ordinal| is_down(world, ordinal));
    for member in deleted {
        let (name, ordinal) = (member.name(), member.ordinal);
        if !world.spec.in_range(ordinal) {
            if !world.spec.ordered {
                continue;
            }
            if let Some(higher) = above(ordinal) {
                let higher = higher.ordinal;
                violations.push(format!(
                    "{name} is deleted while the higher {higher} is there"
                ));
            }
            if !all_up {
                violations.push(format!(
                    "{name} is deleted before all wanted pods are available"
                ));
            }
            let patient = match world.spec.options.scale_down {
                ScaleDown::WaitForLowest => true,
                ScaleDown::HighestFirst => false,
                ScaleDown::WaitAMoment => end_of_moment(world, member).is_some(),
            };
            let mut lower = world.condemned.below(ordinal).iter();
            if patient && member.unavailable() && lower.any(|lower| lower.unavailable()) {
                violations.push(format!(
                    "{name} is deleted though a lower one is unhealthy too"
                ));
            }
        } else if member.phase == Phase::Ended {
            let lower = (world.spec.start..ordinal).find(|lower| is_down(world, *lower));
            if let Some(lower) = lower.filter(|_| world.spec.ordered) {
                violations.push(format!("{name} is replaced before {lower} is available"));
            }
        } else {
            wanted_pod(facts, member, all_up, violations);
        }
    }
}

fn wanted_pod(
    facts: &Facts<'_, '_>,
    member: &Member<'_>,
    all_up: bool,
    violations: &mut Vec<String>,
) {
    let Facts {
        world,
        deleted,
        update,
        ..
    } = facts;
    let name = member.name();
    let recovers = world.spec.options.stuck_rollout == StuckRollout::Replace;
    if world.spec.ordered && !all_up {
        // Only a stuck pod may be deleted now.
        if !recovers || member.ready_since.is_some() {
            violations.push(format!(
                "{name} is updated while a wanted pod is not available"
            ));
        }
        if world.all().any(|other| other.terminating) {
            violations.push(format!(
                "{name} is freed while another pod is being deleted"
            ));
        }
        return;
    }
    if world.spec.ordered && !world.condemned.is_empty() {
        violations.push(format!("{name} is updated before surplus pods are gone"));
    }
    let left = world
        .members
        .from(member.ordinal + 1)
        .iter()
        .find(|higher| {
            is_updatable(world, higher.ordinal)
                && !higher.terminating
                && !higher.unavailable()
                && update.as_ref() != Some(&higher.revision)
                && deleted
                    .iter()
                    .all(|deleted| deleted.ordinal != higher.ordinal)
        });
    if let Some(higher) = left.filter(|_| !member.unavailable()) {
        violations.push(format!("{name} is updated before {}", higher.ordinal));
    }
}

fn is_down(world: &ParsedSet<'_>, ordinal: i64) -> bool {
    world.members.get(ordinal).is_none_or(Member::unavailable)
}
