//! Rules about the guard of a policy (rollouts.md R27, R31).

use object_model::IntOrPercent;
use resource_kinds::pod_view::Condition;
use resource_kinds::stateful_set_policy::{CheckKind, Guard, MinHealthy};

use crate::stateful_set::member::Member;
use crate::stateful_set::observed::ParsedSet;
use crate::stateful_set::plan::{StatefulSetAction, StatefulSetPlan};

/// Whether the health check of the set's guard fails in a pod.
pub(super) fn fails_check(parsed: &ParsedSet<'_>, member: &Member<'_>) -> bool {
    let guard = parsed.observed.guard();
    guard.is_some_and(|guard| !passes(guard, member, CheckKind::Health))
}

/// Whether a check of the guard succeeds in a pod, or the guard has no such check.
fn passes(guard: &Guard, member: &Member<'_>, kind: CheckKind) -> bool {
    let result = member.pod.condition(kind.condition());
    guard.check(kind).is_none() || result.is_some_and(Condition::holds)
}

/// A plan deletes a healthy pod of a guarded set only by an eviction, and leaves enough healthy pods.
pub(super) fn is_kept(
    parsed: &ParsedSet<'_>,
    plan: &StatefulSetPlan,
    deleted: &[&Member<'_>],
    violations: &mut Vec<String>,
) {
    let is_evicted = |name: &str| {
        let mut actions = plan.actions();
        actions.any(
            |action| matches!(action, StatefulSetAction::EvictPod { name: pod, .. } if pod == name),
        )
    };
    let Some(guard) = parsed.observed.guard() else {
        if deleted.iter().any(|member| is_evicted(member.name())) {
            violations.push("a pod is evicted, and the set has no guard".to_owned());
        }
        return;
    };
    let healthy = |member: &Member<'_>| {
        member.ready_since.is_some()
            && !member.terminating
            && passes(guard, member, CheckKind::Health)
    };
    let lost: Vec<_> = deleted.iter().filter(|member| healthy(member)).collect();
    if lost.is_empty() {
        return;
    }
    let is_lost = |member: &Member<'_>| lost.iter().any(|lost| lost.name() == member.name());
    let members = parsed.members.iter();
    let left = members.filter(|member| healthy(member) && !is_lost(member));
    if let Some(pod) = left
        .clone()
        .find(|member| !passes(guard, member, CheckKind::Recovery))
    {
        let pod = pod.name();
        violations.push(format!("a pod is deleted while {pod} has not recovered"));
    }
    let left = i64::try_from(left.count()).unwrap_or(i64::MAX);
    let replicas = parsed.spec.replicas;
    let is_enough = match guard.min_healthy {
        MinHealthy::Quorum => left * 2 > replicas || replicas == 0,
        MinHealthy::Part(IntOrPercent::Int(number)) => left >= i64::from(number),
        MinHealthy::Part(IntOrPercent::Percent(percent)) => {
            left * 100 >= replicas * i64::from(percent)
        }
    };
    if !is_enough {
        violations.push(format!("the guard is broken: {left} healthy pods are left"));
    }
    if let Some(member) = lost.iter().find(|member| !is_evicted(member.name())) {
        let pod = member.name();
        violations.push(format!("{pod} is healthy and deleted without an eviction"));
    }
}
