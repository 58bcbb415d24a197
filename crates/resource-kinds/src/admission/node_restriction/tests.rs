//! Tests of the plug-in: the writes of a node, and the messages of refusals.

use json_tree::json;

use super::super::testing::{Objects, request};
use super::*;
use crate::well_known::annotations::MIRROR_POD;

fn of_node(operation: Operation, plural: &'static str) -> AdmissionRequest<'static> {
    AdmissionRequest {
        user: "system:node:n1",
        ..request(operation, plural)
    }
}

fn why(request: &AdmissionRequest<'_>, object: &Value) -> String {
    let pod = |name: &str, node: &str| {
        let token = |audience: Value| json!({"serviceAccountToken": {"audience": audience}});
        json!({
            "metadata": {"name": name, "namespace": request.namespace, "uid": "u"},
            "spec": {"nodeName": node, "volumes": [{"name": "t", "projected": {"sources": [
                token(json!("vault")), {"serviceAccountToken": {"path": "token"}},
            ]}}, {"name": "c", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "i", "csi": {"driver": "inline.example.com"}}]},
        })
    };
    let driver = |name: &str, audience: &str| json!({"metadata": {"name": name}, "spec": {"tokenRequests": [{"audience": audience}]}});
    let claim = json!({"metadata": {"name": "c", "namespace": request.namespace},
        "spec": {"volumeName": "v"}});
    let volume = json!({"metadata": {"name": "v"}, "spec": {"csi": {"driver": "d.example.com"}}});
    let node = json!({"metadata": {"name": "n1", "uid": "n1-uid"}});
    let objects = Objects::default()
        .with("pods", pod("here", "n1"))
        .with("pods", pod("there", "n2"))
        .with("nodes", node)
        .with("persistentvolumeclaims", claim)
        .with("persistentvolumes", volume)
        .with("csidrivers", driver("d.example.com", "of-claim"))
        .with("csidrivers", driver("inline.example.com", "of-inline"))
        .with("csidrivers", driver("unused.example.com", "unused"));
    let outcome = NodeRestriction.admit(request, &mut object.clone(), &objects);
    outcome.map_or_else(|status| status.message, |()| String::new())
}

/// The object with another value at a JSON pointer.
fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = object.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    changed.pointer_mut(parent).unwrap()[key] = value;
    changed
}

/// Checks that each request is refused with a message that contains the given text; an empty text means that the
/// request is allowed.
fn check_all(request: &AdmissionRequest<'_>, cases: &[(&str, Value)]) {
    for (expected, object) in cases {
        let why = why(request, object);
        let fits = if expected.is_empty() {
            why.is_empty()
        } else {
            why.contains(expected)
        };
        assert!(fits, "{expected:?}, but {why:?} for {object}");
    }
}

// findings S10
// findings-2 S47
#[test]
fn a_node_creates_no_pods() {
    cov_mark::check!(findings_2_s47);
    let mirror = json!({
        "metadata": {
            "name": "static-n1",
            "annotations": {MIRROR_POD: "hash"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1",
                "uid": "n1-uid", "controller": true}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    let labelled = with(&mirror, "/metadata/labels", json!({"app": "shop"}));
    let plain = with(&mirror, "/metadata/annotations", Value::Null);
    let why = "node \"n1\" is not allowed to create pods: nodes have no static pods";
    let cases = [(why, mirror), (why, labelled), (why, plain)];
    check_all(&of_node(Operation::Create, "pods"), &cases);
}

/// The creation of an eviction of a pod.
fn eviction(name: &'static str) -> AdmissionRequest<'static> {
    AdmissionRequest {
        subresource: "eviction",
        name,
        ..of_node(Operation::Create, "pods")
    }
}

#[test]
fn of_other_pods_a_node_changes_nothing() {
    let pod = |node: &str| {
        json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": node},
            "status": {"resourceClaimStatuses": [{"name": "r"}]}})
    };
    let (pod_here, other) = (pod("n1"), pod("n2"));
    for (subresource, operation, old, new, expected) in [
        ("", Operation::Delete, &pod_here, Value::Null, ""),
        (
            "",
            Operation::Delete,
            &other,
            Value::Null,
            "pods \"p\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set to \
             itself",
        ),
        (
            "",
            Operation::Update,
            &pod_here,
            pod_here.clone(),
            "node \"n1\" can only delete pods",
        ),
        ("status", Operation::Update, &pod_here, pod_here.clone(), ""),
        (
            "status",
            Operation::Update,
            &other,
            other.clone(),
            "can only update pod status for pods with spec.nodeName set to itself",
        ),
        (
            "status",
            Operation::Update,
            &pod_here,
            with(&pod_here, "/metadata/labels", json!({})),
            "cannot update labels through pod status",
        ),
        (
            "status",
            Operation::Update,
            &pod_here,
            with(&pod_here, "/status/resourceClaimStatuses", json!([])),
            "cannot update resource claim statues",
        ),
        ("eviction", Operation::Delete, &pod_here, Value::Null, ""),
        (
            "eviction",
            Operation::Delete,
            &other,
            Value::Null,
            "can only evict pods",
        ),
    ] {
        let write = AdmissionRequest {
            old: Some(old),
            subresource,
            name: "p",
            ..of_node(operation, "pods")
        };
        check_all(&write, &[(expected, new)]);
    }
    for subresource in ["ephemeralcontainers", "binding", "resize"] {
        let write = AdmissionRequest {
            old: Some(&pod_here),
            subresource,
            name: "p",
            ..of_node(Operation::Update, "pods")
        };
        let expected = format!("unexpected pod subresource \"{subresource}\"");
        check_all(&write, &[(expected.as_str(), pod_here.clone())]);
    }
    check_all(&eviction("here"), &[("", json!({}))]);
    let unbound = [("can only evict pods", json!({}))];
    check_all(&eviction("there"), &unbound);
    let absent = [("pods \"nowhere\" not found", json!({}))];
    check_all(&eviction("nowhere"), &absent);
}

fn node(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "spec": {}})
}

