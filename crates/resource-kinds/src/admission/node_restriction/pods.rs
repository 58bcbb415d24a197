//! Pods that a node makes, reports on and evicts.

use serde_json::Value;

use super::{RestrictionResult, Write, found, refuse, require};
use crate::admission::Operation;
use crate::groups::core::pod_references::{ReferencedKind, names};
use crate::well_known::annotations::MIRROR_POD;

pub(super) fn check(write: &Write<'_>, part: &str) -> RestrictionResult {
    let node = write.node;
    match (part, write.request.operation) {
        ("", Operation::Create) => mirror(write),
        ("", Operation::Delete) => require(is_on(write.old(), node), || {
            format!("node {node:?} can only delete pods with spec.nodeName set to itself")
        }),
        ("", Operation::Update) => refuse(format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
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

/// A node may create the mirror of a static pod, which must not refer to API objects.
fn mirror(write: &Write<'_>) -> RestrictionResult {
    let Write { node, object, .. } = *write;
    let spec = &object["spec"];
    require(
        object["metadata"]["annotations"][MIRROR_POD].is_string(),
        || {
            format!(
                "pod does not have {MIRROR_POD:?} annotation, node {node:?} can only create mirror pods"
            )
        },
    )?;
    require(is_on(object, node), || {
        format!("node {node:?} can only create pods with spec.nodeName set to itself")
    })?;
    owner(write)?;
    let names_nothing = |field: &str| match &spec[field] {
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        other => other.is_null(),
    };
    let lacks = |holds: bool, what: &str| {
        require(holds, || {
            format!("node {node:?} can not create pods that reference {what}")
        })
    };
    lacks(
        names_nothing("serviceAccountName") && names_nothing("serviceAccount"),
        "a service account",
    )?;
    lacks(names(spec, ReferencedKind::Secrets).is_empty(), "secrets")?;
    lacks(
        names(spec, ReferencedKind::ConfigMaps).is_empty(),
        "configmaps",
    )?;
    for source in sources(spec) {
        lacks(
            source["clusterTrustBundle"].is_null(),
            "clustertrustbundles",
        )?;
        lacks(
            source["serviceAccountToken"].is_null(),
            "service account tokens",
        )?;
        lacks(source["podCertificate"].is_null(), "pod certificates")?;
    }
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let claims = |volume: &Value| {
        !volume["persistentVolumeClaim"].is_null() || !volume["ephemeral"].is_null()
    };
    lacks(!volumes().any(claims), "persistentvolumeclaims")?;
    lacks(names_nothing("resourceClaims"), "resourceclaims")
}

/// The parts of projected volumes.
pub(super) fn sources(spec: &Value) -> impl Iterator<Item = &Value> {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    volumes.flat_map(|volume| {
        let sources = volume["projected"]["sources"].as_array();
        sources.into_iter().flatten()
    })
}

/// A mirror pod has its node as owner.
fn owner(write: &Write<'_>) -> RestrictionResult {
    let Write { node, object, .. } = *write;
    let owners = object["metadata"]["ownerReferences"].as_array();
    let owner = match owners.map_or(&[][..], Vec::as_slice) {
        [owner] => owner,
        [] => {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        _ => {
            return refuse(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    let is_node = owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
    require(is_node, || {
        format!("node {node:?} can only create pods with an owner reference set to itself")
    })?;
    require(owner["controller"] == true, || {
        format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        )
    })?;
    require(owner["blockOwnerDeletion"] != true, || {
        format!("node {node:?} must not set blockOwnerDeletion on an owner reference")
    })?;
    let stored = found(write, "nodes", "", node)?;
    let text = |uid: &Value| uid.as_str().unwrap_or_default().to_owned();
    let (given, known) = (text(&owner["uid"]), text(&stored["metadata"]["uid"]));
    require(given == known, || {
        format!("node {node} UID mismatch: expected {given} got {known}")
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
            stored = found(write, "pods", write.request.namespace, write.request.name)?;
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
