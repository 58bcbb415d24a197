//! The states of a Node, from its conditions and taints.

use k8s_openapi::api::core::v1::{Node, NodeCondition};

use crate::well_known::reasons::taint;

/// Whether the condition `Ready` of a node is `True`. A node without a reported status is not ready.
pub fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|condition| condition.status == "True")
}

/// Whether the node has sent no heartbeat during the grace period.
pub fn is_lost(node: &Node) -> bool {
    ready(node).is_some_and(|condition| condition.status == "Unknown")
}

pub fn ready(node: &Node) -> Option<&NodeCondition> {
    let status = node.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "Ready")
}

/// Whether a user has set the taint that declares that nothing runs on the node
/// (<https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/>).
pub fn is_out_of_service(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let mut taints = spec
        .into_iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|one| one.key == taint::OUT_OF_SERVICE)
}
