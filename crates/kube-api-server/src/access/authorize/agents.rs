//! The node authoriser: restricts the rights of the role `system:node` to the node itself and its pods.
//!
//! The table is that of Kubernetes' node authoriser
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>). The table is exhaustive: a node has no access
//! to a kind outside of the table, even if a role grants access.

use json_tree::Value;
use object_model::{NodeName, Status};
use resource_kinds::NodeAccount;
use resource_kinds::ObjectReader;
use resource_kinds::annotations::MIRROR_POD;
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::pod_references::{self, ReferencedKind};
use resource_kinds::resource;
use thiserror::Error;

use super::AuthorizationAttributes;
use crate::http::user::UserInfo;
use crate::objects::storage::Objects;
use crate::objects::storage::reading;

/// The node name in a user name `system:node:<name>`; `None` for a user that is not a node.
pub(crate) fn node_of(user: &UserInfo) -> Option<&str> {
    NodeName::of_identity(&user.name, &user.groups).map(NodeName::as_str)
}

/// The further condition for a request that is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// The named object must belong to the node, or a pod of the node must need the object.
    Relation(Object),
}

/// An object that may belong to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Object {
    Secret,
    ConfigMap,
    Account,
    Claim,
    Volume,
    Attachment,
    Pod,
    ResourceClaim,
    ResourceSlice,
}

/// Whether a node opens its tunnel. The path contains no node name: the tunnel belongs to the node that the user name
/// states.
pub(super) fn opens_tunnel(attributes: &AuthorizationAttributes<'_>) -> bool {
    attributes.path == Some(node_tunnel::PATH) && attributes.verb == "get"
}

