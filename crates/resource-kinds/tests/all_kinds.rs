//! Tests that apply to every kind.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use proptest::prelude::*;
use resource_kinds::{AllocationLookup, ClusterConfig, Kind, Scope, ServiceRange, all};

struct Nothing;

impl AllocationLookup for Nothing {
    fn is_allocated(&self, _key: &str) -> bool {
        false
    }

    fn service_ranges(&self) -> Vec<ServiceRange> {
        Vec::new()
    }
}

fn kinds() -> Vec<std::sync::Arc<dyn Kind>> {
    all(&ClusterConfig::default())
}

#[test]
fn names_are_unique() {
    let mut names = BTreeSet::new();
    let mut short: BTreeMap<&str, &str> = BTreeMap::new();
    let kinds = kinds();
    for kind in &kinds {
        let info = kind.info();
        assert!(
            names.insert((info.group, info.version, info.plural)),
            "{info:?}"
        );
        assert_eq!(info.list_kind, format!("{}List", info.kind));
        assert_eq!(info.singular, info.kind.to_lowercase());
        for name in info.short_names.iter() {
            if let Some(other) = short.insert(name, info.plural) {
                assert_eq!(other, info.plural, "{name} is short for two resources");
            }
        }
    }
}

#[test]
fn a_row_has_a_cell_for_each_column() {
    for kind in kinds() {
        for object in [
            json!({}),
            Value::Null,
            json!({"spec": [], "status": 1, "metadata": ""}),
        ] {
            let row = kind.row(&object, Timestamp::UNIX_EPOCH);
            assert_eq!(row.len(), kind.columns().len(), "{}", kind.info().plural);
        }
    }
}

#[test]
fn fields_that_can_be_selected_have_a_value() {
    for kind in kinds() {
        for field in kind.selectable().selectable_fields().iter() {
            assert!(
                kind.selectable()
                    .selectable_field(&json!({}), field)
                    .is_some(),
                "{field}"
            );
        }
        assert_eq!(
            kind.selectable()
                .selectable_field(&json!({}), "spec.unknown"),
            None
        );
    }
}

/// A typical object of each kind.
fn samples() -> BTreeMap<&'static str, Value> {
    let groups = [
        core_samples(),
        workload_samples(),
        admission_samples(),
        access_samples(),
        network_samples(),
        storage_samples(),
        device_samples(),
    ];
    groups.into_iter().flatten().collect()
}

fn claim_spec() -> Value {
    json!({"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1024Mi"}}})
}

fn pod_spec() -> Value {
    json!({
        "containers": [{"name": "a", "image": "nginx", "stdin": false,
            "ports": [{"containerPort": 80, "name": "web"}],
            "resources": {"limits": {"cpu": 0.5}},
            "livenessProbe": {"grpc": {"port": 1}, "initialDelaySeconds": 0},
            "env": [{"name": "E", "value": ""}, {"name": "R", "valueFrom": {
                "resourceFieldRef": {"resource": "limits.cpu"}}}]}],
        "volumes": [{"name": "v"}, {"name": "h", "hostPath": {"path": "/x"}}],
        "serviceAccountName": "default",
    })
}

fn core_samples() -> Vec<(&'static str, Value)> {
    let (pod, claim) = (pod_spec(), claim_spec());
    vec![
        ("configmaps", json!({"data": {"a": ""}})),
        ("secrets", json!({"stringData": {"a": "b"}})),
        ("pods", json!({"spec": pod})),
        (
            "services",
            json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
        ),
        (
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}],
            "ports": [{"port": 80}]}]}),
        ),
        (
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [],
            "ports": [{"port": 80, "name": ""}]}),
        ),
        (
            "nodes",
            json!({"status": {"capacity": {"cpu": 2, "memory": "1024Ki"}}}),
        ),
        ("persistentvolumeclaims", json!({"spec": claim})),
        (
            "persistentvolumes",
            json!({"spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}),
        ),
        (
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": 1}}]}}),
        ),
        ("resourcequotas", json!({"spec": {"hard": {"pods": 5}}})),
        ("podtemplates", json!({"template": {"spec": pod}})),
        (
            "replicationcontrollers",
            json!({"spec": {"selector": {},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}}),
        ),
        ("namespaces", json!({})),
        ("serviceaccounts", json!({})),
        ("events", json!({})),
    ]
}

