//! Surplus pods: the highest first; in `OrderedReady` one at a time.
//!
//! Differs from kube-controller-manager if two surplus pods are unhealthy: there each of the two pods waits for the
//! other without end. Here the highest pod is deleted, after [`super::options::MOMENT`] if it was healthy before. The
//! annotation `mainstay.dev/scale-down` restores the upstream behaviour, or removes the wait.

use jiff::Timestamp;
use resource_kinds::stateful_set_policy::HookPurpose;

use super::draft::{Draft, PlanFlow};
use super::guard;
use super::hooks;
use super::member::Member;
use super::observed::ParsedSet;
use super::options::{MOMENT, ScaleDown};
use super::waiting::Cause;

pub(super) fn remove_condemned(parsed: &ParsedSet<'_>, draft: &mut Draft) -> PlanFlow {
    let mut flow = PlanFlow::Go;
    for member in parsed.condemned.iter().rev() {
        if flow == PlanFlow::Stop {
            continue;
        }
        if member.terminating {
            let pod = member.name().to_owned();
            draft.wait(member.ordinal, Cause::PodTerminating { pod });
        } else if let Some((lower, until)) = waits_for(parsed, member) {
            let (pod, lower) = (member.name().to_owned(), lower.name().to_owned());
            draft.wait(member.ordinal, Cause::LowerUnhealthy { pod, lower, until });
            if let Some(until) = until {
                draft.wake(until);
            }
        } else {
            guard::remove(parsed, member, HookPurpose::ScaleDown, draft);
        }
        if parsed.spec.ordered {
            draft.block(member.name());
            flow = PlanFlow::Stop;
        }
    }
    flow
}

/// The lower surplus pod that an unhealthy pod waits for, and the end of the wait, if there is an end (statefulset.md
/// 3.13, 3.14). All desired pods are healthy at this point.
fn waits_for<'w>(
    parsed: &'w ParsedSet<'_>,
    member: &Member<'_>,
) -> Option<(&'w Member<'w>, Option<Timestamp>)> {
    // A hook may have made the pod not ready.
    if !parsed.spec.ordered || !member.unavailable() || hooks::is_held(member) {
        return None;
    }
    let until = match parsed.spec.options.scale_down {
        ScaleDown::WaitForLowest => None,
        ScaleDown::HighestFirst => return None,
        ScaleDown::WaitAMoment => Some(end_of_moment(parsed, member)?),
    };
    let mut lower = parsed.condemned.below(member.ordinal).iter();
    let lower = lower.find(|lower| lower.unavailable())?;
    Some((lower, until))
}

/// The end of a pod's time to recover, if the pod was healthy and the time has not passed.
pub(super) fn end_of_moment(parsed: &ParsedSet<'_>, member: &Member<'_>) -> Option<Timestamp> {
    if member.never_ready() {
        return None;
    }
    let since = member.ready_condition()?.since?;
    let until = since.checked_add(MOMENT).ok()?;
    // A Ready pod that is not yet available gets the time as well. A transition in the future counts if the clock is
    // ahead by at most the time to recover.
    (parsed.now < until && since <= parsed.now + MOMENT).then_some(until)
}
