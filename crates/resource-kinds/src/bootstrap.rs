//! The objects of a fresh cluster: namespaces, default roles and bindings, storage classes, flows of
//! requests.

use serde_json::{Value, json};

use crate::groups::flowcontrol;
use crate::groups::rbac::GROUP;
use crate::groups::scheduling::priority_class::SYSTEM;
use crate::groups::storage::driver::{LOCAL_COW_PROVISIONER, LOCAL_PROVISIONER};
use crate::json::parts;
use crate::well_known::annotations::{DEFAULT_STORAGE_CLASS, RBAC_AUTOUPDATE};
use crate::well_known::labels::RBAC_DEFAULTS;

/// Default roles and bindings of the API, and those of this program's own parts (their names begin
/// with `mainstay:`): each with kind, name, namespace, labels, rules and subjects.
const RBAC: &str = include_str!("../data/default-rbac.json");

const NAMESPACES: &[&str] = &["default", "kube-node-lease", "kube-public", "kube-system"];

/// The class of volumes that claims without a class get.
pub const DEFAULT_CLASS: &str = "local";
/// The class of volumes with enforced limits, snapshots and clones.
pub const COW_CLASS: &str = "local-cow";

/// The objects that a fresh cluster starts with, namespaces first.
pub fn default_objects() -> Vec<Value> {
    let mut all: Vec<Value> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    all.extend(roles_and_bindings());
    let default = json!({DEFAULT_STORAGE_CLASS: "true"});
    all.push(storage_class(DEFAULT_CLASS, LOCAL_PROVISIONER, default));
    all.push(storage_class(COW_CLASS, LOCAL_COW_PROVISIONER, Value::Null));
    all.extend(
        SYSTEM
            .iter()
            .map(|(name, value)| priority_class(name, *value)),
    );
    all.extend(flowcontrol::mandatory());
    all.extend(flowcontrol::suggested());
    all
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn storage_class(name: &str, provisioner: &str, annotations: Value) -> Value {
    let mut metadata = json!({"name": name});
    if annotations.is_object() {
        parts::set(&mut metadata, "annotations", annotations);
    }
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": metadata,
        "provisioner": provisioner,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    })
}

fn priority_class(name: &str, value: i64) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    })
}

fn roles_and_bindings() -> Vec<Value> {
    let rows: Vec<Value> = serde_json::from_str(RBAC).unwrap_or_default();
    rows.into_iter().map(role_or_binding).collect()
}

