//! Surplus pods: the highest first; in `OrderedReady` one at a time.
//!
//! Differs from kube-controller-manager where two surplus pods are unhealthy: there the higher
//! waits for the lower and the lower for the higher, for ever. Here the highest goes first,
//! whatever its health; it will not get better by waiting. The annotation `mainstay.dev/scale-down`
//! brings the former back.

use super::claims;
use super::draft::{Draft, Flow};
use super::observed::{Member, World};
use super::options::ScaleDown;
use super::plan::Action;
use super::replica;
use super::waiting::Cause;

pub(super) fn remove_condemned(world: &World<'_>, draft: &mut Draft) -> Flow {
    let mut flow = Flow::Go;
    for member in world.condemned.values().rev() {
        // The claims' owners first: once the pod is gone it is too late.
        if !member.terminating {
            claims::correct_owners(world, member, draft);
        }
        if flow == Flow::Stop {
            continue;
        }
        if member.terminating {
            let pod = member.name().to_owned();
            draft.wait(member.ordinal, Cause::PodTerminating { pod });
        } else if let Some(lower) = waits_for(world, member) {
            let (pod, lower) = (member.name().to_owned(), lower.name().to_owned());
            draft.wait(member.ordinal, Cause::LowerUnhealthy { pod, lower });
        } else {
            replica::delete(world, member, draft);
        }
        if world.spec.ordered {
            draft.block(member.name());
            flow = Flow::Stop;
        }
    }
    // A later look at the claims must not come after the deletion of their pod.
    debug_assert!(draft.pods.iter().all(|work| {
        let deletes = |action: &Action| matches!(action, Action::DeletePod { .. });
        work.actions
            .iter()
            .position(deletes)
            .is_none_or(|at| at + 1 == work.actions.len())
    }));
    flow
}

/// The lower surplus pod that an unhealthy one waits for, if that is asked for (statefulset.md
/// 3.13, 3.14). Wanted pods are all healthy by now.
fn waits_for<'w>(world: &'w World<'_>, member: &Member<'_>) -> Option<&'w Member<'w>> {
    let waits = world.spec.ordered
        && world.spec.options.scale_down == ScaleDown::WaitForLowest
        && member.unavailable();
    let mut lower = world.condemned.range(..member.ordinal);
    lower
        .find(|(_, lower)| waits && lower.unavailable())
        .map(|(_, lower)| lower)
}
