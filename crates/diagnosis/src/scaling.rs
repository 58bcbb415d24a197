//! Explanations of objects that change the number of pods, or limit their eviction.

use std::sync::Arc;

use controller_planners::disruption::selected;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use pod_lifecycle::diagnosis::{Remedy, text};
use resource_kinds::pod_view::PodView;

use super::chain_builder::ChainBuilder;
use super::deletion::blocked_deletion;
use super::explanation::{CauseChain, Explanation, Object};
use super::observed::ObservedNamespace;
use super::workloads::of_pods;

pub(super) fn autoscaler(
    observed: &ObservedNamespace,
    scaler: &HorizontalPodAutoscaler,
    object: Object,
) -> Explanation {
    if let Some(chain) = blocked_deletion(observed, &object, &scaler.metadata) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let target = &scaler.spec.scale_target_ref;
    let status = scaler.status.clone().unwrap_or_default();
    let target_name = format!("{}/{}", target.kind.to_lowercase(), target.name);
    let summary = format!(
        "{} of {} pods of {target_name}",
        status.current_replicas.unwrap_or_default(),
        status.desired_replicas
    );
    let explanation = Explanation::fine(object.clone(), summary);
    let mut conditions = status.conditions.iter().flatten();
    let failed = conditions.find(|condition| {
        let able = ["AbleToScale", "ScalingActive"].contains(&condition.type_.as_str());
        able && condition.status == "False"
    });
    let Some(failed) = failed else {
        return match status.conditions.is_some() {
            true => explanation,
            false => explanation.note("the autoscaler's controller has not evaluated it yet"),
        };
    };
    let reason = failed.reason.clone().unwrap_or_default();
    let message = text::line(failed.message.as_deref().unwrap_or_default());
    if reason == "ScalingDisabled" {
        let scale = format!("scale {target_name} --replicas=1");
        let scale = text::kubectl(&observed.namespace, &scale);
        return explanation.note(format!("{message}; to begin again: {scale}"));
    }
    let since = failed.last_transition_time.as_ref().map(|time| time.0);
    let mut builder = ChainBuilder::of(observed);
    builder.link(object.clone(), &*reason, &*message, since);
    let namespace = &observed.namespace;
    let edit = text::kubectl(namespace, &format!("edit hpa {}", object.name));
    let remedy = if reason == "FailedGetScale" {
        Remedy::new(format!("{target_name} must exist; or name another target")).with(edit)
    } else if message.contains("missing request for") {
        let resource = message.split_once("missing request for ");
        let resource = resource.and_then(|(_, rest)| rest.split_whitespace().next());
        let resource = resource.unwrap_or("cpu");
        let amount = if resource == "memory" { "64Mi" } else { "100m" };
        let set = format!("set resources {target_name} --requests={resource}={amount}");
        Remedy::new("its pods must request the measured resource, here with an amount to adapt")
            .with(text::kubectl(namespace, &set))
    } else {
        Remedy::new("metrics of its pods, which have to run for a minute; or another metric")
            .with(edit)
    };
    builder.remedy(remedy);
    let unwell: Vec<_> = observed
        .pods
        .iter()
        .filter(|pod| {
            let owner = pod.controller.as_ref();
            owner.is_some_and(|owner| {
                owner.name.starts_with(target.name.as_str()) && !pod.has_ended()
            })
        })
        .filter(|pod| pod_lifecycle::diagnosis::pod(pod).is_some())
        .collect();
    if let Some(pod) = unwell.first() {
        builder.pod(pod);
    }
    explanation.waits([builder.chain()])
}