fn role_or_binding(row: Value) -> Value {
    let mut object = json!({"apiVersion": format!("{GROUP}/v1"), "kind": row["kind"]});
    let mut metadata = json!({
        "name": row["name"],
        "labels": {RBAC_DEFAULTS: "rbac-defaults"},
        "annotations": {RBAC_AUTOUPDATE: "true"},
    });
    parts::restore(&mut metadata, &row, "namespace");
    for (key, value) in row["labels"].as_object().into_iter().flatten() {
        metadata["labels"][key] = value.clone();
    }
    parts::set(&mut object, "metadata", metadata);
    for part in ["aggregationRule", "roleRef", "rules", "subjects"] {
        if row.get(part).is_some() {
            parts::restore(&mut object, &row, part);
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kind::Scope;
    use crate::{ClusterConfig, all};

    #[test]
    fn every_object_is_accepted_by_its_kind() {
        let kinds = all(&ClusterConfig::default());
        let objects = default_objects();
        assert!(objects.len() > 100);
        let mut seen = BTreeSet::new();
        for object in objects {
            let kind = kinds
                .iter()
                .find(|kind| {
                    kind.info().kind == object["kind"]
                        && kind.info().api_version() == object["apiVersion"]
                })
                .unwrap_or_else(|| panic!("no kind for {object}"));
            let mut accepted = kind.decode(object.clone()).unwrap();
            kind.default(&mut accepted);
            kind.prepare_create(&mut accepted);
            let errors = kind.validate_create(&accepted);
            assert_eq!(errors, [], "{object}");
            let namespaced = accepted["metadata"]["namespace"].is_string();
            assert_eq!(namespaced, kind.info().scope == Scope::Namespaced);
            let place = (
                object["kind"].to_string(),
                object["metadata"]["namespace"].to_string(),
                object["metadata"]["name"].to_string(),
            );
            assert!(seen.insert(place), "{object} is there twice");
        }
    }

    #[test]
    fn strangers_see_health_and_version_only() {
        let objects = default_objects();
        let given: Vec<&Value> = objects
            .iter()
            .filter(|object| {
                let subjects = object["subjects"].as_array().into_iter().flatten();
                let mut names = subjects.filter_map(|subject| subject["name"].as_str());
                names.any(|name| name == "system:unauthenticated" || name == "system:anonymous")
            })
            .map(|object| &object["roleRef"]["name"])
            .collect();
        assert_eq!(given, ["system:public-info-viewer"]);
    }

    fn has(list: &Value, wanted: &str) -> bool {
        let texts = list.as_array().into_iter().flatten();
        texts
            .filter_map(Value::as_str)
            .any(|text| text == wanted || text == "*")
    }

    /// Whether a user or group may do something in the whole cluster.
    fn may(objects: &[Value], who: &str, verb: &str, group: &str, resource: &str) -> bool {
        let bound = |binding: &&Value| {
            let subjects = binding["subjects"].as_array().into_iter().flatten();
            binding["kind"] == "ClusterRoleBinding"
                && subjects.clone().any(|subject| subject["name"] == who)
        };
        let grants = |rule: &Value| {
            has(&rule["verbs"], verb)
                && has(&rule["apiGroups"], group)
                && has(&rule["resources"], resource)
                && rule["resourceNames"].is_null()
        };
        objects.iter().filter(bound).any(|binding| {
            let name = &binding["roleRef"]["name"];
            let mut roles = objects.iter().filter(|object| {
                object["kind"] == "ClusterRole" && object["metadata"]["name"] == *name
            });
            roles.any(|role| role["rules"].as_array().into_iter().flatten().any(grants))
        })
    }

    const PROVISIONER: &str = "mainstay-provisioner";

    /// The permissions of the program's parts: user, verbs, API group, resource.
    const WORK: &[(&str, &str, &str, &str)] = &[
        (
            "system:kube-controller-manager",
            "create delete patch watch",
            "",
            "pods",
        ),
        ("system:kube-controller-manager", "patch", "", "pods/status"),
        (
            "system:kube-controller-manager",
            "create delete list patch watch",
            "resource.k8s.io",
            "resourceclaims",
        ),
        (
            "system:kube-controller-manager",
            "update",
            "resource.k8s.io",
            "resourceclaims/status",
        ),
        (
            "system:kube-controller-manager",
            "list watch",
            "resource.k8s.io",
            "resourceclaimtemplates",
        ),
        (
            "system:kube-scheduler",
            "list patch watch",
            "resource.k8s.io",
            "resourceclaims",
        ),
        (
            "system:kube-scheduler",
            "update",
            "resource.k8s.io",
            "resourceclaims/status",
        ),
        (
            "system:kube-scheduler",
            "list watch",
            "resource.k8s.io",
            "deviceclasses",
        ),
        (
            "system:kube-scheduler",
            "list watch",
            "resource.k8s.io",
            "resourceslices",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "apps",
            "statefulsets/status",
        ),
        (
            "system:kube-controller-manager",
            "create patch",
            "apps",
            "controllerrevisions",
        ),
        (
            "system:kube-controller-manager",
            "create patch delete",
            "apps",
            "replicasets",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "apps",
            "replicasets/status",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "",
            "replicationcontrollers/status",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "apps",
            "deployments",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "apps",
            "deployments/status",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "apps",
            "daemonsets/status",
        ),
        (
            "system:kube-controller-manager",
            "create patch delete",
            "batch",
            "jobs",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "batch",
            "jobs/status",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "batch",
            "cronjobs/status",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "policy",
            "poddisruptionbudgets/status",
        ),
        (
            "system:kube-controller-manager",
            "create patch",
            "",
            "persistentvolumeclaims",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "",
            "persistentvolumeclaims/status",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "",
            "persistentvolumes/status",
        ),
        (
            "system:kube-controller-manager",
            "update",
            "",
            "namespaces/finalize",
        ),
        (
            "system:kube-controller-manager",
            "patch",
            "",
            "namespaces/status",
        ),
        (
            "system:kube-controller-manager",
            "create",
            "",
            "serviceaccounts",
        ),
        (
            "system:kube-controller-manager",
            "create patch",
            "",
            "configmaps",
        ),
        ("system:kube-controller-manager", "patch", "", "nodes"),
        (
            "system:kube-controller-manager",
            "patch",
            "",
            "nodes/status",
        ),
        (
            "system:kube-controller-manager",
            "create update delete",
            "discovery.k8s.io",
            "endpointslices",
        ),
        (
            "system:kube-controller-manager",
            "create update delete",
            "",
            "endpoints",
        ),
        (
            "system:kube-controller-manager",
            "delete patch list",
            "",
            "secrets",
        ),
        (
            "system:kube-controller-manager",
            "create",
            "",
            "serviceaccounts/token",
        ),
        (
            "system:kube-controller-manager",
            "escalate patch list watch",
            "rbac.authorization.k8s.io",
            "clusterroles",
        ),
        (
            "system:kube-controller-manager",
            "list watch delete",
            "certificates.k8s.io",
            "certificatesigningrequests",
        ),
        (
            "system:kube-controller-manager",
            "update",
            "certificates.k8s.io",
            "certificatesigningrequests/approval",
        ),
        (
            "system:kube-controller-manager",
            "update",
            "certificates.k8s.io",
            "certificatesigningrequests/status",
        ),
        (
            "system:kube-controller-manager",
            "create",
            "authorization.k8s.io",
            "subjectaccessreviews",
        ),
        (
            "system:kube-controller-manager",
            "list watch",
            "autoscaling",
            "horizontalpodautoscalers",
        ),
        (
            "system:kube-controller-manager",
            "update",
            "autoscaling",
            "horizontalpodautoscalers/status",
        ),
        (
            "system:kube-controller-manager",
            "get update",
            "example.com",
            "farms/scale",
        ),
        (
            "system:kube-controller-manager",
            "list",
            "metrics.k8s.io",
            "pods",
        ),
        (
            "system:kube-controller-manager",
            "create patch",
            "",
            "events",
        ),
        ("system:kube-scheduler", "create", "", "pods/binding"),
        ("system:kube-scheduler", "patch", "", "pods/status"),
        ("system:kube-scheduler", "delete list watch", "", "pods"),
        (
            "system:kube-scheduler",
            "list watch",
            "policy",
            "poddisruptionbudgets",
        ),
        (
            "system:kube-scheduler",
            "patch list",
            "",
            "persistentvolumes",
        ),
        (
            "system:kube-scheduler",
            "patch list",
            "",
            "persistentvolumeclaims",
        ),
        ("system:kube-scheduler", "list watch", "", "namespaces"),
        (
            "system:kube-scheduler",
            "list watch",
            "storage.k8s.io",
            "storageclasses",
        ),
        ("system:kube-scheduler", "create patch", "", "events"),
        ("system:nodes", "patch", "", "pods/status"),
        ("system:nodes", "delete list watch", "", "pods"),
        ("system:nodes", "create patch get", "", "nodes"),
        ("system:nodes", "patch", "", "nodes/status"),
        ("system:nodes", "create", "", "serviceaccounts/token"),
        (
            "system:nodes",
            "create patch get",
            "coordination.k8s.io",
            "leases",
        ),
        ("system:nodes", "get list watch", "", "secrets"),
        ("system:nodes", "get list watch", "", "configmaps"),
        ("system:nodes", "get", "", "persistentvolumes"),
        ("system:nodes", "get", "", "persistentvolumeclaims"),
        ("system:nodes", "create patch", "", "events"),
        (
            PROVISIONER,
            "create patch delete get list watch",
            "",
            "persistentvolumes",
        ),
        (PROVISIONER, "patch", "", "persistentvolumes/status"),
        (
            PROVISIONER,
            "patch get list watch",
            "",
            "persistentvolumeclaims",
        ),
        (PROVISIONER, "patch", "", "persistentvolumeclaims/status"),
        (
            PROVISIONER,
            "list watch",
            "storage.k8s.io",
            "storageclasses",
        ),
        (PROVISIONER, "list", "", "nodes"),
        (
            PROVISIONER,
            "get",
            "snapshot.storage.k8s.io",
            "volumesnapshots",
        ),
        (
            PROVISIONER,
            "get list watch patch",
            "snapshot.storage.k8s.io",
            "volumesnapshotcontents",
        ),
        (
            PROVISIONER,
            "patch",
            "snapshot.storage.k8s.io",
            "volumesnapshotcontents/status",
        ),
        (PROVISIONER, "create patch", "", "events"),
        ("system:kube-proxy", "list watch", "", "services"),
        ("system:kube-proxy", "list watch", "", "namespaces"),
        (
            "system:kube-proxy",
            "list watch",
            "discovery.k8s.io",
            "endpointslices",
        ),
    ];

    #[test]
    fn nobody_writes_endpoints_by_a_default_role_for_people() {
        // findings S23 (CVE-2021-25740): addresses in Endpoints reach past NetworkPolicies.
        let objects = default_objects();
        let roles = [
            "admin",
            "edit",
            "system:aggregate-to-edit",
            "system:aggregate-to-admin",
        ];
        for name in roles {
            let mut found = objects.iter().filter(|object| {
                object["kind"] == "ClusterRole" && object["metadata"]["name"] == name
            });
            let rules = found.next().unwrap()["rules"].as_array().unwrap();
            for resource in ["endpoints", "endpointslices"] {
                let writes = |rule: &Value| {
                    has(&rule["resources"], resource)
                        && ["create", "update", "patch"]
                            .iter()
                            .any(|verb| has(&rule["verbs"], verb))
                };
                assert!(!rules.iter().any(writes), "{name} writes {resource}");
            }
        }
    }

    /// Each part of the program works with the rights of its own role only.
    #[test]
    fn the_programs_own_parts_may_do_their_work() {
        let objects = default_objects();
        for (who, verbs, group, resource) in WORK {
            for verb in verbs.split(' ') {
                let allowed = may(&objects, who, verb, group, resource);
                assert!(allowed, "{who} must be allowed to {verb} {resource}");
            }
        }
        assert!(!may(&objects, "system:authenticated", "list", "", "pods"));
    }
}
