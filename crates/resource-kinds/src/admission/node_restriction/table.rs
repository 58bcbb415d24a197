//! Test of every write of a node against a simple model: operation, kind, and owner of the object.
//!
//! In this test only the owner of the object can be wrong; `tests.rs` tests other refusals.

use json_tree::{Value, json};

use super::super::testing::{Objects, request};
use super::{Admission, AdmissionRequest, NodeRestriction, Operation};

const OPERATIONS: [Operation; 3] = [Operation::Create, Operation::Update, Operation::Delete];

/// The rights of a node.
#[derive(Clone, Copy)]
enum May {
    /// These operations are allowed on the node's own objects.
    OnOwned(&'static [Operation]),
    /// The plug-in allows the kind; the roles of the node decide.
    Unknown,
}

use Operation::{Create, Delete, Update};

/// Group, resource, subresource, namespace.
const TABLE: &[(&str, &str, &str, &str, May)] = &[
    ("", "pods", "", "d", May::OnOwned(&[Delete])),
    ("", "pods", "status", "d", May::OnOwned(&[Update])),
    // For plug-ins, an eviction is a deletion.
    ("", "pods", "eviction", "d", May::OnOwned(&OPERATIONS)),
    ("", "pods", "binding", "d", May::OnOwned(&[])),
    ("", "pods", "ephemeralcontainers", "d", May::OnOwned(&[])),
    ("", "pods", "resize", "d", May::OnOwned(&[])),
    ("", "nodes", "", "", May::OnOwned(&OPERATIONS)),
    ("", "nodes", "status", "", May::OnOwned(&OPERATIONS)),
    ("", "persistentvolumeclaims", "", "d", May::OnOwned(&[])),
    (
        "",
        "persistentvolumeclaims",
        "status",
        "d",
        May::OnOwned(&[Update]),
    ),
    (
        "coordination.k8s.io",
        "leases",
        "",
        "kube-node-lease",
        May::OnOwned(&OPERATIONS),
    ),
    ("coordination.k8s.io", "leases", "", "d", May::OnOwned(&[])),
    (
        "storage.k8s.io",
        "csinodes",
        "",
        "",
        May::OnOwned(&OPERATIONS),
    ),
    // The authoriser decides which objects a node may change.
    (
        "resource.k8s.io",
        "resourceslices",
        "",
        "",
        May::OnOwned(&OPERATIONS),
    ),
    ("", "configmaps", "", "d", May::Unknown),
    ("apps", "statefulsets", "", "d", May::Unknown),
];

/// An object of the node, with the fields that the plug-in checks.
fn object(resource: &str, name: &str, node: &str) -> Value {
    let mut object = json!({"metadata": {"name": name, "namespace": "d"}});
    if resource == "resourceslices" {
        object["spec"] = json!({"nodeName": node});
    }
    if resource == "pods" {
        object["spec"] = json!({"nodeName": node});
    }
    object
}

fn is_admitted(
    group: &'static str,
    resource: &'static str,
    part: &'static str,
    namespace: &'static str,
    operation: Operation,
    node: &'static str,
) -> bool {
    let of_nodes = matches!(resource, "nodes" | "leases" | "csinodes");
    let name = if of_nodes { node } else { "x" };
    let mut object = object(resource, name, node);
    let old = object.clone();
    let objects = ["n1", "n2"]
        .into_iter()
        .fold(Objects::default(), |objects, node| {
            let own_node = json!({"metadata": {"name": node, "uid": node}});
            objects.with("nodes", own_node)
        })
        .with("pods", old.clone());
    let write = AdmissionRequest {
        group,
        subresource: part,
        namespace,
        name,
        user: "system:node:n1",
        old: (operation != Create).then_some(&old),
        ..request(operation, resource)
    };
    NodeRestriction.admit(&write, &mut object, &objects).is_ok()
}

/// findings S10
#[test]
fn a_node_writes_what_the_table_says() {
    let mut wrong = Vec::new();
    for &(group, resource, part, namespace, may) in TABLE {
        for operation in OPERATIONS {
            for node in ["n1", "n2"] {
                // A claim has no node; the authoriser decides which claims a node may write.
                let by_authoriser = resource == "persistentvolumeclaims"
                    || (resource == "resourceslices" && operation == Update);
                let is_owner = node == "n1" || by_authoriser;
                let expected = match may {
                    May::OnOwned(operations) => is_owner && operations.contains(&operation),
                    May::Unknown => true,
                };
                let admitted = is_admitted(group, resource, part, namespace, operation, node);
                if admitted != expected {
                    wrong.push(format!("{operation:?} {resource}/{part} of {node}"));
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}
