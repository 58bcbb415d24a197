//! The conditions of a Node.

use k8s_openapi::api::core::v1::Node;

/// Whether the condition `Ready` of a node is `True`. A node that never reported a status is not ready.
pub fn is_ready(node: &Node) -> bool {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
