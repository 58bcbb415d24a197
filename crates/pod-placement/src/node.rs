//! Rules that depend on the node only: its name, labels, taints and readiness for new pods.

use k8s_openapi::api::core::v1::{Node, NodeSelector, Pod, PodSpec, Taint, Toleration};
use resource_kinds::pod_view::PodView;
use resource_kinds::reasons::taint::UNSCHEDULABLE;

use crate::labels::node_selector_matches;
use crate::objection::FilterFailure;

/// The node's own objection to the pod, or `None`.
pub(crate) fn objection(pod: &PodView, node: &Node) -> Option<FilterFailure> {
    let spec = &pod.spec;
    if is_cordoned(node) && !tolerates(spec, &cordon()) {
        return Some(FilterFailure::lasting("node(s) were unschedulable"));
    }
    if pod.node.is_some() && pod.node.as_deref() != node.metadata.name.as_deref() {
        return Some(FilterFailure::lasting(
            "node(s) didn't match the requested node name",
        ));
    }
    if untolerated_taint(spec, node).is_some() {
        return Some(FilterFailure::lasting("node(s) had untolerated taint(s)"));
    }
    if !matches_affinity(spec, node) {
        return Some(FilterFailure::lasting(
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    None
}

/// Whether a node accepts a DaemonSet's pod for this node: a new pod, and an existing pod. The other pods of the node do
/// not matter.
pub fn takes(pod: &Pod, node: &Node) -> (bool, bool) {
    let Some(spec) = pod.spec.as_ref() else {
        return (false, false);
    };
    let node_name = spec.node_name.as_deref().filter(|name| !name.is_empty());
    let elsewhere = node_name.is_some() && node_name != node.metadata.name.as_deref();
    if elsewhere || !matches_affinity(spec, node) {
        return (false, false);
    }
    let mut against = taints(node)
        .iter()
        .filter(|taint| !tolerates(spec, taint))
        .map(|taint| taint.effect.as_str());
    let evicted = against.clone().any(|effect| effect == "NoExecute");
    let excluded = against.any(|effect| effect == "NoSchedule" || effect == "NoExecute");
    (!excluded, !evicted)
}

fn is_cordoned(node: &Node) -> bool {
    node.spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or_default()
}

/// The taint of cordoned nodes; a pod that tolerates it may be placed on a cordoned node.
fn cordon() -> Taint {
    Taint {
        key: UNSCHEDULABLE.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    }
}

/// The first taint that keeps the pod away.
pub(crate) fn untolerated_taint<'n>(spec: &PodSpec, node: &'n Node) -> Option<&'n Taint> {
    taints(node)
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .find(|taint| !tolerates(spec, taint))
}

pub(crate) fn taints(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

pub(crate) fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    tolerations
        .iter()
        .any(|toleration| covers(toleration, taint))
}

fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    fn given(text: &Option<String>) -> &str {
        text.as_deref().unwrap_or_default()
    }
    let (effect, key) = (given(&toleration.effect), given(&toleration.key));
    if !effect.is_empty() && effect != taint.effect {
        return false;
    }
    if !key.is_empty() && key != taint.key {
        return false;
    }
    match given(&toleration.operator) {
        "Exists" => true,
        // An empty key is valid only with the operator `Exists`.
        "" | "Equal" => !key.is_empty() && given(&toleration.value) == given(&taint.value),
        _ => false,
    }
}

/// Whether the node fulfils the pod's node selector and required node affinity.
pub(crate) fn matches_affinity(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let required = spec.node_selector.iter().flatten();
    let selected =
        |(key, value): (&String, &String)| labels.and_then(|labels| labels.get(key)) == Some(value);
    required.into_iter().all(selected)
        && required_terms(spec).is_none_or(|terms| node_selector_matches(terms, node))
}

fn required_terms(spec: &PodSpec) -> Option<&NodeSelector> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()
}
