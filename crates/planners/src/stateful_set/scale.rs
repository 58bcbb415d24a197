//! Surplus pods: the highest first; in `OrderedReady` one at a time.
//!
//! Differs from kube-controller-manager where two surplus pods are unhealthy: there the higher
//! waits for the lower and the lower for the higher, for ever. Here the highest goes first,
//! whatever its health; it will not get better by waiting.

use super::claims;
use super::draft::{Draft, Flow};
use super::observed::World;
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
        } else {
            draft.act(member.ordinal, replica::delete(member));
        }
        if world.spec.ordered {
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
