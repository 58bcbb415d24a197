//! The order of `OrderedReady`: one pod at a time; creations from the lowest ordinal, deletions from the highest, and
//! no deletion while a desired pod is not available.

use resource_kinds::stateful_set_policy::OnFailure;

use super::super::identity;
use super::super::member::{Member, Phase};
use super::super::observed::{ParsedSet, Strategy};
use super::super::options::{ScaleDown, StuckRollout};
use super::super::scale::end_of_moment;
use super::guard::fails_check;
use super::hooks::is_held;
use super::{Facts, is_up_to_date, is_updatable, missing};

/// A pod is created only when all lower pods are available, and pods are created one at a time.
pub(super) fn creations(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts {
        parsed,
        created,
        deleted,
        ..
    } = facts;
    if !parsed.spec.ordered {
        return;
    }
    let rolling = match parsed.spec.strategy {
        Strategy::RollingUpdate(Some(rolling)) => rolling.max_unavailable.is_some(),
        _ => false,
    };
    let deleted = deleted
        .iter()
        .filter(|member| !facts.is_recreated(member))
        .count();
    if created.len() + deleted > 1 && !(rolling && created.is_empty()) {
        violations.push("more than one pod is created or deleted at a time".to_owned());
    }
    for pod in created {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let ordinal = identity::ordinal(parsed.spec.name, name).unwrap_or_default();
        for lower in parsed.spec.start..ordinal {
            if is_down(parsed, lower) {
                violations.push(format!("{name} is created before {lower} is available"));
            }
        }
    }
}

/// Surplus pods are deleted from the highest, each after the end of the previous pod and while all desired pods are
/// available. Desired pods are deleted for an update from the highest, when there are no surplus pods.
pub(super) fn deletions(facts: &Facts<'_, '_>, violations: &mut Vec<String>) {
    let Facts {
        parsed, deleted, ..
    } = facts;
    let above = |ordinal: i64| parsed.condemned.from(ordinal + 1).first();
    let mut desired = parsed.spec.ordinals();
    let all_up = missing(parsed) == 0 && !desired.any(|ordinal| is_down(parsed, ordinal));
    for member in deleted {
        let (name, ordinal) = (member.name(), member.ordinal);
        if facts.is_recreated(member) {
            continue;
        }
        if !parsed.spec.in_range(ordinal) {
            if !parsed.spec.ordered {
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
            let patient = match parsed.spec.options.scale_down {
                ScaleDown::WaitForLowest => true,
                ScaleDown::HighestFirst => false,
                ScaleDown::WaitAMoment => end_of_moment(parsed, member).is_some(),
            };
            let mut lower = parsed.condemned.below(ordinal).iter();
            let is_patient = patient && !is_held(member);
            if is_patient && member.unavailable() && lower.any(|lower| lower.unavailable()) {
                violations.push(format!(
                    "{name} is deleted though a lower one is unhealthy too"
                ));
            }
        } else if member.phase == Phase::Ended {
            let lower = (parsed.spec.start..ordinal).find(|lower| is_down(parsed, *lower));
            if let Some(lower) = lower.filter(|_| parsed.spec.ordered) {
                violations.push(format!("{name} is replaced before {lower} is available"));
            }
        } else {
            desired_pod(facts, member, all_up, violations);
        }
    }
}

fn desired_pod(
    facts: &Facts<'_, '_>,
    member: &Member<'_>,
    all_up: bool,
    violations: &mut Vec<String>,
) {
    let Facts {
        parsed,
        deleted,
        update,
        ..
    } = facts;
    let name = member.name();
    let rolls_back = facts.rejected == Some(OnFailure::Rollback);
    let recovers = rolls_back || parsed.spec.options.stuck_rollout == StuckRollout::Replace;
    if parsed.spec.ordered && !all_up {
        // Only a stuck pod may be deleted now.
        if !recovers || member.ready_since.is_some() {
            violations.push(format!(
                "{name} is updated while a wanted pod is not available"
            ));
        }
        if parsed.all().any(|other| other.terminating) {
            violations.push(format!(
                "{name} is freed while another pod is being deleted"
            ));
        }
        return;
    }
    // A stuck pod may be not ready because of its hook as well.
    let is_stuck = recovers && member.ready_since.is_none();
    if parsed.spec.ordered && !parsed.condemned.is_empty() && !is_stuck {
        violations.push(format!("{name} is updated before surplus pods are gone"));
    }
    let left = parsed
        .members
        .from(member.ordinal + 1)
        .iter()
        .find(|higher| {
            is_updatable(parsed, higher.ordinal)
                && !higher.terminating
                && !higher.unavailable()
                && !is_up_to_date(parsed, update.as_ref(), higher)
                && deleted
                    .iter()
                    .all(|deleted| deleted.ordinal != higher.ordinal)
        });
    // A pod in which the check of the guard fails may go first (rollouts.md R6).
    let is_down = member.unavailable() || fails_check(parsed, member);
    // The order of a policy has rules of its own.
    let is_free = is_down || !facts.order.is_empty();
    if let Some(higher) = left.filter(|_| !is_free) {
        violations.push(format!("{name} is updated before {}", higher.ordinal));
    }
}

fn is_down(parsed: &ParsedSet<'_>, ordinal: i64) -> bool {
    let member = parsed.members.get(ordinal);
    member.is_none_or(|member| member.unavailable() && !is_held(member))
}
