//! The progress deadline: how long nothing may have got further.
//!
//! When something last did is read from what is there, so that a restart of the controller
//! changes nothing: pods made, turned ready or not, about to end; the wanted revision made; the
//! set's availability changed. A stored `Progressing` counts from when it became true, but not
//! from when the deadline made it false.

use jiff::Timestamp;
use resource_kinds::reasons::stateful_set_condition as kinds;

use super::conditions;
use super::draft::Draft;
use super::observed::{Member, World};
use super::revisions::Chosen;

/// The set's deadline in seconds, if it is over. Otherwise the plan is made anew when it will be.
pub(super) fn exceeded(world: &World<'_>, chosen: &Chosen, draft: &mut Draft) -> Option<i64> {
    let deadline = world.spec.options.progress_deadline?;
    let last = last_progress(world, chosen);
    let due = last.checked_add(deadline).unwrap_or(Timestamp::MAX);
    if due <= world.now {
        return Some(deadline.as_secs());
    }
    draft.wake(due);
    None
}

fn last_progress(world: &World<'_>, chosen: &Chosen) -> Timestamp {
    let status = world.spec.set.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation);
    let stored = conditions::stored(world);
    let Some(progressing) = conditions::find(stored, kinds::PROGRESSING) else {
        return world.now;
    };
    if seen != world.spec.set.metadata.generation {
        return world.now;
    }
    let mut revisions = world.observed.revisions.iter();
    let update = revisions.find(|r| r.metadata.name.as_deref() == Some(&chosen.update));
    let available = conditions::find(stored, kinds::AVAILABLE);
    let times = [
        Some(progressing).filter(|progressing| progressing.status == "True"),
        available,
    ];
    let times = times.into_iter().flatten();
    let times = times.filter_map(|condition| condition.last_transition_time.as_ref());
    let made = update.and_then(|revision| revision.metadata.creation_timestamp.as_ref());
    let own = times.chain(made).map(|time| time.0);
    let all = own.chain(world.all().map(last_change));
    all.max().unwrap_or(world.now)
}

/// When the pod last got further; in the future, if only time has to pass for it to do so.
fn last_change(member: &Member<'_>) -> Timestamp {
    let times = [
        member.pod.created,
        // The end of its grace.
        member.pod.deletion.map(|deletion| deletion.deadline),
        member.ready_condition().and_then(|ready| ready.since),
        member.available_at,
    ];
    times.into_iter().flatten().max().unwrap_or(Timestamp::MIN)
}
