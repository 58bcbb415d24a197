//! The decision: filters over all nodes, then scores; if no node is feasible, preemption.

use std::collections::BTreeMap;

use resource_kinds::pod_view::PodView;

use crate::case::PodToPlace;
use crate::objection::FilterFailure;
use crate::preempt::{PreemptionResult, preempt, without_nodes};
use crate::score::{Feasible, best};
use crate::snapshot::SchedulingSnapshot;
use crate::view::{ClusterView, PlacementDecision, PlacementFailure, Preemption};

/// Decides the node of the pod. `reserved` is the node that an earlier decision reserved for the pod: it is chosen
/// again while it is feasible, because the pod's volumes are being provisioned there. The pod's nominated node is
/// preferred in the same way.
pub fn place(pod: &PodView, view: &ClusterView, reserved: Option<&str>) -> PlacementDecision {
    if let Some(obstacle) = gates(pod) {
        return PlacementDecision::Unschedulable(obstacle);
    }
    if view.nodes.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return PlacementDecision::Unschedulable(unschedulable(message, false));
    }
    let total = view.nodes.len();
    let case = match PodToPlace::of(pod, view) {
        Ok(case) => case,
        Err(refusal) => {
            let verdict = without_nodes(pod, view);
            return unplaced(
                format!("0/{total} nodes are available: {refusal}."),
                verdict,
            );
        }
    };
    let snapshot = SchedulingSnapshot::of(view);
    let mut against: BTreeMap<&str, FilterFailure> = BTreeMap::new();
    let mut feasible = Vec::new();
    let placed_copy = snapshot.placed_copy(pod);
    for (name, node) in &view.nodes {
        let free = snapshot.free_resources(name, node, placed_copy);
        match case.check(node, &free, &snapshot) {
            Ok(()) => feasible.push(Feasible { name, node, free }),
            Err(objection) => {
                against.insert(name, objection);
            }
        }
    }
    let preferred = reserved.or(pod.nominated.as_deref());
    let preferred_node = feasible.iter().find(|one| Some(one.name) == preferred);
    let best = preferred_node.or_else(|| best(pod, &case.requests, &feasible, &snapshot));
    let Some(Feasible { name, node, .. }) = best else {
        let texts = against.values().flat_map(|objection| &objection.texts);
        let message = explain(total, texts);
        return unplaced(message, preempt(&case, &snapshot, &against));
    };
    let node_name = (*name).to_owned();
    match case.steps(node, view) {
        None => PlacementDecision::Bind { node: node_name },
        Some(steps) => PlacementDecision::Prepare {
            node: node_name,
            steps,
        },
    }
}

fn gates(pod: &PodView) -> Option<PlacementFailure> {
    let gates = pod.spec.scheduling_gates.as_deref()?;
    if gates.is_empty() {
        return None;
    }
    let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
    Some(PlacementFailure {
        reason: "SchedulingGated",
        message,
        keeps_nomination: false,
    })
}

fn unschedulable(message: String, keeps_nomination: bool) -> PlacementFailure {
    PlacementFailure {
        reason: "Unschedulable",
        message,
        keeps_nomination,
    }
}

/// The decision for a pod without a feasible node.
fn unplaced(message: String, verdict: PreemptionResult) -> PlacementDecision {
    let (text, keeps_nomination) = match verdict {
        PreemptionResult::Victims {
            node,
            victims,
            displaced,
        } => {
            return PlacementDecision::Preempt(Preemption {
                node,
                victims,
                displaced,
                obstacle: unschedulable(message, true),
            });
        }
        PreemptionResult::NotEligible(text) => (text.to_owned(), true),
        PreemptionResult::NoHelp(texts) => {
            let total = texts.len();
            (explain(total, texts.iter().flatten()), false)
        }
    };
    let message = format!("{message} preemption: {text}");
    PlacementDecision::Unschedulable(unschedulable(message, keeps_nomination))
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn explain<'t>(total: usize, texts: impl Iterator<Item = &'t String>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let mut parts: Vec<String> = counts
        .iter()
        .map(|(text, count)| format!("{count} {text}"))
        .collect();
    parts.sort_unstable();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}
