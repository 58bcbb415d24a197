//! The decision: filters over all nodes, then scores.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use resource_kinds::pod_view::PodView;

use crate::resources::{Resources, Room, requests};
use crate::score::score;
use crate::view::{ClusterView, Decision, Obstacle};
use crate::volumes::Claims;
use crate::{affinity, node, ports, spread};

/// Decides where the pod goes. `reserved` is the node on which a place was kept for it by an
/// earlier decision: it is chosen again as long as it fits, because the pod's volumes are being
/// made there.
pub fn place(pod: &PodView, view: &ClusterView, reserved: Option<&str>) -> Decision {
    if let Some(obstacle) = gates(pod) {
        return Decision::Unschedulable(obstacle);
    }
    if view.nodes.is_empty() {
        return unschedulable("no nodes available to schedule pods".to_owned());
    }
    let total = view.nodes.len();
    let claims = match Claims::of(pod, view) {
        Ok(claims) => claims,
        Err(text) => return unschedulable(format!("0/{total} nodes are available: {text}.")),
    };
    let wanted = requests(pod);
    let mut objections: BTreeMap<String, usize> = BTreeMap::new();
    let mut fitting = Vec::new();
    for (name, node) in &view.nodes {
        let pods = pods_on(name, pod, view);
        let room = Room::of(node, pods.iter().copied());
        let found = node_objections(pod, node, &pods, &room, &wanted, &claims, view);
        if found.is_empty() {
            fitting.push((score(pod, node, &room, &wanted, view), name, node));
        }
        for objection in found {
            *objections.entry(objection).or_default() += 1;
        }
    }
    let kept = fitting
        .iter()
        .find(|(_, name, _)| Some(name.as_str()) == reserved);
    // Of equal scores the first name wins.
    let best = kept.or_else(|| {
        fitting
            .iter()
            .max_by(|(a, a_name, _), (b, b_name, _)| a.cmp(b).then(b_name.cmp(a_name)))
    });
    let Some((_, name, node)) = best else {
        return unschedulable(explain(total, &objections));
    };
    let node_name = (*name).clone();
    if claims.are_bound() {
        return Decision::Bind { node: node_name };
    }
    let steps = claims.steps(node, view).unwrap_or_default();
    Decision::Prepare {
        node: node_name,
        steps,
    }
}

/// All that speaks against a node, of the first rule that has something against it (as the
/// scheduler framework reports it).
fn node_objections(
    pod: &PodView,
    node: &Node,
    pods: &[&PodView],
    room: &Room,
    wanted: &Resources,
    claims: &Claims<'_>,
    view: &ClusterView,
) -> Vec<String> {
    if let Some(objection) = node::objection(pod, node) {
        return vec![objection];
    }
    if !ports::are_free(pod, pods.iter().copied()) {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    let shortages = room.shortages(wanted);
    if !shortages.is_empty() {
        return shortages;
    }
    let volumes = claims.objections(node, view);
    if !volumes.is_empty() {
        return volumes;
    }
    let spread = spread::objection(pod, node, view);
    spread
        .or_else(|| affinity::objection(pod, node, view))
        .into_iter()
        .collect()
}

/// The pods on a node, without the pod itself.
fn pods_on<'v>(node: &str, pod: &PodView, view: &'v ClusterView) -> Vec<&'v PodView> {
    let is_there = |other: &&PodView| other.uid != pod.uid && other.node.as_deref() == Some(node);
    view.pods
        .iter()
        .map(AsRef::as_ref)
        .filter(is_there)
        .collect()
}

fn gates(pod: &PodView) -> Option<Obstacle> {
    let gates = pod.spec.scheduling_gates.as_deref()?;
    if gates.is_empty() {
        return None;
    }
    let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
    Some(Obstacle {
        reason: "SchedulingGated",
        message,
    })
}

fn unschedulable(message: String) -> Decision {
    Decision::Unschedulable(Obstacle {
        reason: "Unschedulable",
        message,
    })
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn explain(total: usize, objections: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = objections
        .iter()
        .map(|(text, count)| format!("{count} {text}"))
        .collect();
    parts.sort();
    format!("0/{total} nodes are available: {}.", parts.join(", "))
}
