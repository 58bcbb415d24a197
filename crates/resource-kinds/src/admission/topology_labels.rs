//! The zone and the region of a pod's node, as labels of the pod.

use json_tree::{Value, json};
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, creates};
use super::reader::ObjectReader;
use crate::json::parts;
use crate::well_known::labels;

/// The labels that are copied from a node to its pods.
const COPIED: [&str; 2] = [labels::ZONE, labels::REGION];

/// Copies the topology labels of a node to a pod that is bound to the node; replaces existing labels.
pub fn copy_topology_labels(pod: &mut Value, node: &Value) {
    for label in COPIED {
        let Some(value) = node["metadata"]["labels"][label].as_str() else {
            continue;
        };
        if let Some(metadata) = parts::entry(pod, "metadata") {
            if !metadata["labels"].is_object() {
                parts::set(metadata, "labels", json!({}));
            }
            if let Some(existing) = parts::entry(metadata, "labels") {
                cov_mark::hit!(findings_2_c41);
                parts::set(existing, label, value);
                if let Value::Object(existing) = existing {
                    existing.sort_keys();
                }
            }
        }
    }
}

/// Adds the labels to pods that are created with a node. Other pods get the labels when they are bound.
pub(super) struct PodTopologyLabels;

impl Admission for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
        if creates(request, "pods")
            && !node.is_empty()
            && let Some(node) = cluster.get("", "nodes", "", node)
        {
            copy_topology_labels(object, &node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::plugin::Operation;
    use super::super::testing::{Objects, request};
    use super::*;

    /// findings-2 C41
    #[test]
    fn a_pod_made_on_a_node_has_the_labels_of_its_place() {
        cov_mark::check!(findings_2_c41);
        let node = json!({"metadata": {"name": "n", "labels": {labels::ZONE: "z", labels::HOSTNAME: "h"}}});
        let cluster = Objects::default().with("nodes", node);
        let admit = |mut pod: Value| {
            let request = request(Operation::Create, "pods");
            PodTopologyLabels
                .admit(&request, &mut pod, &cluster)
                .unwrap();
            pod["metadata"]["labels"].clone()
        };
        let pod = |node: &str| json!({"metadata": {"labels": {"a": "b", labels::ZONE: "mine"}}, "spec": {"nodeName": node}});
        assert_eq!(admit(pod("n")), json!({"a": "b", labels::ZONE: "z"}));
        let existing = json!({"a": "b", labels::ZONE: "mine"});
        assert_eq!(admit(pod("")), existing);
        assert_eq!(admit(pod("gone")), existing);
        let bare = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}});
        assert_eq!(admit(bare), json!({labels::ZONE: "z"}));
    }
}
