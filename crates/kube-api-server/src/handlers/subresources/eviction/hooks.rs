//! The hooks of a StatefulSetPolicy before a pod is evicted (`docs/contract/rollouts.md` R26): an eviction begins them, and is
//! refused until they are done. The controller of the set names the hooks, and the node runs them.

use jiff::Timestamp;
use json_tree::Value;
use object_model::Status;
use resource_kinds::annotations::{HOOK, HOOK_DONE};
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{
    HookAnswers, HookPurpose, HookState, PodHealth, PodHold, REQUEST_RENEWED, hooks_before,
};

use super::guard::{facts, held};
use super::set::GovernedSet;

/// Whether the hooks permit the eviction of a pod.
pub(super) enum HookGate {
    Open,
    /// The hooks hold the pod.
    Held {
        /// The new text of the annotation that holds the pod, if it changes.
        annotation: Option<String>,
        /// The refusal.
        status: Box<Status>,
    },
}

/// Decides about the eviction of a pod of a set by a user.
pub(super) fn gate(set: Option<&GovernedSet>, pod: &Value, now: Timestamp) -> HookGate {
    let set = set.filter(|set| !set.policy.spec.hooks.is_empty());
    set.map_or(HookGate::Open, |set| decide(set, pod, now))
}

fn decide(set: &GovernedSet, pod: &Value, now: Timestamp) -> HookGate {
    let spec = &set.policy.spec;
    let role = spec.role(|key| pod["metadata"]["labels"][key].as_str());
    let hold = annotation(pod, HOOK).and_then(PodHold::parse);
    let text = match hold {
        Some(hold) if hold.cancels => None,
        Some(hold)
            if hold.purpose == HookPurpose::Evict || hold.purpose.outranks(HookPurpose::Evict) =>
        {
            if hold.state(&spec.hooks, role, answers(pod), now) == HookState::Done {
                return HookGate::Open;
            }
            let is_old = |requested| now.duration_since(requested) >= REQUEST_RENEWED;
            let renewed = hold
                .requested
                .filter(|requested| is_old(*requested))
                .map(|_| PodHold {
                    requested: Some(now),
                    ..hold
                });
            renewed.map(|hold| hold.text())
        }
        hold => {
            let is_hooked = !hooks_before(&spec.hooks, HookPurpose::Evict, role).is_empty();
            // A pod that is held for another purpose may be not ready because of its hook.
            if !is_hooked || (hold.is_none() && is_down(set, pod, now)) {
                return HookGate::Open;
            }
            Some(PodHold::new(HookPurpose::Evict, now).text())
        }
    };
    let policy = set.policy.name();
    HookGate::Held {
        annotation: text,
        status: Box::new(held(
            format!("Cannot evict pod before its hooks of StatefulSetPolicy {policy} are done."),
            format!("The hooks of StatefulSetPolicy {policy} hold the pod"),
        )),
    }
}

fn is_down(set: &GovernedSet, pod: &Value, now: Timestamp) -> bool {
    match &set.policy.spec.guard {
        Some(guard) => guard.judge(facts(pod), now) == PodHealth::Unhealthy,
        None => !facts(pod).is_ready,
    }
}

fn annotation<'p>(pod: &'p Value, key: &str) -> Option<&'p str> {
    pod["metadata"]["annotations"][key].as_str()
}

fn answers(pod: &Value) -> HookAnswers<'_> {
    let conditions = pod["status"]["conditions"].as_array();
    let is_done = |condition: &&Value| {
        condition["type"] == pod_condition::HOOK_DONE && condition["status"] == "True"
    };
    let done = conditions.into_iter().flatten().find(is_done);
    HookAnswers {
        node: done.and_then(|condition| condition["message"].as_str()),
        annotation: annotation(pod, HOOK_DONE),
    }
}
