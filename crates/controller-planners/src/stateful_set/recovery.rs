//! Recovery of a rollout that is stuck on pods of an obsolete revision.
//!
//! In kube-controller-manager a pod that never becomes Ready blocks everything, even its own replacement after the
//! template was fixed, until an administrator deletes the pod. Here such a pod is replaced, the highest first, one at a
//! time, when no other action is possible.
//!
//! A pod qualifies only if it is not Ready and its revision is not the desired revision: its revision is either an
//! abandoned revision or, if the pod has never been Ready, the revision before the update. Three kinds of pods are
//! never replaced: a pod that is or was healthy at its desired revision, a pod below the partition that has one of the
//! two live revisions, and a pod whose containers are ready but whose node is silent.

use resource_kinds::reasons::stateful_set as reasons;

use super::draft::Draft;
use super::guard::Removal;
use super::member::{Member, Phase};
use super::observed::{ParsedSet, Strategy};
use super::options::StuckRollout;
use super::plan::SetEvent;
use super::revisions::ChosenRevisions;
use super::rollout;

pub(super) fn replace_stuck(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) {
    // One pod at a time: the previous pod must be deleted before the next deletion.
    if parsed.all().any(|member| member.terminating) {
        return;
    }
    let stays = stay_current(parsed, chosen);
    let stuck = parsed
        .members
        .iter()
        .rev()
        .find(|member| is_stuck(parsed, chosen, stays, member));
    if let Some(member) = stuck {
        if rollout::replace(parsed, member, chosen, draft) != Removal::Planned {
            return;
        }
        draft.notices.push(SetEvent {
            warning: false,
            reason: reasons::REPLACED_STUCK_POD,
            message: format!(
                "Pod {} of revision {} is not ready and holds up revision {}: it is replaced",
                member.name(),
                member.revision,
                chosen.target()
            ),
        });
    }
}

fn is_stuck(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    stays: i64,
    member: &Member<'_>,
) -> bool {
    if member.ready_since.is_some() || member.phase == Phase::Ended || member.is_forsaken() {
        return false;
    }
    if !rollout::outdated(member, chosen) {
        return false;
    }
    if member.ordinal < parsed.spec.first_updatable() {
        if parsed.spec.options.stuck_rollout == StuckRollout::Wait {
            return false;
        }
        // The current revision in the status counts even if the revision has been deleted.
        let status = parsed.spec.set.status.as_ref();
        let named = status.and_then(|status| status.current_revision.as_deref());
        return member.revision != chosen.current && named != Some(member.revision.as_str());
    }
    if member.revision != chosen.current {
        return true;
    }
    // A pod that would be recreated at its present revision would be replaced without end.
    member.never_ready() && member.ordinal >= stays
}

/// The ordinal below which a pod of the current revision would be recreated at that revision.
fn stay_current(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions) -> i64 {
    if !matches!(parsed.spec.strategy, Strategy::RollingUpdate(None)) {
        return i64::MIN;
    }
    // Without `rollingUpdate` the number of current pods in the status decides how many pods keep the current revision.
    let current = parsed
        .all()
        .filter(|member| member.revision == chosen.current)
        .count();
    let left = i64::try_from(current).unwrap_or(i64::MAX) - 1;
    parsed.spec.start + left
}
