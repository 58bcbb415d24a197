//! The waits between pods: a pod that is not in its desired state, and has no reason of its own, waits for the pod that
//! blocks the plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::draft::Draft;
use super::member::{Member, Phase};
use super::observed::ParsedSet;
use super::revisions::ChosenRevisions;
use super::waiting::{Cause, Waiting};
use super::{replica, rollout};

/// Maximum number of pods whose wait is reported individually.
const NAMED_MAX: usize = 1000;

/// Gives a reason for each pod that is neither in its desired state nor being changed.
pub(super) fn explain(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) {
    let Some(blocker) = draft.blocker.as_deref().map(Arc::from) else {
        return;
    };
    let after = || Cause::After {
        pod: Arc::clone(&blocker),
    };
    let explained: BTreeSet<i64> = draft.waiting.iter().filter_map(|w| w.ordinal).collect();
    let silent = |ordinal: &i64| !explained.contains(ordinal) && !draft.changes(*ordinal);
    let desired = parsed.spec.ordinals().filter(silent).filter_map(|ordinal| {
        let cause = match parsed.members.get(ordinal) {
            Some(member) => of_member(parsed, chosen, member, after)?,
            None => after(),
        };
        Some((ordinal, cause))
    });
    let surplus = parsed
        .condemned
        .iter()
        .rev()
        .map(|member| member.ordinal)
        .filter(silent);
    let surplus = surplus.map(|ordinal| (ordinal, after()));
    let waiting = desired.chain(surplus).map(|(ordinal, cause)| Waiting {
        ordinal: Some(ordinal),
        cause,
    });
    let mut more: Vec<Waiting> = waiting.take(NAMED_MAX + 1).collect();
    if more.len() > NAMED_MAX {
        more.truncate(NAMED_MAX);
        more.push(Waiting {
            ordinal: None,
            cause: after(),
        });
    }
    draft.waiting.extend(more);
}

/// The reason why a desired pod is not in its desired state; `None` if the pod is in its desired state.
fn of_member(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    member: &Member<'_>,
    after: impl Fn() -> Cause,
) -> Option<Cause> {
    // An ended pod is replaced when the plan reaches its ordinal.
    let ended = member.phase == Phase::Ended && !member.terminating;
    if !ended && let Some(cause) = replica::unhealthy(member) {
        return Some(cause);
    }
    (ended || rollout::awaits_update(parsed, chosen, member)).then(after)
}
