//! The default objects of a new cluster: namespaces, accounts of nodes, default roles and bindings, storage
//! classes, FlowSchemas and priority levels.

use json_tree::{Value, json};

use crate::groups::flowcontrol;
use crate::groups::rbac::GROUP;
use crate::groups::scheduling::priority_class::SYSTEM;
use crate::groups::storage::driver::{LOCAL_COW_PROVISIONER, LOCAL_PROVISIONER};
use crate::groups::storage::volume_replication::{
    INTERVAL_DEFAULT, INTERVAL_PARAMETER, REPLICAS_PARAMETER,
};
use crate::json::parts;
use crate::well_known::annotations::{DEFAULT_STORAGE_CLASS, RBAC_AUTOUPDATE};
use crate::well_known::labels::RBAC_DEFAULTS;
use crate::well_known::namespaces::{KUBE_SYSTEM, NODE_LEASES};
use crate::well_known::node_accounts::NodeAccount;

/// Default roles and bindings of the API, of kubeadm for new nodes (`kubeadm:`), and of this program's components
/// (`mainstay:`): each with kind, name, namespace, labels, rules and subjects.
const RBAC: &str = include_str!("../data/default-rbac.json");

const NAMESPACES: &[&str] = &["default", NODE_LEASES, "kube-public", KUBE_SYSTEM];

/// The StorageClass of claims without a class.
pub const DEFAULT_CLASS: &str = "local";
/// The class of volumes with enforced limits, snapshots and clones.
pub const COW_CLASS: &str = "local-cow";

/// The class of volumes with a replica on another node.
pub const REPLICATED_CLASS: &str = "local-replicated";

