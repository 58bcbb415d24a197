//! The remedies for waits that the policy of a set causes: roles, steps, hooks, and a rollout that failed.

use controller_planners::stateful_set::Cause;
use k8s_openapi::api::apps::v1::StatefulSet;
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::annotations::{APPROVED_STEP, HOOK_DONE, REJECTED};
use resource_kinds::stateful_set_policy::{OnFailure, StatefulSetPolicy};

/// The reason and the remedy; `None` if the policy does not cause the wait.
pub(super) fn remedy(
    policy: Option<&StatefulSetPolicy>,
    set: &StatefulSet,
    cause: &Cause,
) -> Option<(&'static str, Remedy)> {
    let kubectl = |rest: String| text::kubectl(text::namespace(&set.metadata), &rest);
    Some(match cause {
        Cause::RoleUnknown { pod } => {
            let roles = policy.and_then(|policy| policy.spec.roles.as_ref());
            let label = roles.map_or("", |roles| roles.from_label.as_str());
            let remedy = Remedy::new(
                "the program of the pod, or an agent beside it, sets the label; or set it, or a default role in the policy",
            );
            let set = kubectl(format!("label pod {pod} {label}=ROLE"));
            ("RoleUnknown", remedy.with(set))
        }
        Cause::RolloutPaused {
            revision,
            until,
            approval,
            ..
        } => {
            let remedy = Remedy::new(match until {
                Some(_) => "nothing to do; to go on before the end of the pause",
                None => "look at the new pods; then approve the step",
            });
            let approve = format!(
                "annotate --overwrite controllerrevision {revision} {APPROVED_STEP}={approval}"
            );
            ("RolloutPaused", remedy.with(kubectl(approve)))
        }
        Cause::HookRuns { pod, asks, .. } => ("HookRunning", hook(pod, asks.as_deref(), kubectl)),
        Cause::HookTimedOut { pod, asks, .. } => {
            ("HookTimedOut", hook(pod, asks.as_deref(), kubectl))
        }
        Cause::RevisionRejected {
            revision,
            evidence,
            answer,
        } => {
            let mut remedy = Remedy::new("set another template; or try this one again");
            // The pod that failed would be the evidence again.
            if let (OnFailure::Hold, Some(evidence)) = (answer, evidence) {
                remedy = remedy.with(kubectl(format!("delete pod {}", evidence.pod)));
            }
            let again = format!("annotate controllerrevision {revision} {REJECTED}-");
            ("RevisionRejected", remedy.with(kubectl(again)))
        }
        _ => return None,
    })
}

/// The remedy for a pod that a hook holds; `asks` is the id of a run that a person answers.
fn hook(pod: &str, asks: Option<&str>, kubectl: impl Fn(String) -> String) -> Remedy {
    let (text, command) = match asks {
        Some(id) => (
            "answer when it is done; or delete the pod without it",
            format!("annotate --overwrite pod {pod} {HOOK_DONE}={id}"),
        ),
        None => (
            "the hook has to succeed, and here is its output; or delete the pod without it",
            format!("describe pod {pod}"),
        ),
    };
    let remedy = Remedy::new(text).with(kubectl(command));
    remedy.with(kubectl(format!("delete pod {pod}")))
}