fn workload_samples() -> Vec<(&'static str, Value)> {
    let (pod, claim) = (pod_spec(), claim_spec());
    let mut brief = pod.clone();
    brief["restartPolicy"] = json!("Never");
    vec![
        (
            "statefulsets",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod},
            "volumeClaimTemplates": [{"metadata": {"name": "c"}, "spec": claim}]}}),
        ),
        (
            "replicasets",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}}),
        ),
        (
            "deployments",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "paused": false,
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}}),
        ),
        (
            "daemonsets",
            json!({"spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}}),
        ),
        ("jobs", json!({"spec": {"template": {"spec": brief}}})),
        (
            "cronjobs",
            json!({"spec": {"schedule": "@daily", "jobTemplate": {
            "spec": {"template": {"spec": brief}}}}}),
        ),
        (
            "controllerrevisions",
            json!({"data": {"spec": null}, "revision": 0}),
        ),
        (
            "horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3, "behavior": {},
            "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}),
        ),
        (
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": "1%", "selector": {}}}),
        ),
    ]
}

fn admission_samples() -> Vec<(&'static str, Value)> {
    let rule = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
        "resources": ["*"]});
    let webhook = json!({"name": "a.b.c", "clientConfig": {"service": {"name": "a",
        "namespace": "d"}}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [rule]});
    vec![
        (
            "validatingwebhookconfigurations",
            json!({"webhooks": [webhook]}),
        ),
        (
            "mutatingwebhookconfigurations",
            json!({"webhooks": [webhook]}),
        ),
        (
            "mutatingadmissionpolicies",
            json!({"spec": {"matchConstraints": {"resourceRules": [rule]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}}),
        ),
        (
            "mutatingadmissionpolicybindings",
            json!({"spec": {"policyName": "a"}}),
        ),
        (
            "validatingadmissionpolicies",
            json!({"spec": {"matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "true"}]}}),
        ),
        (
            "validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "a", "validationActions": ["Deny"]}}),
        ),
    ]
}

fn access_samples() -> Vec<(&'static str, Value)> {
    let request = include_bytes!("../src/groups/certificates/testdata/jane.csr");
    let request = k8s_openapi::ByteString(request.to_vec());
    vec![
        (
            "certificatesigningrequests",
            json!({"spec": {"signerName": "example.com/mine", "usages": ["client auth"],
            "request": request}}),
        ),
        (
            "apiservices",
            json!({"spec": {"group": "apps", "version": "v1", "groupPriorityMinimum": 1,
            "versionPriority": 1}}),
        ),
        (
            "leases",
            json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 5}}),
        ),
        ("roles", json!({"rules": []})),
        ("clusterroles", json!({})),
        (
            "rolebindings",
            json!({"roleRef": {"kind": "Role", "name": "a"},
            "subjects": [{"kind": "User", "name": "u"}]}),
        ),
        (
            "clusterrolebindings",
            json!({"roleRef": {"kind": "ClusterRole", "name": "a"}}),
        ),
        (
            "flowschemas",
            json!({"spec": {"priorityLevelConfiguration": {"name": "l"}, "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "u"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}}),
        ),
        (
            "prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {
                "limitResponse": {"type": "Queue", "queuing": {}}}}}),
        ),
        ("priorityclasses", json!({"value": 5})),
        ("runtimeclasses", json!({"handler": "runc"})),
    ]
}

fn network_samples() -> Vec<(&'static str, Value)> {
    vec![
        (
            "ingresses",
            json!({"spec": {"defaultBackend": {"service": {"name": "a", "port": {"number": 80}}}}}),
        ),
        (
            "ingressclasses",
            json!({"spec": {"controller": "example.com/c"}}),
        ),
        (
            "networkpolicies",
            json!({"spec": {"podSelector": {}, "egress": [{}]}}),
        ),
        (
            "ipaddresses",
            json!({"spec": {"parentRef": {"resource": "services", "name": "a"}}}),
        ),
        ("servicecidrs", json!({"spec": {"cidrs": ["10.0.0.0/24"]}})),
    ]
}

fn storage_samples() -> Vec<(&'static str, Value)> {
    vec![
        ("csidrivers", json!({"spec": {}})),
        (
            "csistoragecapacities",
            json!({"storageClassName": "a", "capacity": "1024Mi", "nodeTopology": {}}),
        ),
        (
            "volumeattributesclasses",
            json!({"driverName": "a", "parameters": {"a": "b"}}),
        ),
        (
            "csinodes",
            json!({"spec": {"drivers": [{"name": "a", "nodeID": "n"}]}}),
        ),
        (
            "volumeattachments",
            json!({"spec": {"attacher": "a", "nodeName": "n",
            "source": {"persistentVolumeName": "v"}}}),
        ),
        ("storageclasses", json!({"provisioner": "a/b"})),
        (
            "storageversionmigrations",
            json!({"spec": {"resource": {"group": "a", "resource": "b"}}}),
        ),
    ]
}