#[test]
fn a_node_keeps_to_its_own_node_and_does_not_steer_pods() {
    cov_mark::check!(findings_s10);
    // findings S10
    let plain = node("n1", json!({}));
    let create = of_node(Operation::Create, "nodes");
    check_all(
        &create,
        &[
            ("", with(&plain, "/spec/taints", json!([{"key": "a"}]))),
            (
                "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"",
                node("n2", json!({})),
            ),
        ],
    );
    let update = AdmissionRequest {
        old: Some(&plain),
        name: "n1",
        ..of_node(Operation::Update, "nodes")
    };
    for (key, allowed) in [
        ("a", true),
        ("example.com/a", true),
        ("notkubernetes.io/a", true),
        ("beta.kubernetes.io/arch", true),
        ("node.kubernetes.io/anything", true),
        ("a.node.kubernetes.io/anything", true),
        ("kubelet.kubernetes.io/anything", true),
        ("topology.kubernetes.io/zone", true),
        ("topology.kubernetes.io/other", false),
        ("kubernetes.io/other", false),
        ("k8s.io/a", false),
        ("a.k8s.io/a", false),
        ("node-role.kubernetes.io/control-plane", false),
        ("node-restriction.kubernetes.io/zone", false),
        ("prod.node-restriction.kubernetes.io/zone", false),
    ] {
        let labelled = node("n1", json!({ key: "x" }));
        let (set, modify) = match allowed {
            true => (String::new(), String::new()),
            false => (
                format!("node \"n1\" is not allowed to set the following labels: {key}"),
                format!("is not allowed to modify labels: {key}"),
            ),
        };
        check_all(&create, &[(set.as_str(), labelled.clone())]);
        check_all(&update, &[(modify.as_str(), labelled.clone())]);
        let removal = AdmissionRequest {
            old: Some(&labelled),
            ..update
        };
        check_all(&removal, &[(modify.as_str(), plain.clone())]);
        let keeps_labels = AdmissionRequest {
            old: Some(&labelled),
            ..update
        };
        check_all(&keeps_labels, &[("", labelled.clone())]);
    }
}

// findings-2 S37
#[test]
fn the_host_name_of_a_node_is_its_own_name() {
    cov_mark::check!(findings_2_s37);
    let plain = node("n1", json!({}));
    let create = of_node(Operation::Create, "nodes");
    let update = AdmissionRequest {
        old: Some(&plain),
        name: "n1",
        ..of_node(Operation::Update, "nodes")
    };
    let called = |host: &str| node("n1", json!({ "kubernetes.io/hostname": host }));
    let set = "is not allowed to set the following labels: kubernetes.io/hostname";
    check_all(
        &create,
        &[("", called("n1")), (set, called("n2")), (set, called(""))],
    );
    let modify = "is not allowed to modify labels: kubernetes.io/hostname";
    check_all(&update, &[("", called("n1")), (modify, called("n2"))]);
    for (old, host, expected) in [
        ("n1", "n2", modify),
        ("n2", "n1", ""),
        // A label that an administrator has set may stay.
        ("n2", "n2", ""),
    ] {
        let old = called(old);
        let change = AdmissionRequest {
            old: Some(&old),
            ..update
        };
        check_all(
            &change,
            &[(expected, called(host)), (modify, plain.clone())],
        );
    }
}