pub(super) fn budget(
    observed: &ObservedNamespace,
    budget: &PodDisruptionBudget,
    object: Object,
) -> Explanation {
    if let Some(chain) = blocked_deletion(observed, &object, &budget.metadata) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let status = budget.status.clone().unwrap_or_default();
    let number = |count: Option<i32>| count.unwrap_or_default();
    let (healthy, desired) = (
        number(status.current_healthy),
        number(status.desired_healthy),
    );
    let (allowed, expected) = (
        number(status.disruptions_allowed),
        number(status.expected_pods),
    );
    let summary = format!("{healthy} of {expected} pods are healthy, {desired} have to be");
    let explanation = Explanation::fine(object.clone(), summary);
    if allowed > 0 {
        return explanation;
    }
    if expected == 0 {
        let mut conditions = status.conditions.into_iter().flatten();
        let failed = conditions.find(|one| one.reason == "SyncFailed");
        return match failed {
            Some(failed) => {
                let mut builder = ChainBuilder::of(observed);
                builder.link(
                    object.clone(),
                    "SyncFailed",
                    text::line(&failed.message),
                    None,
                );
                let edit = format!("edit pdb {}", object.name);
                let edit = text::kubectl(&observed.namespace, &edit);
                builder
                    .remedy(Remedy::new("a selector of pods that a controller scales").with(edit));
                explanation.waits([builder.chain()])
            }
            None => explanation.note("no pod has the labels of its selector: it protects nothing"),
        };
    }
    let allow = format!(
        "patch pdb {} --type merge -p '{{\"spec\":{{\"minAvailable\":null,\
         \"maxUnavailable\":1}}}}'",
        object.name
    );
    let allow = text::kubectl(&observed.namespace, &allow);
    if healthy >= desired {
        if let Some(chain) = drained(observed, budget, &object, &allow) {
            return explanation.waits([chain]);
        }
        return explanation.note(format!(
            "no pod may be evicted as long as all {desired} have to be healthy; to allow one: \
             {allow}"
        ));
    }
    let pods = selected(&observed.namespace, budget, &observed.pods).into_iter();
    let chains = of_pods(observed, pods.filter(|pod| !pod.has_ended()));
    let waits = !chains.is_empty();
    let chains = chains.into_iter().map(|mut chain| {
        let mut builder = ChainBuilder::of(observed);
        let message = format!("no pod may be evicted: {healthy} are healthy, {desired} have to be");
        builder.link(object.clone(), "InsufficientPods", message, None);
        chain.links.splice(0..0, builder.chain().links);
        chain
    });
    let explanation = explanation.waits(chains);
    match waits {
        true => explanation,
        false => explanation.note(format!("no pod may be evicted; to allow one: {allow}")),
    }
}

/// Adds the budget that holds an eviction of the pod; returns whether there is one.
pub(super) fn holding_budget(builder: &mut ChainBuilder<'_>, pod: &PodView) -> bool {
    let observed = builder.observed;
    let holds = |budget: &&Arc<PodDisruptionBudget>| {
        let allowed = budget
            .status
            .as_ref()
            .and_then(|status| status.disruptions_allowed);
        let selected = selected(&observed.namespace, budget, &observed.pods);
        allowed.unwrap_or_default() <= 0 && selected.iter().any(|one| one.uid == pod.uid)
    };
    let Some(budget) = observed.budgets.iter().find(holds) else {
        return false;
    };
    let name = text::name(&budget.metadata);
    let object = observed.object("PodDisruptionBudget", name);
    builder.link(object, "HoldsEvictions", "allows no disruption now", None);
    let edit = text::kubectl(&observed.namespace, &format!("edit pdb {name}"));
    let remedy = "its other pods have to be healthy; or allow a disruption, or take `budgets` out of the guard";
    builder.remedy(Remedy::new(remedy).with(edit));
    true
}

/// A drain that a disruption budget blocks.
fn drained(
    observed: &ObservedNamespace,
    budget: &PodDisruptionBudget,
    object: &Object,
    allow: &str,
) -> Option<CauseChain> {
    let pods = selected(&observed.namespace, budget, &observed.pods);
    let node = pods.iter().find_map(|pod| {
        let node = observed.node(pod.node.as_deref()?)?;
        let spec = node.spec.as_ref()?;
        (spec.unschedulable == Some(true)).then(|| text::name(&node.metadata))
    })?;
    let there = pods.iter().filter(|pod| pod.node.as_deref() == Some(node));
    let there = text::list(there.map(|pod| &*pod.name));
    let mut builder = ChainBuilder::of(observed);
    let message = format!(
        "node {node} is cordoned, and {there} may not be evicted from it: all that are healthy have \
         to be"
    );
    builder.link(object.clone(), "HoldsEvictions", message, None);
    let text = format!(
        "add pods; or uncordon the node (kubectl uncordon {node}); or allow one pod to be \
         evicted"
    );
    builder.remedy(Remedy::new(text).with(allow));
    Some(builder.chain())
}
