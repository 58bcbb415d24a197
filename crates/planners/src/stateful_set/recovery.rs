//! Recovery of a rollout that is stuck on pods of an obsolete revision.
//!
//! In kube-controller-manager a pod that never becomes Ready blocks everything, even its own
//! replacement after the template was fixed; an administrator must delete it. Here such a pod is replaced,
//! the highest first, one at a time, when nothing else can be done.
//!
//! A pod qualifies only if it is not Ready and its revision is not the desired one: either an
//! abandoned revision, or, if the pod has never been Ready, the one before the update. A pod that
//! is or was healthy at its desired revision is never touched, nor is one below the partition that
//! has one of the two live revisions, nor one whose containers are ready and whose node is silent.

use resource_kinds::reasons::stateful_set as reasons;

use super::draft::Draft;
use super::member::{Member, Phase};
use super::observed::{ParsedSet, Strategy};
use super::plan::SetEvent;
use super::revisions::ChosenRevisions;
use super::rollout;

pub(super) fn replace_stuck(world: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) {
    // One at a time: the previous pod must be gone before the next is deleted.
    if world.all().any(|member| member.terminating) {
        return;
    }
    let stays = stay_current(world, chosen);
    let stuck = world
        .members
        .iter()
        .rev()
        .find(|member| is_stuck(world, chosen, stays, member));
    if let Some(member) = stuck {
        draft.notices.push(SetEvent {
            warning: false,
            reason: reasons::REPLACED_STUCK_POD,
            message: format!(
                "Pod {} of revision {} is not ready and holds up revision {}: it is replaced",
                member.name(),
                member.revision,
                chosen.update
            ),
        });
        rollout::replace(member, chosen, draft);
    }
}

fn is_stuck(
    world: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    stays: i64,
    member: &Member<'_>,
) -> bool {
    if member.ready_since.is_some() || member.phase == Phase::Ended || member.is_forsaken() {
        return false;
    }
    if member.revision == chosen.update {
        return false;
    }
    if member.ordinal < world.spec.first_updatable() {
        // The status's current revision counts even if it has been deleted.
        let status = world.spec.set.status.as_ref();
        let named = status.and_then(|status| status.current_revision.as_deref());
        return member.revision != chosen.current && named != Some(member.revision);
    }
    if member.revision != chosen.current {
        return true;
    }
    // A pod that would be recreated at the same revision would be replaced for ever.
    member.never_ready() && member.ordinal >= stays
}

/// The ordinal below which a pod of the current revision would be recreated at that revision.
fn stay_current(world: &ParsedSet<'_>, chosen: &ChosenRevisions) -> i64 {
    if !matches!(world.spec.strategy, Strategy::RollingUpdate(None)) {
        return i64::MIN;
    }
    // Without `rollingUpdate` as many pods stay current as the status will count.
    let current = world
        .all()
        .filter(|member| member.revision == chosen.current)
        .count();
    let left = i64::try_from(current).unwrap_or(i64::MAX) - 1;
    world.spec.start + left
}