fn device_samples() -> Vec<(&'static str, Value)> {
    let devices = json!({"devices": {"requests": [{"name": "a", "exactly": {
        "deviceClassName": "gpu"}}]}});
    vec![
        (
            "deviceclasses",
            json!({"spec": {"selectors": [{"cel": {"expression": "true"}}],
            "config": [{"opaque": {"driver": "d", "parameters": {}}}]}}),
        ),
        ("resourceclaims", json!({"spec": devices})),
        ("resourceclaimtemplates", json!({"spec": {"spec": devices}})),
        (
            "resourceslices",
            json!({"spec": {"driver": "d", "allNodes": true, "pool": {"name": "p",
            "generation": 0, "resourceSliceCount": 1}, "devices": [{"name": "a",
            "attributes": {"x": {"string": ""}}, "capacity": {"mem": {"value": "1024Mi"}}}]}}),
        ),
    ]
}

/// If a client reads an object and sends it back, nothing changes: no new version, no new generation, no error.
#[test]
fn an_object_sent_back_is_the_same_object() {
    let samples = samples();
    for kind in kinds() {
        let info = kind.info();
        let mut object = samples[info.plural].clone();
        let about = if info.group.is_empty() {
            "involvedObject"
        } else {
            "regarding"
        };
        if info.plural == "events" {
            object[about] = json!({"namespace": "d", "name": "x"});
        }
        object["apiVersion"] = json!(info.api_version());
        object["kind"] = json!(info.kind);
        let name = match info.plural {
            "apiservices" => "v1.apps",
            "ipaddresses" => "10.0.0.1",
            _ => "name",
        };
        object["metadata"] = json!({"name": name, "uid": "u"});
        if info.scope == Scope::Namespaced {
            object["metadata"]["namespace"] = json!("d");
        }
        let mut stored = kind.decode(object).unwrap();
        kind.default(&mut stored);
        kind.prepare_create(&mut stored);
        kind.default(&mut stored);
        kind.allocating()
            .allocate(&mut stored, None, &Nothing)
            .unwrap();
        assert_eq!(kind.validate_create(&stored), [], "{}", info.plural);

        let mut again = kind.decode(stored.clone()).unwrap();
        kind.default(&mut again);
        kind.prepare_update(&mut again, &stored);
        kind.allocating()
            .allocate(&mut again, Some(&stored), &Nothing)
            .unwrap();
        assert_eq!(again, stored, "{}", info.plural);
        assert_eq!(kind.validate_update(&again, &stored), [], "{}", info.plural);
        kind.status_update()
            .prepare_status_update(&mut again, &stored);
        assert_eq!(again, stored, "{}", info.plural);
        assert_eq!(
            kind.status_update().validate_status_update(&again, &stored),
            [],
            "{}",
            info.plural
        );
    }
}

/// Names of real fields, so that random objects reach deep code.
const NAMES: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "ports",
    "port",
    "containers",
    "volumes",
    "template",
    "selector",
    "type",
    "resources",
    "requests",
    "limits",
    "storage",
    "rules",
    "subjects",
    "roleRef",
    "data",
    "env",
    "valueFrom",
    "clusterIPs",
    "clusterIP",
    "conditions",
    "containerStatuses",
    "state",
    "tolerations",
    "updateStrategy",
    "rollingUpdate",
    "subsets",
    "endpoints",
    "addresses",
    "taints",
    "volumeClaimTemplates",
    "claimRef",
    "volumeMounts",
    "httpGet",
    "livenessProbe",
    "securityContext",
    "affinity",
    "nodeAffinity",
    "apiVersion",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9.:/-]{0,6}".prop_map(Value::from),
        Just(json!("None")),
        Just(json!("1Gi")),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        let key = (0..NAMES.len()).prop_map(|index| NAMES[index].to_owned());
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No input of a client, decoded or not, causes a kind to panic.
    #[test]
    fn no_kind_panics(object in any_json(), old in any_json()) {
        for kind in kinds() {
            let decoded = kind.decode(object.clone()).ok();
            for mut object in decoded.into_iter().chain([object.clone()]) {
                kind.default(&mut object);
                kind.prepare_create(&mut object);
                let _ = kind.allocating().allocate(&mut object, None, &Nothing);
                let _ = kind.validate_create(&object);
                kind.prepare_update(&mut object, &old);
                let _ = kind.allocating().allocate(&mut object, Some(&old), &Nothing);
                let _ = kind.validate_update(&object, &old);
                kind.status_update().prepare_status_update(&mut object, &old);
                let _ = kind.status_update().validate_status_update(&object, &old);
                let _ = kind.warnings(&object, Some(&old));
                let _ = kind.row(&object, Timestamp::UNIX_EPOCH);
                let _ = kind.row_conditions(&object);
                let _ = kind.allocating().allocations(&object);
                if let Some(scalable) = kind.scalable() {
                    let _ = scalable.scale(&object);
                    let _ = scalable.set_scale(&mut object, &old);
                }
                let _ = kind.deletion().grace_seconds(&object, None);
                for field in kind.selectable().selectable_fields().iter() {
                    let _ = kind.selectable().selectable_field(&object, field);
                }
            }
        }
    }
}
