//! The effect of a pod's failure, by the job's `podFailurePolicy`.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};

use crate::pod_set::{Phase, PodState};

/// The effect of a pod's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FailureEffect {
    /// The failure counts towards `backoffLimit`.
    Count,
    /// The failure does not count.
    Ignore,
    /// The pod's index has failed.
    FailIndex,
    /// The job has failed, with the message.
    FailJob(String),
}

pub(super) fn verdict(spec: &JobSpec, pod: &PodState<'_>) -> FailureEffect {
    let Some(policy) = &spec.pod_failure_policy else {
        return FailureEffect::Count;
    };
    if pod.phase != Phase::Failed {
        return FailureEffect::Count;
    }
    for (number, rule) in policy.rules.iter().enumerate() {
        let Some(what) = matched(rule, pod) else {
            continue;
        };
        return match rule.action.as_str() {
            "Ignore" => FailureEffect::Ignore,
            "FailIndex" => FailureEffect::FailIndex,
            "FailJob" => FailureEffect::FailJob(format!(
                "{what} matching {} rule at index {number}",
                rule.action
            )),
            _ => FailureEffect::Count,
        };
    }
    FailureEffect::Count
}

/// The description of the rule that matches the pod; `None` if the rule does not match.
fn matched(rule: &PodFailurePolicyRule, pod: &PodState<'_>) -> Option<String> {
    let namespace = &pod.pod.namespace;
    let name = pod.name();
    if let Some(codes) = &rule.on_exit_codes {
        let all = pod.pod.containers.iter().chain(&pod.pod.init_containers);
        let ended =
            all.filter_map(|container| Some((&*container.name, container.end()?.exit_code)));
        let mut failed =
            ended.filter(|(container, code)| *code != 0 && fits(codes, container, *code));
        let (container, code) = failed.next()?;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    rule.on_pod_conditions.iter().flatten().find_map(|pattern| {
        let expected = pattern.status.as_deref().unwrap_or("True");
        let mut conditions = pod.pod.conditions.iter();
        let stored =
            conditions.any(|stored| stored.kind() == pattern.type_ && stored.status() == expected);
        let kind = &pattern.type_;
        stored.then(|| format!("Pod {namespace}/{name} has condition {kind}"))
    })
}

fn fits(codes: &PodFailurePolicyOnExitCodesRequirement, container: &str, code: i32) -> bool {
    let named = codes.container_name.as_deref();
    let listed = codes.values.contains(&code);
    named.is_none_or(|named| named == container) && listed == (codes.operator == "In")
}
