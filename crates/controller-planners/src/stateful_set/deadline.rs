//! The progress deadline: the maximum time without progress.
//!
//! The time of the last progress is computed from the observed state, so that a restart of the controller changes
//! nothing. The last progress is the newest of these times: a pod was created, became Ready or not Ready, or is about
//! to end; the update revision was created; the set's availability changed. The transition time of a stored
//! `Progressing=True` counts, but not that of a `Progressing=False` that the deadline caused.

use jiff::Timestamp;
use resource_kinds::reasons::stateful_set_condition as kinds;

use super::conditions;
use super::draft::Draft;
use super::member::Member;
use super::observed::ParsedSet;
use super::revisions::ChosenRevisions;

/// The set's deadline in seconds, if the deadline has passed. Otherwise schedules a plan at the deadline.
pub(super) fn exceeded(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    draft: &mut Draft,
) -> Option<i64> {
    let deadline = parsed.spec.options.progress_deadline?;
    let last = last_progress(parsed, chosen);
    let due = last.checked_add(deadline).unwrap_or(Timestamp::MAX);
    if due <= parsed.now {
        return Some(deadline.as_secs());
    }
    draft.wake(due);
    None
}

fn last_progress(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions) -> Timestamp {
    let status = parsed.spec.set.status.as_ref();
    let observed_generation = status.and_then(|status| status.observed_generation);
    let stored = conditions::stored(parsed);
    let Some(progressing) = conditions::find(stored, kinds::PROGRESSING) else {
        return parsed.now;
    };
    if observed_generation != parsed.spec.set.metadata.generation {
        return parsed.now;
    }
    let mut revisions = parsed.observed.revisions.iter();
    let update = revisions
        .find(|revision| revision.metadata.name.as_deref() == Some(chosen.update.as_str()));
    let available = conditions::find(stored, kinds::AVAILABLE);
    let times = [
        Some(progressing).filter(|progressing| progressing.status == "True"),
        available,
    ];
    let times = times.into_iter().flatten();
    let times = times.filter_map(|condition| condition.last_transition_time.as_ref());
    let created = update.and_then(|revision| revision.metadata.creation_timestamp.as_ref());
    let update_times = times.chain(created).map(|time| time.0);
    let all = update_times.chain(parsed.all().map(last_change));
    all.max().unwrap_or(parsed.now)
}

/// The time of the pod's last progress; a time in the future, if the pod only has to wait until then.
fn last_change(member: &Member<'_>) -> Timestamp {
    let times = [
        member.pod.created,
        // The end of its grace period.
        member.pod.deletion.map(|deletion| deletion.deadline),
        member.ready_condition().and_then(|ready| ready.since),
        member.available_at,
    ];
    times.into_iter().flatten().max().unwrap_or(Timestamp::MIN)
}
