//! The policy of the set.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::stateful_set::{GroupMember, identity};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ExecAction, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use object_model::IntOrPercent;
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{
    CheckKind, Guard, GuardCheck, MinHealthy, OnFailure, PolicySpec, RolloutRules, RolloutStrategy,
    StatefulSetPolicy,
};

use super::NAMESPACE;
use crate::state::{Answer, Checks, Spec};
use crate::world::World;

/// The time until a new pod is Ready, in seconds.
const DEADLINE: u32 = 600;

/// The policy of the set; `None` without rules.
pub(super) fn policy(spec: Spec, is_shared: bool) -> Option<Arc<StatefulSetPolicy>> {
    let guard = Guard {
        min_healthy: MinHealthy::Part(IntOrPercent::Int(spec.min_healthy.into())),
        health: check(spec.checks.health),
        recovered: check(spec.checks.recovery),
        budgets: false,
        group: is_shared.then(|| "group".to_owned()),
    };
    let has_rollout = spec.recreate || spec.on_failure.is_some();
    let rules = PolicySpec {
        guard: (spec.min_healthy > 0).then_some(guard),
        rollout: has_rollout.then(|| rollout(spec)),
        ..PolicySpec::default()
    };
    let has_rules = rules.guard.is_some() || rules.rollout.is_some();
    has_rules.then(|| {
        Arc::new(StatefulSetPolicy {
            spec: rules,
            ..StatefulSetPolicy::default()
        })
    })
}

/// The other set that shares the guard, with its healthy pods.
pub(super) fn other_set(world: &World, spec: Spec, healthy: u8) -> Vec<GroupMember> {
    let Some(policy) = policy(spec, true).filter(|_| world.others > 0) else {
        return Vec::new();
    };
    let mut set = StatefulSet::default();
    set.metadata.name = Some("other".to_owned());
    set.metadata.uid = Some("other".to_owned());
    set.spec.get_or_insert_default().replicas = Some(world.others.into());
    let pods = (0..world.others).filter_map(|ordinal| {
        let is_healthy = if ordinal < healthy { "True" } else { "False" };
        let mut pod = Pod::default();
        pod.metadata.name = Some(format!("other-{ordinal}"));
        pod.metadata.namespace = Some(NAMESPACE.to_owned());
        pod.metadata.uid = Some(format!("other-{ordinal}"));
        pod.metadata.resource_version = Some("1".to_owned());
        pod.metadata.owner_references = Some(vec![OwnerReference {
            controller: Some(true),
            ..identity::owner_reference(&set).ok()?
        }]);
        pod.status.get_or_insert_default().conditions = Some(vec![PodCondition {
            type_: pod_condition::READY.to_owned(),
            status: is_healthy.to_owned(),
            ..PodCondition::default()
        }]);
        Some(Arc::new((&pod).try_into().ok()?))
    });
    vec![GroupMember {
        pods: pods.collect(),
        set: Arc::new(set),
        policy,
    }]
}

/// A check of the guard. The model has its results, and no command.
fn check(is_set: bool) -> Option<GuardCheck> {
    is_set.then(|| GuardCheck {
        exec: Some(ExecAction {
            command: Some(vec!["check".to_owned()]),
        }),
        ..GuardCheck::default()
    })
}

/// The annotations with the checks that the node of a pod runs.
pub(super) fn check_annotations(checks: Checks) -> Option<BTreeMap<String, String>> {
    let all = [
        (CheckKind::Health, checks.health),
        (CheckKind::Recovery, checks.recovery),
    ];
    let texts = all
        .into_iter()
        .filter_map(|(kind, is_set)| Some((kind.annotation().to_owned(), check(is_set)?.text())));
    let texts: BTreeMap<_, _> = texts.collect();
    (!texts.is_empty()).then_some(texts)
}

fn rollout(spec: Spec) -> RolloutRules {
    RolloutRules {
        // Without an answer no pod of the world is judged: it has no deadline, and no pod restarts.
        progress_deadline_seconds: spec.on_failure.map_or(u32::MAX, |_| DEADLINE),
        max_restarts: i32::MAX,
        on_failure: match spec.on_failure {
            Some(Answer::Rollback) => OnFailure::Rollback,
            Some(Answer::Hold) | None => OnFailure::Hold,
        },
        strategy: match spec.recreate {
            true => RolloutStrategy::Recreate,
            false => RolloutStrategy::RollingUpdate,
        },
        order: Vec::new(),
        steps: Vec::new(),
    }
}
