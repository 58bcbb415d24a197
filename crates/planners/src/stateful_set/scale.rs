//! Surplus pods: the highest first; in `OrderedReady` one at a time.
//!
//! Differs from kube-controller-manager where two surplus pods are unhealthy: there the higher
//! waits for the lower and the lower for the higher, for ever. Here the highest goes, after a moment
//! in which it may recover if it was healthy before. The annotation `mainstay.dev/scale-down` brings
//! the former back, or does without the moment.

use jiff::Timestamp;

use super::draft::{Draft, Flow};
use super::observed::{Member, World};
use super::options::{MOMENT, ScaleDown};
use super::replica;
use super::waiting::Cause;

pub(super) fn remove_condemned(world: &World<'_>, draft: &mut Draft) -> Flow {
    let mut flow = Flow::Go;
    for member in world.condemned.values().rev() {
        if flow == Flow::Stop {
            continue;
        }
        if member.terminating {
            let pod = member.name().to_owned();
            draft.wait(member.ordinal, Cause::PodTerminating { pod });
        } else if let Some((lower, until)) = waits_for(world, member) {
            let (pod, lower) = (member.name().to_owned(), lower.name().to_owned());
            draft.wait(member.ordinal, Cause::LowerUnhealthy { pod, lower, until });
            if let Some(until) = until {
                draft.wake(until);
            }
        } else {
            replica::delete(member, draft);
        }
        if world.spec.ordered {
            draft.block(member.name());
            flow = Flow::Stop;
        }
    }
    flow
}

/// The lower surplus pod that an unhealthy one waits for, and until when if not for ever
/// (statefulset.md 3.13, 3.14). Wanted pods are all healthy by now.
fn waits_for<'w>(
    world: &'w World<'_>,
    member: &Member<'_>,
) -> Option<(&'w Member<'w>, Option<Timestamp>)> {
    if !world.spec.ordered || !member.unavailable() {
        return None;
    }
    let until = match world.spec.options.scale_down {
        ScaleDown::WaitForLowest => None,
        ScaleDown::HighestFirst => return None,
        ScaleDown::WaitAMoment => Some(end_of_moment(world, member)?),
    };
    let mut lower = world.condemned.range(..member.ordinal);
    let (_, lower) = lower.find(|(_, lower)| lower.unavailable())?;
    Some((lower, until))
}

/// Until when a pod may recover, if it was healthy and that is not over.
pub(super) fn end_of_moment(world: &World<'_>, member: &Member<'_>) -> Option<Timestamp> {
    if member.never_ready() {
        return None;
    }
    let since = member.ready_condition()?.since?;
    let until = since.checked_add(MOMENT).ok()?;
    // Ready, but not yet available, counts as well; and so does a clock that is ahead elsewhere,
    // by no more than the moment.
    (world.now < until && since <= world.now + MOMENT).then_some(until)
}
