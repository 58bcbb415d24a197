//! Updates that stop all pods before the first new one starts (rollouts.md R34, KEP-3541): for programs whose versions
//! cannot run side by side.

use resource_kinds::stateful_set_policy::{HookPurpose, RolloutStrategy};

use super::draft::Draft;
use super::hooks::{self, Clearance};
use super::member::Member;
use super::observed::{ParsedSet, Strategy};
use super::replica;
use super::revisions::ChosenRevisions;
use super::rollout;
use super::waiting::Cause;

/// Whether the policy demands that all pods of a rolling update end before the first new one starts.
pub(super) fn is_demanded(parsed: &ParsedSet<'_>) -> bool {
    let rules = parsed.observed.rollout();
    rules.is_some_and(|rules| rules.strategy == RolloutStrategy::Recreate)
        && matches!(parsed.spec.strategy, Strategy::RollingUpdate(_))
}

/// A pod of another revision than new pods have, if both must not run side by side. It is there only while a rejected
/// revision is held.
pub(super) fn beside<'p, 'a>(
    parsed: &'p ParsedSet<'a>,
    chosen: &ChosenRevisions,
) -> Option<&'p Member<'a>> {
    if !is_demanded(parsed) || !chosen.is_held() {
        return None;
    }
    let updatable = parsed.members.from(parsed.spec.first_updatable()).iter();
    let mut members = updatable.chain(parsed.condemned.iter());
    members.find(|member| member.revision != chosen.current)
}

/// Deletes all outdated pods; returns whether there are any. While there are, no pod is created.
pub(super) fn stop_all(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) -> bool {
    if !is_demanded(parsed) || chosen.is_held() {
        return false;
    }
    let awaits = |member: &&Member<'_>| rollout::awaits_update(parsed, chosen, member);
    // Surplus pods of another revision run beside new pods, too.
    let is_other = |member: &&Member<'_>| member.revision != *chosen.target();
    let surplus = parsed.condemned.iter().rev().filter(is_other);
    let desired = parsed.members.iter().rev().filter(awaits);
    let outdated: Vec<&Member<'_>> = surplus.chain(desired).collect();
    let Some(first) = outdated.first() else {
        return false;
    };
    draft.block(first.name());
    for member in outdated {
        if member.terminating {
            let pod = member.name().to_owned();
            draft.wait(member.ordinal, Cause::PodTerminating { pod });
            continue;
        }
        let purpose = match parsed.spec.in_range(member.ordinal) {
            true => rollout::purpose(chosen),
            false => HookPurpose::ScaleDown,
        };
        let Clearance::Cleared { version } = hooks::clear(parsed, member, purpose, draft) else {
            continue;
        };
        if member.created && member.revision == chosen.current {
            draft.current_less += 1;
        }
        replica::delete_at(member, version, draft);
    }
    true
}
