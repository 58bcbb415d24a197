//! Rules about the guard of a policy (rollouts.md R27, R31).

use jiff::Timestamp;
use object_model::IntOrPercent;
use resource_kinds::pod_view::{Condition, PodView};
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{CheckKind, EVICTION_WITHIN, Guard, MinHealthy};

use crate::stateful_set::group::GroupMember;
use crate::stateful_set::member::Member;
use crate::stateful_set::observed::ParsedSet;
use crate::stateful_set::plan::{StatefulSetAction, StatefulSetPlan};

/// Whether the health check of the set's guard fails in a pod.
pub(super) fn fails_check(parsed: &ParsedSet<'_>, member: &Member<'_>) -> bool {
    let guard = parsed.observed.guard();
    guard.is_some_and(|guard| !passes(guard, member.pod, CheckKind::Health))
}

/// Whether a check of the guard succeeds in a pod, or the guard has no such check.
fn passes(guard: &Guard, pod: &PodView, kind: CheckKind) -> bool {
    let result = pod.condition(kind.condition());
    guard.check(kind).is_none() || result.is_some_and(Condition::holds)
}

/// Whether that number of healthy pods is enough for a set, or a group of sets, of these replicas.
fn is_enough(min_healthy: MinHealthy, healthy: i64, replicas: i64) -> bool {
    match min_healthy {
        MinHealthy::Quorum => healthy * 2 > replicas || replicas == 0,
        MinHealthy::Part(IntOrPercent::Int(number)) => healthy >= i64::from(number),
        MinHealthy::Part(IntOrPercent::Percent(percent)) => {
            healthy * 100 >= replicas * i64::from(percent)
        }
    }
}

/// The healthy pods of the other sets of a group, each with the guard of its set, and the sum of the replicas.
fn healthy_of_group(
    group: &[GroupMember],
    now: Timestamp,
) -> (impl Iterator<Item = (&Guard, &PodView)>, i64) {
    let replicas = group.iter().map(|other| {
        let spec = other.set.spec.as_ref();
        i64::from(spec.and_then(|spec| spec.replicas).unwrap_or(1))
    });
    let holds = |pod: &PodView, kind: &str| pod.condition(kind).is_some_and(Condition::holds);
    let is_announced = move |pod: &PodView| {
        let since = pod.condition(pod_condition::DISRUPTION_TARGET);
        let since = since
            .filter(|found| found.holds())
            .and_then(|found| found.since);
        since.is_some_and(|since| now.duration_since(since) < EVICTION_WITHIN)
    };
    let pods = group.iter().flat_map(|other| {
        let guard = other.policy.spec.guard.as_ref();
        let pods = other.desired().map(AsRef::as_ref);
        pods.filter_map(move |pod| Some((guard?, pod)))
    });
    let healthy = pods.filter(move |(guard, pod)| {
        let is_up = holds(pod, pod_condition::READY) && pod.deletion.is_none();
        is_up && passes(guard, pod, CheckKind::Health) && !is_announced(pod)
    });
    (healthy, replicas.sum())
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
            && passes(guard, member.pod, CheckKind::Health)
    };
    let lost: Vec<_> = deleted.iter().filter(|member| healthy(member)).collect();
    if lost.is_empty() {
        return;
    }
    let is_lost = |member: &Member<'_>| lost.iter().any(|lost| lost.name() == member.name());
    let members = parsed.members.iter();
    let left = members.filter(|member| healthy(member) && !is_lost(member));
    let left = left.map(|member| (guard, member.pod));
    let (of_others, replicas_of_others) = healthy_of_group(&parsed.observed.group, parsed.now);
    let left: Vec<_> = left.chain(of_others).collect();
    let recovering = left
        .iter()
        .find(|(guard, pod)| !passes(guard, pod, CheckKind::Recovery));
    if let Some((_, pod)) = recovering {
        let pod = &pod.name;
        violations.push(format!("a pod is deleted while {pod} has not recovered"));
    }
    let left = i64::try_from(left.len()).unwrap_or(i64::MAX);
    let replicas = parsed.spec.replicas + replicas_of_others;
    let others = parsed.observed.group.iter();
    let others = others.filter_map(|other| other.policy.spec.guard.as_ref());
    let mut guards = others.chain([guard]);
    if !guards.all(|guard| is_enough(guard.min_healthy, left, replicas)) {
        violations.push(format!("the guard is broken: {left} healthy pods are left"));
    }
    if let Some(member) = lost.iter().find(|member| !is_evicted(member.name())) {
        let pod = member.name();
        violations.push(format!("{pod} is healthy and deleted without an eviction"));
    }
}
