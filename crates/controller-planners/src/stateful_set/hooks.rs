//! The hooks of a policy before a pod goes (rollouts.md R22 to R26).
//!
//! An annotation of the pod holds it and names the hook that runs; the node answers with a condition of the pod. The
//! annotation is written before the hook starts, and belongs to one pod, so neither a crash nor a successor of the name
//! changes what is done. A pod that does not go any more is released, after the `cancel` actions of its hooks.

use object_model::ResourceVersion;
use resource_kinds::annotations::{HOOK, HOOK_DONE};
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{
    HookAnswers, HookPurpose, HookState, PodHold, PolicyHook, hooks_before,
};

use super::draft::Draft;
use super::member::Member;
use super::observed::ParsedSet;
use super::order;
use super::plan::StatefulSetAction;
use super::revisions::ChosenRevisions;
use super::rollout;
use super::waiting::Cause;

/// The answer of the hooks to a pod that would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clearance {
    Cleared {
        /// The version that was read, if hooks were done in the pod; otherwise the pod has no hook for the purpose, or is down.
        version: Option<ResourceVersion>,
    },
    /// A hook runs.
    Held,
}

/// The hold of a pod that exists.
fn hold(member: &Member<'_>) -> Option<PodHold> {
    PodHold::parse(member.pod.annotations.get(HOOK)?)
}

/// Whether the pod is held: it may be not ready because of its hook, so no other pod waits for it.
pub(super) fn is_held(member: &Member<'_>) -> bool {
    !member.terminating && hold(member).is_some()
}

fn answers<'m>(member: &'m Member<'_>) -> HookAnswers<'m> {
    let condition = member.pod.condition(pod_condition::HOOK_DONE);
    let condition = condition.filter(|condition| condition.holds());
    HookAnswers {
        node: condition.and_then(|condition| condition.message()),
        annotation: member.pod.annotations.get(HOOK_DONE),
    }
}

/// Whether the pod goes without its hooks: it is down, and is not emptied. Hooks of a scale-down run always, because a member
/// leaves for good.
fn is_exempt(member: &Member<'_>, purpose: HookPurpose, draft: &Draft) -> bool {
    purpose != HookPurpose::ScaleDown && order::is_down(draft.guard.as_ref(), member)
}

/// Whether the hooks before this purpose are done. Begins the next hook, if one is to begin.
pub(super) fn clear(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    purpose: HookPurpose,
    draft: &mut Draft,
) -> Clearance {
    let hooks = parsed.observed.hooks();
    if hooks.is_empty() {
        return Clearance::Cleared { version: None };
    }
    match hold(member) {
        // The end of this hold comes first.
        Some(hold) if hold.cancels || hold.purpose.outranks(purpose) => {
            wait(parsed, member, &hold, draft);
            Clearance::Held
        }
        Some(hold) if hold.purpose == purpose => advance(parsed, member, &hold, draft),
        _ => {
            let own = hooks_before(hooks, purpose, parsed.role(member));
            let first = own.first().filter(|_| !is_exempt(member, purpose, draft));
            let Some(first) = first else {
                return Clearance::Cleared { version: None };
            };
            let hold = PodHold::new(purpose, parsed.now).begin(first, parsed.now);
            write(member, Some(&hold), draft);
            wait(parsed, member, &hold, draft);
            Clearance::Held
        }
    }
}

/// Begins the next hook of a hold, if the present one is done.
fn advance(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    hold: &PodHold,
    draft: &mut Draft,
) -> Clearance {
    let hooks = parsed.observed.hooks();
    let role = parsed.role(member);
    match hold.state(hooks, role, answers(member), parsed.now) {
        HookState::Done => {
            let version = Some(member.pod.resource_version);
            return Clearance::Cleared { version };
        }
        HookState::Next(next) => {
            let hold = hold.begin(next, parsed.now);
            write(member, Some(&hold), draft);
            wait(parsed, member, &hold, draft);
        }
        HookState::Runs => wait(parsed, member, hold, draft),
        HookState::Late => {
            let cause = Cause::HookTimedOut {
                pod: member.name().to_owned(),
                hook: hold.hook.clone().unwrap_or_default(),
                purpose: hold.purpose,
                asks: asks(hold),
            };
            draft.wait(member.ordinal, cause);
        }
    }
    Clearance::Held
}

