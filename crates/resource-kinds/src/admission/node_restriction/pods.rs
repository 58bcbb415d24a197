//! Pods on which a node reports, and which a node deletes and evicts.
//!
//! A node may not create pods. In Kubernetes a node creates mirrors of its static pods, in any namespace and with any
//! labels, so a compromised node can become an endpoint of every Service. The nodes of this program have no static
//! pods.

use json_tree::Value;

use super::{RestrictionResult, Write, refuse, require, stored_object};
use crate::admission::Operation;

pub(super) fn check(write: &Write<'_>, part: &str) -> RestrictionResult {
    let node = write.node;
    match (part, write.request.operation) {
        ("", Operation::Create) => {
            cov_mark::hit!(findings_2_s47);
            refuse(format!(
                "node {node:?} is not allowed to create pods: nodes have no static pods"
            ))
        }
        ("", Operation::Delete) => require(is_on(write.old(), node), || {
            format!("node {node:?} can only delete pods with spec.nodeName set to itself")
        }),
        ("", Operation::Update) => refuse(format!(
            "unexpected operation {:?}, node {node:?} can only delete pods",
            write.operation()
        )),
        ("status", Operation::Update) => status(write),
        ("status", _) => refuse(format!("unexpected operation {:?}", write.operation())),
        ("eviction", _) => eviction(write),
        (other, _) => refuse(format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        )),
    }
}

pub(super) fn is_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}

/// The sources of the pod's projected volumes.
pub(super) fn sources(spec: &Value) -> impl Iterator<Item = &Value> {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    volumes.flat_map(|volume| {
        let sources = volume["projected"]["sources"].as_array();
        sources.into_iter().flatten()
    })
}

fn status(write: &Write<'_>) -> RestrictionResult {
    let Write { node, object, .. } = *write;
    let old = write.old();
    require(is_on(old, node), || {
        format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )
    })?;
    let labels = |pod: &Value| pod["metadata"]["labels"].as_object().cloned();
    require(
        labels(old).unwrap_or_default() == labels(object).unwrap_or_default(),
        || format!("node {node:?} cannot update labels through pod status"),
    )?;
    let same = |field: &str| old["status"][field] == object["status"][field];
    require(same("resourceClaimStatuses"), || {
        format!("node {node:?} cannot update resource claim statues")
    })?;
    require(same("extendedResourceClaimStatus"), || {
        format!("node {node:?} cannot update extended resource claim status")
    })
}

fn eviction(write: &Write<'_>) -> RestrictionResult {
    let stored;
    let pod = match write.request.old {
        Some(pod) => pod,
        None => {
            stored = stored_object(write, "pods", write.request.namespace, write.request.name)?;
            &stored
        }
    };
    require(is_on(pod, write.node), || {
        format!(
            "node {} can only evict pods with spec.nodeName set to itself",
            write.node
        )
    })
}
