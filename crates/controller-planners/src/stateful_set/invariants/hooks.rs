//! The hooks of a policy before a pod goes (rollouts.md R22 to R26).

use resource_kinds::annotations::{HOOK, HOOK_DONE};
use resource_kinds::pod_view::Condition;
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{HookPurpose, PodHold, PolicyHook, TimeoutAnswer};

use super::super::member::{Member, Phase};
use super::super::observed::ParsedSet;
use super::guard::fails_check;

/// Whether a hook holds the pod, so that it may be not ready on purpose.
pub(super) fn is_held(member: &Member<'_>) -> bool {
    !member.terminating && hold(member).is_some()
}

fn hold(member: &Member<'_>) -> Option<PodHold> {
    let text = member.pod.annotations.get(HOOK)?;
    PodHold::parse(text)
}

/// No pod goes before its hooks are done for the very purpose, and none that is emptied goes for another purpose.
/// `rolls_back` says whether updates are the return from a rejected revision.
pub(super) fn are_done(
    parsed: &ParsedSet<'_>,
    deleted: &[&Member<'_>],
    rolls_back: bool,
    violations: &mut Vec<String>,
) {
    let hooks = parsed.observed.hooks();
    if hooks.is_empty() {
        return;
    }
    for member in deleted.iter().filter(|member| member.phase != Phase::Ended) {
        let purpose = match (parsed.spec.in_range(member.ordinal), rolls_back) {
            (false, _) => HookPurpose::ScaleDown,
            (true, true) => HookPurpose::Rollback,
            (true, false) => HookPurpose::Update,
        };
        let name = member.name();
        let hold = hold(member);
        if let Some(hold) = &hold {
            let is_emptied = match hold.purpose {
                HookPurpose::ScaleDown => purpose != HookPurpose::ScaleDown,
                HookPurpose::Evict => parsed.spec.in_range(member.ordinal),
                HookPurpose::Update | HookPurpose::Rollback => false,
            };
            if is_emptied || hold.cancels {
                let purpose = hold.purpose.as_str();
                violations.push(format!("{name} goes while it is held for {purpose}"));
            }
        }
        let is_down = member.unavailable() || fails_check(parsed, member);
        if is_down && hold.is_none() && purpose != HookPurpose::ScaleDown {
            continue;
        }
        let open = hooks.iter().find(|hook| {
            is_own(parsed, member, hook, purpose)
                && !is_done(parsed, member, hold.as_ref(), hook, purpose)
        });
        // A hold for another purpose does not make a hook necessary for a pod that is down.
        let is_other = hold.is_some_and(|hold| hold.purpose != purpose);
        let is_exempt = is_down && is_other && purpose != HookPurpose::ScaleDown;
        if let Some(hook) = open.filter(|_| !is_exempt) {
            violations.push(format!("{name} goes before hook {} is done", hook.name));
        }
    }
}

fn is_own(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    hook: &PolicyHook,
    purpose: HookPurpose,
) -> bool {
    let source = parsed.observed.roles();
    let role = source.and_then(|source| source.role(member.pod.label(&source.from_label)));
    let is_of_role = match role {
        None => true,
        Some(role) => hook.roles.is_empty() || hook.roles.contains(&role.to_owned()),
    };
    hook.before.contains(&purpose) && is_of_role
}

fn is_done(
    parsed: &ParsedSet<'_>,
    member: &Member<'_>,
    hold: Option<&PodHold>,
    hook: &PolicyHook,
    purpose: HookPurpose,
) -> bool {
    let Some(hold) = hold.filter(|hold| hold.purpose == purpose) else {
        return false;
    };
    if hold.done.contains(&hook.name) {
        return true;
    }
    let condition = member.pod.condition(pod_condition::HOOK_DONE);
    let node = condition
        .filter(|one| one.holds())
        .and_then(Condition::message);
    let ids = [node, member.pod.annotations.get(HOOK_DONE)];
    let is_answered = ids.contains(&Some(hold.id.as_str()));
    let is_late = hold.until.is_some_and(|until| until <= parsed.now);
    hold.hook.as_ref() == Some(&hook.name)
        && (is_answered || (is_late && hook.on_timeout == TimeoutAnswer::Proceed))
}