/// The objects of a new cluster, namespaces first.
pub fn default_objects() -> Vec<Value> {
    let mut all: Vec<Value> = NAMESPACES.iter().map(|name| namespace(name)).collect();
    all.extend(NodeAccount::ALL.map(account));
    all.extend(roles_and_bindings());
    let default = json!({DEFAULT_STORAGE_CLASS: "true"});
    all.push(storage_class(DEFAULT_CLASS, LOCAL_PROVISIONER, default));
    all.push(storage_class(COW_CLASS, LOCAL_COW_PROVISIONER, Value::Null));
    let mut replicated = storage_class(REPLICATED_CLASS, LOCAL_COW_PROVISIONER, Value::Null);
    replicated["parameters"] = json!({
        REPLICAS_PARAMETER: "1",
        INTERVAL_PARAMETER: INTERVAL_DEFAULT.to_string(),
    });
    all.push(replicated);
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

fn account(account: NodeAccount) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": account.name(), "namespace": KUBE_SYSTEM},
    })
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
        let mut keys = BTreeSet::new();
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
            let key = (
                object["kind"].to_string(),
                object["metadata"]["namespace"].to_string(),
                object["metadata"]["name"].to_string(),
            );
            assert!(keys.insert(key), "{object} is there twice");
        }
    }

    #[test]
    fn strangers_see_health_and_version_only() {
        let objects = default_objects();
        let granted: Vec<&Value> = objects
            .iter()
            .filter(|object| {
                let subjects = object["subjects"].as_array().into_iter().flatten();
                let mut names = subjects.filter_map(|subject| subject["name"].as_str());
                names.any(|name| name == "system:unauthenticated" || name == "system:anonymous")
            })
            .map(|object| &object["roleRef"]["name"])
            .collect();
        assert_eq!(granted, ["system:public-info-viewer"]);
    }

    fn has(list: &Value, word: &str) -> bool {
        let texts = list.as_array().into_iter().flatten();
        texts
            .filter_map(Value::as_str)
            .any(|text| text == word || text == "*")
    }

    /// Whether a user or group has a right in the whole cluster.
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

    /// The rights that the program's components need: a controller or another user, verbs, and a resource as kubectl
    /// writes it. `cargo xtask tidy` checks that each controller has a row.
    const WORK: &str = "\
controller attachdetach | create delete list patch watch | volumeattachments.storage.k8s.io
controller attachdetach | list watch | csidrivers.storage.k8s.io
controller attachdetach | get patch | nodes
controller attachdetach | patch | nodes/status
controller attachdetach | get | leases.coordination.k8s.io
controller attachdetach | create patch | events
controller certificate-signing | list watch delete | certificatesigningrequests.certificates.k8s.io
controller certificate-signing | update | certificatesigningrequests.certificates.k8s.io/approval
controller certificate-signing | update | certificatesigningrequests.certificates.k8s.io/status
controller certificate-signing | create | subjectaccessreviews.authorization.k8s.io
controller certificate-signing | list watch | nodes
controller certificate-signing | get | leases.coordination.k8s.io
controller clusterrole-aggregation | escalate patch list watch | clusterroles.rbac.authorization.k8s.io
controller crd-names | list watch patch | customresourcedefinitions.apiextensions.k8s.io
controller crd-names | patch | customresourcedefinitions.apiextensions.k8s.io/status
controller crd-names | list delete | farms.example.com
controller cronjob | list watch | cronjobs.batch
controller cronjob | patch update | cronjobs.batch/status
controller cronjob | create get delete | jobs.batch
controller cronjob | create patch | events
controller daemonset | get list watch | daemonsets.apps
controller daemonset | patch update | daemonsets.apps/status
controller daemonset | create patch delete | controllerrevisions.apps
controller daemonset | create delete list patch watch | pods
controller deployment | get list patch watch | deployments.apps
controller deployment | patch update | deployments.apps/status
controller deployment | create patch delete | replicasets.apps
controller disruption | list watch | poddisruptionbudgets.policy
controller disruption | patch update | poddisruptionbudgets.policy/status
controller endpoints | list watch | services
controller endpoints | create update delete | endpoints
controller endpoints | create update delete | endpointslices.discovery.k8s.io
controller ephemeral-volumes | get | pods
controller ephemeral-volumes | create | persistentvolumeclaims
controller garbage-collection | delete get list patch watch | farms.example.com
controller garbage-collection | get | namespaces
controller garbage-collection | update | namespaces/finalize
controller garbage-collection | patch | namespaces/status
controller horizontal-pod-autoscaler | list watch | horizontalpodautoscalers.autoscaling
controller horizontal-pod-autoscaler | update | horizontalpodautoscalers.autoscaling/status
controller horizontal-pod-autoscaler | get update | farms.example.com/scale
controller horizontal-pod-autoscaler | list | pods.metrics.k8s.io
controller job | create get patch delete | jobs.batch
controller job | patch update | jobs.batch/status
controller job | create delete list patch watch | pods
controller load-balancer | list watch | services
controller load-balancer | patch | services/status
controller node-lifecycle | get list patch watch | leases.coordination.k8s.io
controller node-lifecycle | patch | nodes
controller node-lifecycle | patch | nodes/status
controller node-lifecycle | delete | pods
controller node-lifecycle | delete list watch | persistentvolumeclaims
controller node-lifecycle | patch | pods/status
controller node-reachability | list watch | nodes
controller node-reachability | patch | nodes/status
controller ordinal-services | create delete patch | services
controller pod-gc | delete get list patch | leases.coordination.k8s.io
controller pod-gc | get | nodes
controller pod-gc | delete | pods
controller pod-gc | patch | pods/status
controller replicaset | get list watch | replicasets.apps
controller replicaset | patch update | replicasets.apps/status
controller replicaset | create delete list patch watch | pods
controller replicationcontroller | get list watch | replicationcontrollers
controller replicationcontroller | patch update | replicationcontrollers/status
controller replicationcontroller | create delete list patch watch | pods
controller resource-claims | get | pods
controller resource-claims | patch | pods/status
controller resource-claims | create delete list patch watch | resourceclaims.resource.k8s.io
controller resource-claims | update | resourceclaims.resource.k8s.io/status
controller resource-claims | list watch | resourceclaimtemplates.resource.k8s.io
controller root-ca-publisher | create list patch watch | configmaps
controller service-account-tokens | delete list patch watch | secrets
controller service-account-tokens | get | serviceaccounts
controller service-account-tokens | create | serviceaccounts/token
controller service-accounts | create | serviceaccounts
controller service-cidrs | list patch watch | servicecidrs.networking.k8s.io
controller service-cidrs | patch | servicecidrs.networking.k8s.io/status
controller service-cidrs | list | ipaddresses.networking.k8s.io
controller statefulset | get list watch | statefulsets.apps
controller statefulset | patch | statefulsets.apps/status
controller statefulset | create delete patch | controllerrevisions.apps
controller statefulset | create patch | persistentvolumeclaims
controller statefulset | create delete list patch watch | pods
controller statefulset | create | pods/eviction
controller statefulset | list watch | customresourcedefinitions.apiextensions.k8s.io
controller statefulset | list watch | statefulsetpolicies.apps.mainstay.dev
controller stateful-set-policy | list watch | statefulsetpolicies.apps.mainstay.dev
controller stateful-set-policy | list watch | statefulsets.apps
controller stateful-set-policy | patch | statefulsetpolicies.apps.mainstay.dev/status
controller rbd-provisioner | get list watch | persistentvolumeclaims
controller rbd-provisioner | patch | persistentvolumeclaims/status
controller rbd-provisioner | create delete get list patch watch | persistentvolumes
controller rbd-provisioner | patch | persistentvolumes/status
controller rbd-provisioner | list watch | storageclasses.storage.k8s.io
controller rbd-provisioner | get | secrets
controller rbd-provisioner | create patch | events
controller storage-version-migration | list watch | storageversionmigrations.storagemigration.k8s.io
controller storage-version-migration | patch | storageversionmigrations.storagemigration.k8s.io/status
controller storage-version-migration | list watch | customresourcedefinitions.apiextensions.k8s.io
controller storage-version-migration | patch | customresourcedefinitions.apiextensions.k8s.io/status
controller storage-version-migration | list patch | farms.example.com
controller token-cleaner | list watch delete | secrets
controller volume-binding | get list patch watch | persistentvolumeclaims
controller volume-binding | patch | persistentvolumeclaims/status
controller volume-binding | get list patch watch | persistentvolumes
controller volume-binding | patch | persistentvolumes/status
controller volume-growth | get | nodes/proxy
controller volume-growth | list watch | persistentvolumes
controller volume-growth | list patch watch | persistentvolumeclaims
controller volume-growth | list watch | pods
controller volume-growth | list watch | statefulsets.apps
controller volume-growth | list watch | statefulsetpolicies.apps.mainstay.dev
controller volume-growth | create patch | events
controller volume-replication | create | nodes/proxy
controller volume-replication | list delete | pods
controller volume-replication | get list watch | nodes
controller volume-replication | get | leases.coordination.k8s.io
controller volume-replication | list watch | persistentvolumeclaims
controller volume-replication | patch | persistentvolumeclaims/status
controller volume-replication | get patch list watch | persistentvolumes
controller volume-replication | create patch | events
controller volume-move | create | nodes/proxy
controller volume-move | list delete | pods
controller volume-move | get | nodes
controller volume-move | get patch | persistentvolumes
controller volume-protection | list | pods
controller volume-protection | patch | persistentvolumeclaims
controller volume-protection | patch | persistentvolumes
controller volume-protection | list patch watch | volumeattributesclasses.storage.k8s.io
controller volume-snapshot | list patch watch | volumesnapshots.snapshot.storage.k8s.io
controller volume-snapshot | patch | volumesnapshots.snapshot.storage.k8s.io/status
controller volume-snapshot | create delete list patch watch | volumesnapshotcontents.snapshot.storage.k8s.io
controller volume-snapshot | create list watch | volumesnapshotclasses.snapshot.storage.k8s.io
system:kube-scheduler | list patch watch | resourceclaims.resource.k8s.io
system:kube-scheduler | update | resourceclaims.resource.k8s.io/status
system:kube-scheduler | list watch | deviceclasses.resource.k8s.io
system:kube-scheduler | list watch | resourceslices.resource.k8s.io
system:kube-scheduler | create | pods/binding
system:kube-scheduler | patch | pods/status
system:kube-scheduler | delete list watch | pods
system:kube-scheduler | list watch | poddisruptionbudgets.policy
system:kube-scheduler | patch list | persistentvolumes
system:kube-scheduler | patch list | persistentvolumeclaims
system:kube-scheduler | list watch | namespaces
system:kube-scheduler | list watch | services
system:kube-scheduler | list watch | storageclasses.storage.k8s.io
system:kube-scheduler | list watch | csidrivers.storage.k8s.io
system:kube-scheduler | list watch | csinodes.storage.k8s.io
system:kube-scheduler | list watch | csistoragecapacities.storage.k8s.io
system:kube-scheduler | list watch | volumeattachments.storage.k8s.io
system:kube-scheduler | create patch | events
system:nodes | patch | pods/status
system:nodes | delete list watch | pods
system:nodes | create patch get | nodes
system:nodes | patch | nodes/status
system:nodes | create | serviceaccounts/token
system:nodes | create patch get | leases.coordination.k8s.io
system:nodes | get list watch | secrets
system:nodes | get list watch | configmaps
system:nodes | get | persistentvolumes
system:nodes | get | persistentvolumeclaims
system:nodes | patch | persistentvolumeclaims/status
system:nodes | create patch | events
system:nodes | create | certificatesigningrequests.certificates.k8s.io/selfnodeclient
system:nodes | create | certificatesigningrequests.certificates.k8s.io/selfnodeserver
system:bootstrappers:kubeadm:default-node-token | create get list watch | certificatesigningrequests.certificates.k8s.io
system:bootstrappers:kubeadm:default-node-token | create | certificatesigningrequests.certificates.k8s.io/nodeclient
system:bootstrappers:kubeadm:default-node-token | get | nodes
mainstay-provisioner | create patch delete get list watch | persistentvolumes
mainstay-provisioner | patch | persistentvolumes/status
mainstay-provisioner | patch get list watch | persistentvolumeclaims
mainstay-provisioner | patch | persistentvolumeclaims/status
mainstay-provisioner | list watch | storageclasses.storage.k8s.io
mainstay-provisioner | list | nodes
mainstay-provisioner | get | volumesnapshots.snapshot.storage.k8s.io
mainstay-provisioner | get list watch patch | volumesnapshotcontents.snapshot.storage.k8s.io
mainstay-provisioner | patch | volumesnapshotcontents.snapshot.storage.k8s.io/status
mainstay-provisioner | create patch | events
system:kube-proxy | list watch | services
system:kube-proxy | list watch | namespaces
system:kube-proxy | list watch | nodes
system:kube-proxy | list watch | endpointslices.discovery.k8s.io
system:kube-proxy | list watch | networkpolicies.networking.k8s.io
system:kube-proxy | list watch | servicecidrs.networking.k8s.io
system:kube-proxy | list watch | pods
kube-proxy | list watch | services
kube-proxy | list watch | namespaces
kube-proxy | list watch | nodes
kube-proxy | list watch | endpointslices.discovery.k8s.io
kube-proxy | list watch | networkpolicies.networking.k8s.io
kube-proxy | list watch | servicecidrs.networking.k8s.io
kube-proxy | list watch | pods
mainstay-dns | list watch | services
mainstay-dns | list watch | namespaces
mainstay-dns | list watch | endpointslices.discovery.k8s.io
mainstay-dns | list watch | pods
";

    /// User, verbs, API group and resource of a row of [`WORK`].
    fn right(row: &str) -> Option<(&str, &str, &str, String)> {
        let (part, rest) = row.split_once(" | ")?;
        let (verbs, name) = rest.split_once(" | ")?;
        let user = match part.strip_prefix("controller ") {
            Some(_) => "system:kube-controller-manager",
            None => part,
        };
        let (kind, part) = match name.split_once('/') {
            Some((kind, part)) => (kind, format!("/{part}")),
            None => (name, String::new()),
        };
        let (resource, group) = kind.split_once('.').unwrap_or((kind, ""));
        Some((user, verbs, group, format!("{resource}{part}")))
    }

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
            let mut roles = objects.iter().filter(|object| {
                object["kind"] == "ClusterRole" && object["metadata"]["name"] == name
            });
            let rules = roles.next().unwrap()["rules"].as_array().unwrap();
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

    /// Each component of the program needs only the rights of its own role.
    #[test]
    fn the_programs_own_parts_may_do_their_work() {
        let objects = default_objects();
        for row in WORK.lines() {
            let (who, verbs, group, resource) = right(row).unwrap();
            for verb in verbs.split(' ') {
                let allowed = may(&objects, who, verb, group, &resource);
                assert!(allowed, "{who} must be allowed to {verb} {resource}");
            }
        }
        assert!(!may(&objects, "system:authenticated", "list", "", "pods"));
    }
}
