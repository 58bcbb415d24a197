//! A node writes its own objects only: its Node, its lease, the pods that are bound to it.

use object_model::Status;
use serde_json::Value;

use super::{Admission, AdmissionRequest, Operation, forbidden};
use crate::kind::Lookup;

const USER_PREFIX: &str = "system:node:";
const LEASES: &str = "kube-node-lease";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels that say where a node is allowed to be used; not for itself to set.
const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io/";

pub(super) struct NodeRestriction;

impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn Lookup,
    ) -> Result<(), Status> {
        let Some(node) = request.user.strip_prefix(USER_PREFIX) else {
            return Ok(());
        };
        let refused = match (request.group, request.plural, request.subresource) {
            ("", "pods", "eviction") => evict(node, request, cluster),
            ("", "pods", _) => pod(node, request, object),
            ("", "nodes", _) => own_node(node, request, object),
            ("", "serviceaccounts", "token") => token(node, request, object, cluster),
            ("coordination.k8s.io", "leases", _) => lease(node, request, object),
            _ => None,
        };
        match refused {
            None => Ok(()),
            Some(why) => Err(forbidden(request, object, &why)),
        }
    }
}

fn name_of<'o>(request: &AdmissionRequest<'o>, object: &'o Value) -> &'o str {
    if request.name.is_empty() {
        object["metadata"]["name"].as_str().unwrap_or_default()
    } else {
        request.name
    }
}

fn is_on(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}

fn pod(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Option<String> {
    let old = request.old.unwrap_or(&Value::Null);
    match request.operation {
        Operation::Create if object["metadata"]["annotations"][MIRROR].is_null() => Some(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        )),
        Operation::Create if !is_on(object, node) => Some(format!(
            "node {node:?} can only create pods with spec.nodeName set to itself"
        )),
        Operation::Update if !is_on(old, node) => Some(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )),
        Operation::Delete if !is_on(old, node) => Some(format!(
            "node {node:?} can only delete pods with spec.nodeName set to itself"
        )),
        _ => None,
    }
}

fn evict(node: &str, request: &AdmissionRequest<'_>, cluster: &dyn Lookup) -> Option<String> {
    let stored = match request.old {
        Some(_) => None,
        None => cluster.get("", "pods", request.namespace, request.name),
    };
    let found = request.old.or(stored.as_ref())?;
    (!is_on(found, node))
        .then(|| format!("node {node} can only evict pods with spec.nodeName set to itself"))
}