#[test]
fn a_node_does_not_change_its_finalizers_taints_and_owners() {
    let plain = node("n1", json!({}));
    let create = of_node(Operation::Create, "nodes");
    let update = AdmissionRequest {
        old: Some(&plain),
        name: "n1",
        ..of_node(Operation::Update, "nodes")
    };
    let with_finalizer = with(&plain, "/metadata/finalizers", json!(["example.com/a"]));
    let why = "node \"n1\" is not allowed to modify finalizers";
    check_all(&create, &[(why, with_finalizer.clone())]);
    check_all(&update, &[(why, with_finalizer)]);
    let owned = json!([{"kind": "ConfigMap", "name": "gone"}]);
    check_all(
        &update,
        &[
            ("", plain.clone()),
            (
                "node \"n1\" is not allowed to modify taints",
                with(&plain, "/spec/taints", json!([{"key": "a"}])),
            ),
            (
                "node \"n1\" is not allowed to modify ownerReferences",
                with(&plain, "/metadata/ownerReferences", owned),
            ),
        ],
    );
}

#[test]
fn leases_and_csi_nodes_are_the_nodes_own() {
    let lease = AdmissionRequest {
        group: "coordination.k8s.io",
        namespace: "kube-node-lease",
        ..of_node(Operation::Update, "leases")
    };
    let elsewhere = AdmissionRequest {
        namespace: "default",
        name: "n1",
        ..lease
    };
    let csi = AdmissionRequest {
        group: "storage.k8s.io",
        namespace: "",
        ..of_node(Operation::Update, "csinodes")
    };
    for (request, expected) in [
        (
            AdmissionRequest {
                name: "n1",
                ..lease
            },
            "",
        ),
        (
            AdmissionRequest {
                name: "n2",
                ..lease
            },
            "the same name",
        ),
        (
            elsewhere,
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (AdmissionRequest { name: "n1", ..csi }, ""),
        (
            AdmissionRequest { name: "n2", ..csi },
            "can only access CSINode with the same name",
        ),
    ] {
        check_all(&request, &[(expected, json!({}))]);
    }
    let created = |name: &str| json!({"metadata": {"name": name}});
    let create = AdmissionRequest {
        operation: Operation::Create,
        ..csi
    };
    check_all(
        &create,
        &[("", created("n1")), ("the same name", created("n2"))],
    );
}

#[test]
fn claims_grow_and_are_not_relabelled() {
    let claim = json!({
        "metadata": {"name": "c", "labels": {"a": "b"}, "resourceVersion": "1"},
        "spec": {"volumeName": "v"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}},
    });
    let update = |subresource| AdmissionRequest {
        old: Some(&claim),
        subresource,
        ..of_node(Operation::Update, "persistentvolumeclaims")
    };
    let grown = with(&claim, "/status/capacity", json!({"storage": "2Gi"}));
    let other = "is not allowed to update fields other than";
    let cases = [
        ("", with(&grown, "/metadata/resourceVersion", json!("2"))),
        (other, with(&grown, "/status/phase", json!("Lost"))),
        (other, with(&grown, "/metadata/labels", json!({}))),
        (other, with(&grown, "/metadata/finalizers", json!(["a/b"]))),
    ];
    check_all(&update("status"), &cases);
    let noted = with(&claim, "/metadata/annotations", json!({"a": "b"}));
    for operation in [Operation::Create, Operation::Update, Operation::Delete] {
        let write = AdmissionRequest {
            operation,
            ..update("")
        };
        check_all(&write, &[("may only update PVC status", noted.clone())]);
    }
}