/// The reason why the node authoriser refuses a request.
#[derive(Debug, Error)]
pub(crate) enum NodeRefusal {
    /// The request is not in the table.
    #[error("{0}")]
    NotInTable(&'static str),
    /// The request is not in the table; as upstream, without a reason.
    #[error("")]
    Unexplained,
    #[error("node '{node}' cannot read all nodes, only its own Node object")]
    AllNodes { node: String },
    #[error("node '{node}' cannot read '{other}', only its own Node object")]
    OtherNode { node: String, other: String },
    #[error("can only access leases in the {NODE_LEASES:?} system namespace")]
    LeaseNamespace,
    #[error("No Object name found")]
    NoName,
    #[error("no relationship found between node '{node}' and this object")]
    Unrelated { node: String },
    /// The related objects cannot be read.
    #[error("{}", .0.message)]
    Unreadable(Status),
}

/// Checks a request that the role `system:node` allows. *Errors:* the reason of the refusal.
pub(super) fn permits(
    objects: &Objects,
    node: &str,
    attributes: &AuthorizationAttributes<'_>,
) -> Result<(), NodeRefusal> {
    if attributes.path.is_some() {
        return Ok(());
    }
    let Needs::Relation(object) = table(node, attributes)? else {
        return Ok(());
    };
    let is_cluster_scoped = matches!(
        object,
        Object::Volume | Object::Attachment | Object::ResourceSlice
    );
    if attributes.name.is_empty() || is_cluster_scoped != attributes.namespace.is_empty() {
        return Err(NodeRefusal::NoName);
    }
    match is_related(objects, node, attributes, object) {
        Ok(true) => Ok(()),
        Ok(false) => Err(NodeRefusal::Unrelated {
            node: node.to_owned(),
        }),
        Err(status) => Err(NodeRefusal::Unreadable(status)),
    }
}

/// The table of the requests that nodes may make.
///
/// *Errors.* The reason why the request is not in the table.
fn table(node: &str, attributes: &AuthorizationAttributes<'_>) -> Result<Needs, NodeRefusal> {
    match (attributes.group, attributes.resource) {
        ("", "secrets") => get_or_watch(attributes, Object::Secret),
        ("", "configmaps") => get_or_watch(attributes, Object::ConfigMap),
        ("", "persistentvolumeclaims") => claim(attributes),
        ("", "persistentvolumes") => get(attributes, Object::Volume),
        ("storage.k8s.io", "volumeattachments") => get(attributes, Object::Attachment),
        ("", "serviceaccounts") => service_account(attributes),
        ("", "pods") => pod(node, attributes),
        ("", "nodes") => node_object(node, attributes),
        ("coordination.k8s.io", "leases") => lease(node, attributes),
        ("storage.k8s.io", "csinodes") => csi_node(node, attributes),
        (resource::GROUP, "resourceclaims") => get(attributes, Object::ResourceClaim),
        (resource::GROUP, "resourceslices") => resource_slice(node, attributes),
        // All nodes have equal rights to these groups; the role `system:node` grants the rights.
        ("authentication.k8s.io" | "authorization.k8s.io", _)
        | ("", "services" | "endpoints" | "events")
        | ("certificates.k8s.io", "certificatesigningrequests")
        | ("storage.k8s.io", "csidrivers")
        | ("node.k8s.io", "runtimeclasses") => Ok(Needs::Nothing),
        _ => refuse("nodes have nothing to do with resources of this type"),
    }
}

fn refuse(reason: &'static str) -> Result<Needs, NodeRefusal> {
    Err(NodeRefusal::NotInTable(reason))
}

fn claim(attributes: &AuthorizationAttributes<'_>) -> Result<Needs, NodeRefusal> {
    match (attributes.subresource, attributes.verb) {
        ("status", "update" | "patch") => Ok(Needs::Relation(Object::Claim)),
        ("status", _) => refuse("can only update or patch the status of this type"),
        _ => get(attributes, Object::Claim),
    }
}

fn service_account(attributes: &AuthorizationAttributes<'_>) -> Result<Needs, NodeRefusal> {
    let (namespace, name) = (attributes.namespace, attributes.name);
    match (attributes.subresource, attributes.verb) {
        ("", "get") => Ok(Needs::Relation(Object::Account)),
        // The admission plug-in NodeRestriction checks the object that the token is bound to.
        ("token", "create") if NodeAccount::find(namespace, name).is_some() => Ok(Needs::Nothing),
        ("token", "create") if !name.is_empty() => Ok(Needs::Relation(Object::Account)),
        (_, "create") => refuse("can only create tokens for individual service accounts"),
        _ => refuse("can only get service accounts and create tokens for them"),
    }
}

fn pod(node: &str, attributes: &AuthorizationAttributes<'_>) -> Result<Needs, NodeRefusal> {
    match (attributes.subresource, attributes.verb) {
        ("", "get") => Ok(Needs::Relation(Object::Pod)),
        ("", "list" | "watch") if selects_node(node, attributes) => Ok(Needs::Nothing),
        ("", "list" | "watch") if attributes.name.is_empty() => {
            refuse("can only list/watch pods with spec.nodeName field selector")
        }
        ("", "list" | "watch") => Ok(Needs::Relation(Object::Pod)),
        // The admission plug-in NodeRestriction checks the pods.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
            Ok(Needs::Nothing)
        }
        _ => Err(NodeRefusal::Unexplained),
    }
}

fn node_object(node: &str, attributes: &AuthorizationAttributes<'_>) -> Result<Needs, NodeRefusal> {
    match (attributes.subresource, attributes.verb) {
        ("", "create" | "update" | "patch") => Ok(Needs::Nothing),
        ("", "get" | "list" | "watch") => match attributes.name {
            name if name == node => Ok(Needs::Nothing),
            "" => Err(NodeRefusal::AllNodes {
                node: node.to_owned(),
            }),
            other => Err(NodeRefusal::OtherNode {
                node: node.to_owned(),
                other: other.to_owned(),
            }),
        },
        ("status", "update" | "patch") => Ok(Needs::Nothing),
        _ => Err(NodeRefusal::Unexplained),
    }
}