fn own_node(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Option<String> {
    let name = name_of(request, object);
    if name != node {
        return Some(format!(
            "node {node:?} is not allowed to modify node {name:?}"
        ));
    }
    let old = request.old.unwrap_or(&Value::Null);
    if request.operation == Operation::Update {
        let taints = |node: &Value| match node["spec"]["taints"].as_array() {
            Some(list) => list.clone(),
            None => Vec::new(),
        };
        if taints(object) != taints(old) {
            return Some(format!("node {node:?} is not allowed to modify taints"));
        }
    }
    if request.operation == Operation::Delete {
        return None;
    }
    let labels = |node: &Value, key: &str| node["metadata"]["labels"][key].clone();
    let keys = [object, old]
        .into_iter()
        .filter_map(|node| node["metadata"]["labels"].as_object());
    let mut changed: Vec<&str> = keys
        .flat_map(|map| map.keys())
        .map(String::as_str)
        .filter(|key| key.starts_with(RESTRICTED_LABELS) && labels(object, key) != labels(old, key))
        .collect();
    changed.sort_unstable();
    changed.dedup();
    let changed = changed.join(", ");
    (!changed.is_empty())
        .then(|| format!("node {node:?} is not allowed to modify labels: {changed}"))
}

fn lease(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Option<String> {
    if request.namespace != LEASES {
        let why = format!("can only access leases in the {LEASES:?} system namespace");
        return Some(why);
    }
    let own = name_of(request, object) == node;
    (!own)
        .then(|| "can only access node lease with the same name as the requesting node".to_owned())
}

/// A token for a pod of the node's, and for no longer than that lives.
fn token(
    node: &str,
    request: &AdmissionRequest<'_>,
    object: &Value,
    cluster: &dyn Lookup,
) -> Option<String> {
    let bound = &object["spec"]["boundObjectRef"];
    let text = |field: &str| bound[field].as_str().unwrap_or_default();
    let why = if text("kind") != "Pod" || text("name").is_empty() {
        "node requested token not bound to a pod"
    } else if text("uid").is_empty() {
        "node requested token with a pod binding without a uid"
    } else {
        let pod = cluster.get("", "pods", request.namespace, text("name"))?;
        if pod["metadata"]["uid"] != text("uid") {
            "the UID in the bound object reference does not match the pod's"
        } else if !is_on(&pod, node) {
            "node requested token bound to a pod scheduled on a different node"
        } else {
            return None;
        }
    };
    Some(why.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Objects, request};
    use super::*;

    fn of_node(operation: Operation, plural: &'static str) -> AdmissionRequest<'static> {
        AdmissionRequest {
            user: "system:node:n1",
            ..request(operation, plural)
        }
    }

    fn why(request: &AdmissionRequest<'_>, mut object: Value, objects: &Objects) -> String {
        let outcome = NodeRestriction.admit(request, &mut object, objects);
        outcome.map_or_else(|status| status.message, |()| String::new())
    }

    #[test]
    fn pods_elsewhere_are_not_touched() {
        let none = Objects::default();
        let own = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}});
        let other = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n2"}});
        for (old, expected) in [
            (&own, ""),
            (
                &other,
                "pods \"p\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set \
                 to itself",
            ),
        ] {
            let delete = AdmissionRequest {
                old: Some(old),
                name: "p",
                ..of_node(Operation::Delete, "pods")
            };
            assert_eq!(why(&delete, Value::Null, &none), expected);
        }
        let update = AdmissionRequest {
            old: Some(&other),
            ..of_node(Operation::Update, "pods")
        };
        assert!(why(&update, other.clone(), &none).contains("can only update pod status"));
        let create = of_node(Operation::Create, "pods");
        assert!(why(&create, own.clone(), &none).contains("can only create mirror pods"));
        let anybody = request(Operation::Create, "pods");
        assert_eq!(why(&anybody, own, &none), "");
    }

    #[test]
    fn a_node_keeps_to_its_own_node_and_lease() {
        let none = Objects::default();
        let node =
            |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
        let create = of_node(Operation::Create, "nodes");
        assert_eq!(why(&create, node("n1", json!({"a": "b"})), &none), "");
        assert_eq!(
            why(&create, node("n2", json!({})), &none),
            "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
        );
        let label = json!({"node-restriction.kubernetes.io/zone": "safe"});
        assert!(why(&create, node("n1", label), &none).contains("not allowed to modify labels"));
        let tainted = json!({"metadata": {"name": "n1"}, "spec": {"taints": [{"key": "a"}]}});
        let update = AdmissionRequest {
            old: Some(&tainted),
            ..of_node(Operation::Update, "nodes")
        };
        assert_eq!(why(&update, tainted.clone(), &none), "");
        assert!(
            why(&update, node("n1", json!({})), &none).contains("not allowed to modify taints")
        );
        let lease = AdmissionRequest {
            group: "coordination.k8s.io",
            namespace: "kube-node-lease",
            ..of_node(Operation::Update, "leases")
        };
        assert_eq!(
            why(
                &AdmissionRequest {
                    name: "n1",
                    ..lease
                },
                json!({}),
                &none
            ),
            ""
        );
        assert!(
            why(
                &AdmissionRequest {
                    name: "n2",
                    ..lease
                },
                json!({}),
                &none
            )
            .contains("same name")
        );
    }

    #[test]
    fn tokens_are_bound_to_pods_of_the_node() {
        let pod = |name: &str, node: &str| json!({"metadata": {"name": name, "namespace": "d", "uid": "u"}, "spec": {"nodeName": node}});
        let objects = Objects::default()
            .with("pods", pod("here", "n1"))
            .with("pods", pod("there", "n2"));
        let ask = AdmissionRequest {
            subresource: "token",
            name: "default",
            ..of_node(Operation::Create, "serviceaccounts")
        };
        let bound = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": name, "uid": uid}}});
        assert_eq!(why(&ask, bound("here", "u"), &objects), "");
        assert!(why(&ask, json!({"spec": {}}), &objects).contains("not bound to a pod"));
        assert!(why(&ask, bound("here", ""), &objects).contains("without a uid"));
        assert!(why(&ask, bound("here", "old"), &objects).contains("UID"));
        assert!(why(&ask, bound("there", "u"), &objects).contains("different node"));
    }
}