/// Settles the holds of pods that do not go now: a hold whose reason has ended is taken back, and the hooks of an eviction
/// that is expected go on.
pub(super) fn settle(parsed: &ParsedSet<'_>, chosen: &ChosenRevisions, draft: &mut Draft) {
    for member in parsed.all().filter(|member| !member.terminating) {
        let Some(text) = member.pod.annotations.get(HOOK) else {
            continue;
        };
        if draft.changes(member.ordinal) {
            continue;
        }
        match PodHold::parse(text) {
            Some(hold) => settle_hold(parsed, chosen, member, &hold, draft),
            // Nobody can tell what an unreadable hold is for.
            None => write(member, None, draft),
        }
    }
}

fn settle_hold(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    member: &Member<'_>,
    hold: &PodHold,
    draft: &mut Draft,
) {
    let hooks = parsed.observed.hooks();
    if hold.cancels {
        let is_over = hold.is_answered_by(answers(member)) || hold.is_late(parsed.now);
        match is_over {
            true => cancel(parsed, member, hold, hooks, draft),
            false => wait(parsed, member, hold, draft),
        }
    } else if hold.purpose == HookPurpose::Evict {
        let expected = hold.expected_until();
        match expected.filter(|until| *until > parsed.now) {
            Some(until) => {
                advance(parsed, member, hold, draft);
                draft.wake(until);
            }
            None => cancel(parsed, member, hold, hooks, draft),
        }
    } else if !is_to_go(parsed, chosen, member, hold.purpose) {
        cancel(parsed, member, hold, hooks, draft);
    }
}

/// Whether a pod is still to go for the purpose of its hold, now or later.
fn is_to_go(
    parsed: &ParsedSet<'_>,
    chosen: &ChosenRevisions,
    member: &Member<'_>,
    purpose: HookPurpose,
) -> bool {
    let is_surplus = !parsed.spec.in_range(member.ordinal);
    match purpose {
        HookPurpose::Evict => false,
        HookPurpose::ScaleDown => is_surplus,
        // A surplus pod gets another purpose when its turn comes.
        HookPurpose::Update | HookPurpose::Rollback => {
            let awaits = rollout::awaits_update(parsed, chosen, member) && !chosen.is_held();
            is_surplus || awaits
        }
    }
}

/// Begins the next `cancel` action of a hold, or ends the hold.
fn cancel(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    hold: &PodHold,
    hooks: &[PolicyHook],
    draft: &mut Draft,
) {
    let next = hold.cancel(hooks, parsed.now);
    write(member, next.as_ref(), draft);
    if let Some(next) = next {
        wait(parsed, member, &next, draft);
    }
}

/// Writes the hold of a pod. An old view would begin a hook that runs already a second time.
fn write(member: &Member<'_>, hold: Option<&PodHold>, draft: &mut Draft) {
    // An earlier write of this plan changes the version.
    let version = (!draft.works_on(member.ordinal)).then_some(member.pod.resource_version);
    draft.act(
        member.ordinal,
        StatefulSetAction::AnnotatePod {
            name: member.name().to_owned(),
            uid: member.uid.clone(),
            version,
            annotations: [(HOOK, hold.map(PodHold::text))].into(),
        },
    );
}

fn wait(parsed: &ParsedSet<'_>, member: &Member<'_>, hold: &PodHold, draft: &mut Draft) {
    let cause = Cause::HookRuns {
        pod: member.name().to_owned(),
        hook: hold.hook.clone().unwrap_or_default(),
        purpose: hold.purpose,
        is_cancelled: hold.cancels,
        until: hold.until,
        asks: asks(hold),
    };
    draft.wait(member.ordinal, cause);
    if let Some(until) = hold.until.filter(|until| *until > parsed.now) {
        draft.wake(until);
    }
}

/// The id of the run, if a person or a program answers.
fn asks(hold: &PodHold) -> Option<String> {
    (!hold.check.has_action()).then(|| hold.id.clone())
}
