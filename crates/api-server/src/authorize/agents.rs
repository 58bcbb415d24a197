//! What a node may read: of all that its role allows, what concerns itself and its pods.
//!
//! A role says which kinds nodes deal with; which objects of them is found out here, from the pods
//! that are bound to the node at the time of the request. Claims and volumes are left to the role:
//! a node makes volumes for claims that no pod of its own uses yet.

use serde_json::Value;

use super::Asked;
use crate::identity::UserInfo;
use crate::server::ApiServer;
use crate::storage::SyncReads;

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
pub(super) fn permits(server: &ApiServer, node: &str, asked: &Asked<'_>) -> Result<(), String> {
    if asked.path.is_some() {
        return Ok(());
    }
    let reads = matches!(asked.verb, "get" | "list" | "watch");
    let unrelated = || format!("no relationship found between node {node:?} and this object");
    let related = |uses: &dyn Fn(&Value) -> bool| {
        let found = has_pod(server, asked.namespace, node, asked.name, uses);
        if found { Ok(()) } else { Err(unrelated()) }
    };
    match (asked.group, asked.resource, asked.subresource) {
        ("", "secrets" | "configmaps" | "serviceaccounts", "") if reads => {
            if asked.name.is_empty() || asked.namespace.is_empty() {
                return Err("can only read namespaced object of this type, by name".to_owned());
            }
            match asked.resource {
                "serviceaccounts" => related(&|pod| account_of(pod) == asked.name),
                kind => related(&|pod| refers(&pod["spec"], kind, asked.name)),
            }
        }
        ("", "serviceaccounts", "token") => related(&|pod| account_of(pod) == asked.name),
        ("", "pods", "") if matches!(asked.verb, "list" | "watch") => {
            let wanted = format!("spec.nodeName={node}");
            let mut terms = asked.fields.split(',');
            if terms.any(|term| term.replacen("==", "=", 1) == wanted) {
                return Ok(());
            }
            let selectors = "can only list/watch pods with spec.nodeName field selector";
            Err(selectors.to_owned())
        }
        ("", "pods", _) if asked.verb == "get" => {
            related(&|pod| pod["metadata"]["name"] == asked.name)
        }
        ("coordination.k8s.io", "leases", _) => {
            let own = asked.name == node || (asked.verb == "create" && asked.name.is_empty());
            if asked.namespace != LEASES {
                Err(format!(
                    "can only access leases in the {LEASES:?} system namespace"
                ))
            } else if own {
                Ok(())
            } else {
                Err("can only access node lease with the same name as the requesting node".into())
            }
        }
        _ => Ok(()),
    }
}

fn account_of(pod: &Value) -> &str {
    let spec = &pod["spec"];
    spec["serviceAccountName"].as_str().unwrap_or_default()
}

/// Whether some pod of the namespace is on the node, has `word` somewhere in it, and is as wanted.
fn has_pod(
    server: &ApiServer,
    namespace: &str,
    node: &str,
    word: &str,
    wanted: &dyn Fn(&Value) -> bool,
) -> bool {
    SyncReads(server)
        .list_with("", "pods", namespace, &[node, word])
        .iter()
        .any(|pod| pod["spec"]["nodeName"] == node && wanted(pod))
}

/// Whether a pod's spec names the Secret or ConfigMap, wherever it may.
fn refers(spec: &Value, kind: &str, name: &str) -> bool {
    match spec {
        Value::Array(list) => list.iter().any(|item| refers(item, kind, name)),
        Value::Object(map) => map.iter().any(|(key, value)| {
            let fields: &[&str] = match (kind, key.as_str()) {
                (
                    "secrets",
                    "secret"
                    | "secretKeyRef"
                    | "secretRef"
                    | "azureFile"
                    | "imagePullSecrets"
                    | "nodePublishSecretRef",
                ) => &["name", "secretName"],
                ("configmaps", "configMap" | "configMapKeyRef" | "configMapRef") => &["name"],
                _ => &[],
            };
            let named = |object: &Value| fields.iter().any(|field| object[*field] == name);
            named(value)
                || value.as_array().is_some_and(|list| list.iter().any(named))
                || refers(value, kind, name)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_names_is_found_wherever_it_is() {
        let spec = json!({
            "nodeSelector": {"secret": "label"},
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{
                "name": "plain",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "a"}}}],
                "envFrom": [{"configMapRef": {"name": "all"}}],
            }],
            "volumes": [
                {"name": "v", "secret": {"secretName": "files"}},
                {"name": "p", "projected": {"sources": [
                    {"configMap": {"name": "part"}}, {"secret": {"name": "part"}},
                ]}},
            ],
        });
        for name in ["pull", "env", "files", "part"] {
            assert!(refers(&spec, "secrets", name), "{name}");
        }
        for name in ["all", "part"] {
            assert!(refers(&spec, "configmaps", name), "{name}");
        }
        for name in ["label", "plain", "all", "v"] {
            assert!(!refers(&spec, "secrets", name), "{name}");
        }
        assert!(!refers(&spec, "configmaps", "files"));
    }

    #[test]
    fn only_members_of_the_group_are_nodes() {
        let node = UserInfo::new("system:node:n1", ["system:nodes"]);
        assert_eq!(node_of(&node), Some("n1"));
        assert_eq!(node_of(&UserInfo::new("system:node:n1", ["x"])), None);
        assert_eq!(node_of(&UserInfo::new("n1", ["system:nodes"])), None);
    }
}
