//! What a node may read: of all that its role allows, what concerns itself and its pods.
//!
//! A role says which kinds nodes deal with; which objects of them is found out here, from the pods
//! that are bound to the node at the time of the request. Claims and volumes are left to the role:
//! a node makes volumes for claims that no pod of its own uses yet.

use object_model::Status;
use resource_kinds::annotations::MIRROR_POD;
use resource_kinds::pod_references::{self, Referenced};
use serde_json::Value;

use super::Asked;
use crate::identity::UserInfo;
use crate::server::ApiServer;
use crate::storage::reading;

const PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
const LEASES: &str = "kube-node-lease";

/// The node that a user speaks for.
pub(super) fn node_of(user: &UserInfo) -> Option<&str> {
    let is_node = user.groups.iter().any(|group| group == NODES);
    user.name
        .strip_prefix(PREFIX)
        .filter(|name| is_node && !name.is_empty())
}

/// Whether a node may do what its role allows; if not, why.
///
/// As upstream's node authoriser (<https://kubernetes.io/docs/reference/access-authn-authz/node/>).
pub(super) fn permits(server: &ApiServer, node: &str, asked: &Asked<'_>) -> Result<(), String> {
    if asked.path.is_some() {
        return Ok(());
    }
    let reads = matches!(asked.verb, "get" | "list" | "watch");
    let refuse = |why: &str| Err(why.to_owned());
    let related = |uses: &dyn Fn(&Value) -> bool| match has_pod(
        server,
        asked.namespace,
        node,
        asked.name,
        uses,
    ) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!(
            "no relationship found between node '{node}' and this object"
        )),
        Err(status) => Err(status.message),
    };
    // A node can make mirror pods, and must get nothing by them.
    let names = |pod: &Value, kind| {
        !is_mirror(pod) && pod_references::names(&pod["spec"], kind).contains(asked.name)
    };
    let has_account = |pod: &Value| !is_mirror(pod) && account_of(pod) == asked.name;
    match (asked.group, asked.resource, asked.subresource) {
        ("", "secrets" | "configmaps", part) => {
            if !reads {
                return refuse("can only read resources of this type");
            }
            if !part.is_empty() {
                return refuse("cannot read subresource");
            }
            if asked.namespace.is_empty() {
                return refuse("can only read namespaced object of this type");
            }
            if asked.name.is_empty() {
                return refuse("No Object name found");
            }
            match asked.resource {
                "secrets" => related(&|pod| names(pod, Referenced::Secrets)),
                _ => related(&|pod| names(pod, Referenced::ConfigMaps)),
            }
        }
        ("", "serviceaccounts", "token") => {
            if asked.verb != "create" || asked.name.is_empty() {
                return refuse("can only create tokens for individual service accounts");
            }
            related(&has_account)
        }
        ("", "serviceaccounts", "") if reads => {
            if asked.name.is_empty() || asked.namespace.is_empty() {
                return refuse("No Object name found");
            }
            related(&has_account)
        }
        ("", "serviceaccounts", _) => refuse("can only create token subresource of serviceaccount"),
        ("", "pods", part) => match (part, asked.verb) {
            ("", "get") => related(&|pod| pod["metadata"]["name"] == asked.name),
            ("", "list" | "watch") => {
                let fields = asked.fields;
                if fields.and_then(|fields| fields.exact("spec.nodeName")) == Some(node) {
                    return Ok(());
                }
                if !asked.name.is_empty() && !asked.namespace.is_empty() {
                    return related(&|pod| pod["metadata"]["name"] == asked.name);
                }
                refuse("can only list/watch pods with spec.nodeName field selector")
            }
            // Which ones is for the admission plug-in NodeRestriction to say.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Ok(())
            }
            _ => refuse(""),
        },
        ("", "nodes", part) => match (part, asked.verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if asked.name == node => Ok(()),
            // The first of the nodes that are ready makes the volumes that may be anywhere.
            ("", "list") => Ok(()),
            ("", "get" | "watch") => Err(match asked.name {
                "" => format!("node '{node}' cannot read all nodes, only its own Node object"),
                other => format!("node '{node}' cannot read '{other}', only its own Node object"),
            }),
            _ => refuse(""),
        },
        ("coordination.k8s.io", "leases", _) => {
            if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
                return refuse("can only get, create, update, patch, or delete a node lease");
            }
            if asked.namespace != LEASES {
                return Err(format!(
                    "can only access leases in the {LEASES:?} system namespace"
                ));
            }
            // The name of what is created is known to admission only.
            if asked.name == node || asked.verb == "create" {
                return Ok(());
            }
            refuse("can only access node lease with the same name as the requesting node")
        }
        ("storage.k8s.io", "csinodes", part) => {
            if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
                return refuse("can only get, create, update, patch, or delete a CSINode");
            }
            if !part.is_empty() {
                return refuse("cannot authorize CSINode subresources");
            }
            if asked.name == node || asked.verb == "create" {
                return Ok(());
            }
            refuse("can only access CSINode with the same name as the requesting node")
        }
        _ => Ok(()),
    }
}

fn account_of(pod: &Value) -> &str {
    let spec = &pod["spec"];
    spec["serviceAccountName"].as_str().unwrap_or_default()
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR_POD].is_null()
}

/// Whether some pod of the namespace is on the node, has `word` somewhere in it, and is as wanted.
///
/// *Errors.* 500 for pods that cannot be read.
fn has_pod(
    server: &ApiServer,
    namespace: &str,
    node: &str,
    word: &str,
    wanted: &dyn Fn(&Value) -> bool,
) -> Result<bool, Status> {
    reading(server, |reads| {
        let pods = reads.list_with("", "pods", namespace, &[node, word]);
        let mut here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node);
        Ok(here.any(wanted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_members_of_the_group_are_nodes() {
        let node = UserInfo::new("system:node:n1", ["system:nodes"]);
        assert_eq!(node_of(&node), Some("n1"));
        assert_eq!(node_of(&UserInfo::new("system:node:n1", ["x"])), None);
        assert_eq!(node_of(&UserInfo::new("n1", ["system:nodes"])), None);
    }
}