#[test]
fn tokens_are_bound_to_pods_of_the_node_and_for_their_audiences() {
    let request = AdmissionRequest {
        subresource: "token",
        name: "default",
        ..of_node(Operation::Create, "serviceaccounts")
    };
    let bound = |name: &str, uid: &str, audiences: &[&str]| {
        json!({"spec": {"audiences": audiences, "boundObjectRef":
            {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}})
    };
    let good = bound("here", "u", &[]);
    let cases = [
        ("", good.clone()),
        ("", bound("here", "u", &["vault"])),
        ("", bound("here", "u", &["of-claim"])),
        ("", bound("here", "u", &["of-inline"])),
        ("not found in pod spec", bound("here", "u", &["unused"])),
        (
            "audience \"other\" not found in pod spec volume, system:node:n1 is not authorized",
            bound("here", "u", &["other"]),
        ),
        (
            "may only request 0 or 1 audiences",
            bound("here", "u", &["vault", "other"]),
        ),
        ("not bound to a pod", json!({"spec": {}})),
        (
            "not bound to a pod",
            with(&good, "/spec/boundObjectRef/kind", json!("Node")),
        ),
        (
            "not bound to a pod",
            with(&good, "/spec/boundObjectRef/apiVersion", Value::Null),
        ),
        ("without a uid", bound("here", "", &[])),
        (
            "does not match the UID in record",
            bound("here", "old", &[]),
        ),
        ("different node", bound("there", "u", &[])),
        ("pods \"nowhere\" not found", bound("nowhere", "u", &[])),
    ];
    check_all(&request, &cases);
}

#[test]
fn tokens_of_a_nodes_parts_are_bound_to_its_own_object() {
    let request = |namespace: &'static str, name: &'static str| AdmissionRequest {
        subresource: "token",
        namespace,
        name,
        ..of_node(Operation::Create, "serviceaccounts")
    };
    let good = json!({"spec": {"boundObjectRef":
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "n1-uid"}}});
    let other = |field: &str, value: Value| with(&good, &format!("/spec/{field}"), value);
    let cases = [
        ("", good.clone()),
        (
            "bound to its own Node object",
            other("boundObjectRef/name", json!("n2")),
        ),
        (
            "bound to its own Node object",
            other("boundObjectRef/apiVersion", json!("v2")),
        ),
        ("without a uid", other("boundObjectRef/uid", Value::Null)),
        (
            "does not match the UID in record",
            other("boundObjectRef/uid", json!("u")),
        ),
        (
            "not request audiences",
            other("audiences", json!(["vault"])),
        ),
        ("not bound to a pod", json!({"spec": {}})),
        (
            "not bound to a pod",
            other("boundObjectRef/kind", json!("Secret")),
        ),
    ];
    for name in ["kube-proxy", "mainstay-dns", "mainstay-provisioner"] {
        check_all(&request("kube-system", name), &cases);
    }
    for (namespace, name) in [("kube-system", "default"), ("default", "kube-proxy")] {
        check_all(
            &request(namespace, name),
            &[("not bound to a pod", good.clone())],
        );
    }
}

#[test]
fn a_nodes_certificate_names_the_node() {
    use crate::groups::certificates::tests::{JANE, NODE};
    let create = AdmissionRequest {
        group: certificates::GROUP,
        ..of_node(Operation::Create, "certificatesigningrequests")
    };
    let signing_request = |pem: &str, signer: &str| {
        let pem = k8s_openapi::ByteString(pem.as_bytes().to_vec());
        json!({"spec": {"request": pem, "signerName": signer}})
    };
    let cases = [
        ("", signing_request(NODE, signer::NODE_CLIENT)),
        ("", signing_request(JANE, "example.com/other")),
        (
            "can only create a node CSR with CN=system:node:n1",
            signing_request(JANE, signer::NODE_SERVING),
        ),
        (
            "unable to parse csr",
            signing_request("x", signer::NODE_CLIENT),
        ),
    ];
    check_all(&create, &cases);
    let other = AdmissionRequest {
        user: "system:node:n2",
        ..create
    };
    let message = "can only create a node CSR with CN=system:node:n2";
    check_all(
        &other,
        &[(message, signing_request(NODE, signer::NODE_CLIENT))],
    );
}

// findings-2 S35
#[test]
fn a_user_that_claims_to_be_a_node_has_the_name_of_one() {
    for user in ["system:node:", "system:node:VM-3", "system:node:n1 "] {
        for (operation, plural) in [
            (Operation::Create, "nodes"),
            (Operation::Update, "pods"),
            (Operation::Create, "configmaps"),
        ] {
            let write = AdmissionRequest {
                user,
                ..request(operation, plural)
            };
            let object = json!({"metadata": {"name": "n1"}});
            let expected = format!("could not determine node from user {user:?}");
            check_all(&write, &[(&expected, object)]);
        }
    }
}