fn lease(node: &str, attributes: &AuthorizationAttributes<'_>) -> Result<Needs, NodeRefusal> {
    if !is_single_object_verb(attributes.verb) {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != NODE_LEASES {
        return Err(NodeRefusal::LeaseNamespace);
    }
    // The authoriser does not know the name of a new object. Admission checks the name.
    if attributes.name == node || attributes.verb == "create" {
        return Ok(Needs::Nothing);
    }
    refuse("can only access node lease with the same name as the requesting node")
}

fn csi_node(node: &str, attributes: &AuthorizationAttributes<'_>) -> Result<Needs, NodeRefusal> {
    if !is_single_object_verb(attributes.verb) {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !attributes.subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if attributes.name == node || attributes.verb == "create" {
        return Ok(Needs::Nothing);
    }
    refuse("can only access CSINode with the same name as the requesting node")
}

fn resource_slice(
    node: &str,
    attributes: &AuthorizationAttributes<'_>,
) -> Result<Needs, NodeRefusal> {
    match attributes.verb {
        _ if !attributes.subresource.is_empty() => {
            refuse("cannot authorize ResourceSlice subresources")
        }
        // The authoriser does not know the contents of a new object. Admission checks the contents.
        "create" => Ok(Needs::Nothing),
        "get" | "update" | "patch" | "delete" => Ok(Needs::Relation(Object::ResourceSlice)),
        "watch" | "list" | "deletecollection" => match selects_node(node, attributes) {
            true => Ok(Needs::Nothing),
            false => refuse(
                "can only list/watch/deletecollection resourceslices with nodeName field \
                 selector",
            ),
        },
        _ => refuse(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, \
             create, update, patch, delete, deletecollection",
        ),
    }
}

/// Whether the field selector of the request selects the objects of the node.
fn selects_node(node: &str, attributes: &AuthorizationAttributes<'_>) -> bool {
    let fields = attributes.fields;
    fields.and_then(|fields| fields.exact("spec.nodeName")) == Some(node)
}

/// The verbs that a node may use for its Lease and its CSINode.
fn is_single_object_verb(verb: &str) -> bool {
    matches!(verb, "get" | "create" | "update" | "patch" | "delete")
}

/// The node may only get single objects of the type.
fn get(attributes: &AuthorizationAttributes<'_>, object: Object) -> Result<Needs, NodeRefusal> {
    match (attributes.verb, attributes.subresource) {
        ("get", "") => Ok(Needs::Relation(object)),
        ("get", _) => refuse("cannot get subresource"),
        _ => refuse("can only get individual resources of this type"),
    }
}

/// The node may get single objects of the type, and watch them by name.
fn get_or_watch(
    attributes: &AuthorizationAttributes<'_>,
    object: Object,
) -> Result<Needs, NodeRefusal> {
    if !matches!(attributes.verb, "get" | "list" | "watch") {
        return refuse("can only read resources of this type");
    }
    if !attributes.subresource.is_empty() {
        return refuse("cannot read subresource");
    }
    if attributes.namespace.is_empty() {
        return refuse("can only read namespaced object of this type");
    }
    Ok(Needs::Relation(object))
}

/// Whether the requested object belongs to the node, or one of the node's pods needs the object.
///
/// *Errors.* 500 for objects that cannot be read.
fn is_related(
    objects: &Objects,
    node: &str,
    attributes: &AuthorizationAttributes<'_>,
    object: Object,
) -> Result<bool, Status> {
    let (namespace, name) = (attributes.namespace, attributes.name);
    reading(objects, |reads| {
        let has_pod = |namespace: &str, words: &[&str], is_match: &dyn Fn(&Value) -> bool| {
            let pods = reads.list_with("", "pods", namespace, words);
            let mut here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node);
            here.any(is_match)
        };
        let refers = |kind| {
            let names = |pod: &Value| pod_references::names(&pod["spec"], kind).contains(name);
            // A node can create mirror pods. A mirror pod must not give the node access to further objects.
            has_pod(namespace, &[node, name], &|pod| {
                !is_mirror(pod) && names(pod)
            })
        };
        // The pod does not contain the name of the claim of a generic ephemeral volume, so the name is computed.
        let claims = |namespace: &str, name: &str| {
            has_pod(namespace, &[node], &|pod| {
                !is_mirror(pod) && pod_references::claims(pod).any(|claim| claim == name)
            })
        };
        let claims_of = |volume: &Value| {
            let claim = &volume["spec"]["claimRef"];
            let text = |field: &str| claim[field].as_str().unwrap_or_default();
            claims(text("namespace"), text("name"))
        };
        // Credentials that the node gives to the driver of a volume.
        let of_volume = || {
            let volumes = reads.list_with("", "persistentvolumes", "", &[name]);
            let mut named = volumes
                .iter()
                .filter(|volume| refers_to_secret(&volume["spec"], namespace, name));
            named.any(claims_of)
        };
        Ok(match object {
            Object::Secret => refers(ReferencedKind::Secrets) || of_volume(),
            Object::ConfigMap => refers(ReferencedKind::ConfigMaps),
            Object::Account => has_pod(namespace, &[node, name], &|pod| {
                !is_mirror(pod) && pod["spec"]["serviceAccountName"] == name
            }),
            Object::Pod => has_pod(namespace, &[node, name], &|pod| {
                pod["metadata"]["name"] == name
            }),
            Object::Claim => claims(namespace, name),
            Object::Volume => {
                let volume = reads.get("", "persistentvolumes", "", name);
                volume.is_some_and(|volume| claims_of(&volume))
            }
            Object::ResourceClaim => has_pod(namespace, &[node, name], &|pod| {
                !is_mirror(pod) && pod_references::resource_claims(pod).contains(name)
            }),
            Object::ResourceSlice => {
                let existing = reads.get(resource::GROUP, "resourceslices", "", name);
                existing.is_some_and(|slice| slice["spec"]["nodeName"] == node)
            }
            Object::Attachment => {
                let existing = reads.get("storage.k8s.io", "volumeattachments", "", name);
                existing.is_some_and(|attachment| attachment["spec"]["nodeName"] == node)
            }
        })
    })
}

/// Whether a volume refers to the Secret for use on the node: a Secret for the node calls of a CSI driver, or the
/// Secret with the key of the Ceph user.
fn refers_to_secret(spec: &Value, namespace: &str, name: &str) -> bool {
    let of_driver = [
        "nodeStageSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ];
    let of_driver = of_driver.map(|field| &spec["csi"][field]);
    let of_claim = &spec["claimRef"]["namespace"];
    let is_it = |reference: &Value, default: &Value| {
        let named = match reference["namespace"].as_str() {
            None | Some("") => default,
            Some(_) => &reference["namespace"],
        };
        *named == namespace && reference["name"] == name
    };
    let mut of_driver = of_driver.iter();
    of_driver.any(|reference| is_it(reference, &Value::Null))
        || is_it(&spec["rbd"]["secretRef"], of_claim)
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR_POD].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_for_the_controller_of_a_volume_are_not_for_nodes() {
        let spec = json_tree::json!({"claimRef": {"namespace": "n"}, "csi": {
            "nodeStageSecretRef": {"namespace": "n", "name": "stage"},
            "nodeExpandSecretRef": {"namespace": "n", "name": "grow"},
            "controllerExpandSecretRef": {"namespace": "n", "name": "expand"}}});
        assert!(refers_to_secret(&spec, "n", "stage") && refers_to_secret(&spec, "n", "grow"));
        assert!(!refers_to_secret(&spec, "m", "stage") && !refers_to_secret(&spec, "n", "expand"));
    }

    #[test]
    fn the_key_of_an_image_is_in_the_claims_namespace_or_in_a_named_one() {
        let spec = |secret: Value| {
            let claim = json_tree::json!({"namespace": "shop"});
            json_tree::json!({"claimRef": claim, "rbd": {"secretRef": secret}})
        };
        let near = spec(json_tree::json!({"name": "ceph"}));
        let far = spec(json_tree::json!({"name": "ceph", "namespace": "storage"}));
        assert!(
            refers_to_secret(&near, "shop", "ceph") && !refers_to_secret(&near, "storage", "ceph")
        );
        assert!(
            refers_to_secret(&far, "storage", "ceph") && !refers_to_secret(&far, "shop", "ceph")
        );
        assert!(!refers_to_secret(&spec(Value::Null), "shop", "ceph"));
    }

    #[test]
    fn only_members_of_the_group_are_nodes() {
        let node = UserInfo::new("system:node:n1", ["system:nodes"]);
        assert_eq!(node_of(&node), Some("n1"));
        assert_eq!(node_of(&UserInfo::new("system:node:n1", ["x"])), None);
        assert_eq!(node_of(&UserInfo::new("n1", ["system:nodes"])), None);
    }
}
