//! A node may write only its own objects: its Node, its Lease, its CSINode, the pods that are bound to it, and tokens
//! and certificates for itself and these pods.
//!
//! The rules are those of Kubernetes' admission plug-in NodeRestriction
//! (<https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>).

mod addresses;
mod labels;
mod pods;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;

use json_tree::Value;
use object_model::{NodeName, Status};

use super::plugin::{Admission, AdmissionRequest, Operation, forbidden, without};
use crate::admission::ObjectReader;
use crate::groups::certificates::{self, Request, signer};
use crate::groups::resource;
use crate::well_known::namespaces::NODE_LEASES;

/// The reason of a refusal.
pub(super) enum RestrictionRefusal {
    /// The node may not make this write.
    Forbidden(String),
    /// The named object does not exist.
    Missing(Status),
}

impl From<String> for RestrictionRefusal {
    fn from(why: String) -> Self {
        Self::Forbidden(why)
    }
}

impl From<&str> for RestrictionRefusal {
    fn from(why: &str) -> Self {
        Self::Forbidden(why.to_owned())
    }
}

type RestrictionResult = Result<(), RestrictionRefusal>;

fn refuse(why: impl Into<RestrictionRefusal>) -> RestrictionResult {
    Err(why.into())
}

/// Refuses with the reason unless the condition holds.
fn require(holds: bool, why: impl FnOnce() -> String) -> RestrictionResult {
    if holds { Ok(()) } else { refuse(why()) }
}

/// A write of a node.
#[derive(Clone, Copy)]
pub(super) struct Write<'a> {
    node: &'a str,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
    cluster: &'a dyn ObjectReader,
}

impl Write<'_> {
    fn old(&self) -> &Value {
        self.request.old.unwrap_or(&Value::Null)
    }

    fn name(&self) -> &str {
        match self.request.name {
            "" => self.object["metadata"]["name"].as_str().unwrap_or_default(),
            name => name,
        }
    }

    fn operation(&self) -> &'static str {
        match self.request.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

pub(super) struct NodeRestriction;

impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if !NodeName::is_claimed_by(request.user) {
            return Ok(());
        }
        let Some(node) = NodeName::of_user(request.user) else {
            let why = format!("could not determine node from user {:?}", request.user);
            return Err(forbidden(request, object, &why));
        };
        let write = Write {
            node: node.as_str(),
            request,
            object,
            cluster,
        };
        match check(&write) {
            Ok(()) => Ok(()),
            Err(RestrictionRefusal::Missing(status)) => Err(status),
            Err(RestrictionRefusal::Forbidden(why)) => Err(forbidden(request, object, &why)),
        }
    }
}

fn check(write: &Write<'_>) -> RestrictionResult {
    let AdmissionRequest {
        group,
        plural,
        subresource,
        ..
    } = *write.request;
    match (group, plural, subresource) {
        ("", "pods", part) => pods::check(write, part),
        ("", "nodes", _) => own_node(write),
        ("", "persistentvolumeclaims", part) => claim(write, part),
        ("", "serviceaccounts", "token") => tokens::check(write),
        ("coordination.k8s.io", "leases", _) => lease(write),
        ("storage.k8s.io", "csinodes", _) => require(write.name() == write.node, || {
            "can only access CSINode with the same name as the requesting node".to_owned()
        }),
        (resource::GROUP, "resourceslices", "") => resource_slice(write),
        (certificates::GROUP, "certificatesigningrequests", "") => certificate(write),
        _ => Ok(()),
    }
}

fn own_node(write: &Write<'_>) -> RestrictionResult {
    let Write { node, object, .. } = *write;
    let (name, old) = (write.name(), write.old());
    require(name == node, || {
        format!("node {node:?} is not allowed to modify node {name:?}")
    })?;
    let list = |node: &Value, pointer: &str| {
        let list = node.pointer(pointer).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let same = |pointer: &str| list(object, pointer) == list(old, pointer);
    // With a finalizer, a node could prevent the deletion of its Node object, and keep its tokens valid.
    let finalizers = write.request.operation == Operation::Delete || same("/metadata/finalizers");
    require(finalizers, || {
        format!("node {node:?} is not allowed to modify finalizers")
    })?;
    if write.request.operation != Operation::Delete {
        addresses::check(write)?;
    }
    match write.request.operation {
        Operation::Create => {
            let labels = labels::forbidden(node, object, &Value::Null);
            require(labels.is_empty(), || {
                let labels = labels.join(", ");
                format!("node {node:?} is not allowed to set the following labels: {labels}")
            })
        }
        Operation::Update => {
            require(same("/spec/taints"), || {
                format!("node {node:?} is not allowed to modify taints")
            })?;
            // With an owner reference, a node could cause the garbage collector to delete its Node object.
            require(same("/metadata/ownerReferences"), || {
                format!("node {node:?} is not allowed to modify ownerReferences")
            })?;
            let labels = labels::forbidden(node, object, old);
            require(labels.is_empty(), || {
                format!("is not allowed to modify labels: {}", labels.join(", "))
            })
        }
        Operation::Delete => Ok(()),
    }
}

/// The fields of a claim that a node may write: the progress of an expansion.
const OF_CLAIMS: [&[&str]; 6] = [
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
    &["status", "allocatedResourceStatuses"],
    &["status", "allocatedResources"],
    &["status", "capacity"],
    &["status", "conditions"],
];

fn claim(write: &Write<'_>, part: &str) -> RestrictionResult {
    require(part == "status", || "may only update PVC status".to_owned())?;
    if write.request.operation != Operation::Update {
        let operation = write.operation();
        return refuse(format!("unexpected operation {operation:?}"));
    }
    let rest = |claim: &Value| without(claim, &OF_CLAIMS);
    require(rest(write.object) == rest(write.old()), || {
        format!(
            "node {:?} is not allowed to update fields other than status.capacity and \
             status.conditions",
            write.node
        )
    })
}

fn lease(write: &Write<'_>) -> RestrictionResult {
    require(write.request.namespace == NODE_LEASES, || {
        format!("can only access leases in the {NODE_LEASES:?} system namespace")
    })?;
    require(write.name() == write.node, || {
        "can only access node lease with the same name as the requesting node".to_owned()
    })
}

/// A node may offer only its own devices. The authoriser checks that the node changes only its own slices.
fn resource_slice(write: &Write<'_>) -> RestrictionResult {
    let (slice, verb) = match write.request.operation {
        Operation::Create => (write.object, "create"),
        Operation::Delete => (write.old(), "delete"),
        Operation::Update => return Ok(()),
    };
    require(slice["spec"]["nodeName"] == write.node, || {
        format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")
    })
}

/// A node may request a certificate for itself only.
fn certificate(write: &Write<'_>) -> RestrictionResult {
    let spec = &write.object["spec"];
    let of_nodes =
        spec["signerName"] == signer::NODE_CLIENT || spec["signerName"] == signer::NODE_SERVING;
    if write.request.operation != Operation::Create || !of_nodes {
        return Ok(());
    }
    let request = Request::from_field(&spec["request"]);
    let request = request
        .map_err(|error| RestrictionRefusal::from(format!("unable to parse csr: {error}")))?;
    let user = write.request.user;
    require(request.common_name == user, || {
        format!("can only create a node CSR with CN={user}")
    })
}

/// An object that must exist; the refusal is 404 if it does not.
fn stored_object(
    write: &Write<'_>,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Result<Arc<Value>, RestrictionRefusal> {
    let object = write.cluster.get("", plural, namespace, name);
    object.ok_or_else(|| RestrictionRefusal::Missing(Status::not_found("", plural, name)))
}
