//! The rights of a node, for each kind and verb, compared with a simple model of Kubernetes' table.
//!
//! The table is in "Using Node Authorization" (<https://kubernetes.io/docs/reference/access-authn-authz/node/>); the
//! model decides for each request whether the node `n1` may make it. Each request is sent as an access review, so
//! nothing is written.

use json_tree::{Value, json};

use crate::harness::Api;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// The owner of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// A pod of the node needs the object, or it belongs to the node.
    Own,
    /// A mirror pod refers to the object; the node could have created this pod itself.
    Mirrored,
    /// A pod of another node needs the object, or it belongs to the other node.
    Theirs,
    /// No pod needs the object.
    Nobodys,
    /// The whole collection.
    All,
}

const WHOSE: [Whose; 5] = [
    Whose::Own,
    Whose::Mirrored,
    Whose::Theirs,
    Whose::Nobodys,
    Whose::All,
];

const VERBS: [&str; 8] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];

/// The restriction of a kind in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    /// These verbs on objects that pods of the node need.
    Related(&'static [&'static str]),
    /// These verbs on the object with the node's name; `create` on any object.
    OfItsName(&'static [&'static str]),
    /// These verbs on any object.
    Any(&'static [&'static str]),
    None,
}

const READ: &[&str] = &["get", "list", "watch"];
const UPDATE: &[&str] = &["update", "patch"];
const OWNED: &[&str] = &["get", "create", "update", "patch", "delete"];

/// Group, resource, subresource, whether it is namespaced, and the restriction in the table.
const TABLE: &[(&str, &str, &str, bool, Bound)] = &[
    ("", "secrets", "", true, Bound::Related(READ)),
    ("", "configmaps", "", true, Bound::Related(READ)),
    (
        "",
        "persistentvolumeclaims",
        "",
        true,
        Bound::Related(&["get"]),
    ),
    (
        "",
        "persistentvolumeclaims",
        "status",
        true,
        Bound::Related(UPDATE),
    ),
    ("", "persistentvolumes", "", false, Bound::Related(&["get"])),
    ("", "persistentvolumes", "status", false, Bound::None),
    ("", "serviceaccounts", "", true, Bound::Related(&["get"])),
    (
        "",
        "serviceaccounts",
        "token",
        true,
        Bound::Related(&["create"]),
    ),
    ("", "pods", "status", true, Bound::Any(UPDATE)),
    ("", "pods", "eviction", true, Bound::Any(&["create"])),
    ("", "pods", "binding", true, Bound::None),
    ("", "pods", "exec", true, Bound::None),
    ("", "pods", "ephemeralcontainers", true, Bound::None),
    ("", "pods", "resize", true, Bound::None),
    ("", "nodes", "status", false, Bound::Any(UPDATE)),
    ("", "nodes", "proxy", false, Bound::None),
    ("", "services", "", true, Bound::Any(READ)),
    ("", "endpoints", "", true, Bound::Any(&["get"])),
    (
        "",
        "events",
        "",
        true,
        Bound::Any(&["create", "update", "patch"]),
    ),
    ("", "namespaces", "", false, Bound::None),
    ("apps", "statefulsets", "", true, Bound::None),
    (
        "authentication.k8s.io",
        "tokenreviews",
        "",
        false,
        Bound::Any(&["create"]),
    ),
    (
        "authorization.k8s.io",
        "subjectaccessreviews",
        "",
        false,
        Bound::Any(&["create"]),
    ),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        "",
        false,
        Bound::Any(&["create", "get", "list", "watch"]),
    ),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        "approval",
        false,
        Bound::None,
    ),
    (
        "coordination.k8s.io",
        "leases",
        "",
        true,
        Bound::OfItsName(OWNED),
    ),
    ("node.k8s.io", "runtimeclasses", "", false, Bound::Any(READ)),
    (
        "rbac.authorization.k8s.io",
        "clusterroles",
        "",
        false,
        Bound::None,
    ),
    (
        "resource.k8s.io",
        "resourceclaims",
        "",
        true,
        Bound::Related(&["get"]),
    ),
    (
        "resource.k8s.io",
        "resourceclaims",
        "status",
        true,
        Bound::None,
    ),
    (
        "resource.k8s.io",
        "resourceclaimtemplates",
        "",
        true,
        Bound::None,
    ),
    ("resource.k8s.io", "deviceclasses", "", false, Bound::None),
    (
        "resource.k8s.io",
        "resourceslices",
        "",
        false,
        Bound::OfItsName(OWNED),
    ),
    (
        "snapshot.storage.k8s.io",
        "volumesnapshotcontents",
        "",
        false,
        Bound::None,
    ),
    ("storage.k8s.io", "csidrivers", "", false, Bound::Any(READ)),
    (
        "storage.k8s.io",
        "csinodes",
        "",
        false,
        Bound::OfItsName(OWNED),
    ),
    ("storage.k8s.io", "storageclasses", "", false, Bound::None),
    (
        "storage.k8s.io",
        "volumeattachments",
        "",
        false,
        Bound::Related(&["get"]),
    ),
    // These two resources have their own rules below.
    ("", "pods", "", true, Bound::None),
    ("", "nodes", "", false, Bound::None),
];

fn expected(bound: Bound, resource: &str, part: &str, verb: &str, whose: Whose) -> bool {
    match (resource, part) {
        // A mirror pod of the node belongs to the node.
        ("pods", "") => match verb {
            "get" | "list" | "watch" => matches!(whose, Whose::Own | Whose::Mirrored),
            _ => matches!(verb, "create" | "delete"),
        },
        ("nodes", "") => match verb {
            "get" | "list" | "watch" => whose == Whose::Own,
            _ => matches!(verb, "create" | "update" | "patch"),
        },
        _ => match bound {
            Bound::Related(verbs) => verbs.contains(&verb) && whose == Whose::Own,
            Bound::OfItsName(verbs) => {
                verbs.contains(&verb) && (whose == Whose::Own || verb == "create")
            }
            Bound::Any(verbs) => verbs.contains(&verb),
            Bound::None => false,
        },
    }
}

/// The name of an object of this kind with this owner.
fn name(resource: &str, whose: Whose) -> &'static str {
    let of_nodes = matches!(resource, "nodes" | "leases" | "csinodes");
    match whose {
        Whose::Own if of_nodes => "n1",
        Whose::Theirs if of_nodes => "n2",
        Whose::Own => "own",
        Whose::Theirs => "theirs",
        Whose::Mirrored => "mirrored",
        Whose::Nobodys => "nobodys",
        Whose::All => "",
    }
}

/// A pod that uses objects with its own name.
fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "serviceAccountName": name,
            "resourceClaims": [{"name": "devices", "resourceClaimName": name}],
            "containers": [{
                "name": "c", "image": "i",
                "envFrom": [{"configMapRef": {"name": name}}, {"secretRef": {"name": name}}],
            }],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": name}},
                {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}}}},
            ],
        },
    })
}

/// A cluster with a pod on `n1`, a pod on `n2` and a mirror pod on `n1`, and the objects that they use.
async fn cluster() -> Api {
    let api = Api::new().await;
    let home = "/api/v1/namespaces/default";
    for name in ["own", "mirrored", "theirs", "nobodys"] {
        let account = json!({"metadata": {"name": name}});
        api.create(&format!("{home}/serviceaccounts"), account)
            .await;
        let volume = json!({"metadata": {"name": name}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/x"},
            "claimRef": {"namespace": "default", "name": name}}});
        api.create("/api/v1/persistentvolumes", volume).await;
        let node = if name == "own" { "n1" } else { "n2" };
        let attachment = json!({"metadata": {"name": name}, "spec": {
            "attacher": "example.com", "nodeName": node,
            "source": {"persistentVolumeName": name}}});
        let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
        api.create(attachments, attachment).await;
        let slice = json!({"metadata": {"name": name}, "spec": {"driver": "d", "nodeName": node,
            "pool": {"name": name, "generation": 0, "resourceSliceCount": 1}}});
        api.create("/apis/resource.k8s.io/v1/resourceslices", slice)
            .await;
    }
    for (name, node) in [("own", "n1"), ("mirrored", "n1"), ("theirs", "n2")] {
        let mut pod = pod(name, node);
        if name == "mirrored" {
            pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        }
        api.create(&format!("{home}/pods"), pod).await;
    }
    api
}

async fn allowed(api: &Api, attributes: Value) -> bool {
    let review = json!({"spec": {"user": "system:node:n1", "groups": ["system:nodes",
        "system:authenticated"], "resourceAttributes": attributes}});
    api.create(REVIEWS, review).await["status"]["allowed"] == true
}

/// findings S10
#[tokio::test]
async fn a_node_may_what_the_table_says_and_nothing_else() {
    let api = cluster().await;
    let (mut wrong, mut yes) = (Vec::new(), 0);
    for (group, resource, part, namespaced, bound) in TABLE {
        let namespace = match (*namespaced, *resource) {
            (false, _) => "",
            (true, "leases") => "kube-node-lease",
            (true, _) => "default",
        };
        for verb in VERBS {
            for whose in WHOSE {
                let name = name(resource, whose);
                let attributes = json!({"verb": verb, "group": group, "resource": resource,
                    "subresource": part, "namespace": namespace, "name": name});
                let is_allowed = allowed(&api, attributes).await;
                let mut expected = expected(*bound, resource, part, verb, whose);
                // A token is created for one account.
                expected &= !(*part == "token" && whose == Whose::All);
                yes += usize::from(expected);
                if is_allowed != expected {
                    wrong.push(format!("{verb} {resource}/{part} {whose:?}: {is_allowed}"));
                }
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert!(yes > 100, "{yes}");
}

/// findings S10: objects of a mirror pod, in another namespace, or of a generic ephemeral volume.
#[tokio::test]
async fn relations_hold_in_one_namespace_and_for_claims_of_the_pods_own() {
    let api = cluster().await;
    let of = |resource: &str, namespace: &str, name: &str| json!({"verb": "get", "resource": resource, "namespace": namespace, "name": name});
    for (attributes, expected) in [
        (of("secrets", "default", "own"), true),
        (of("secrets", "kube-system", "own"), false),
        (of("secrets", "", "own"), false),
        (of("persistentvolumeclaims", "default", "own-scratch"), true),
        (
            of("persistentvolumeclaims", "default", "theirs-scratch"),
            false,
        ),
        (of("persistentvolumeclaims", "kube-system", "own"), false),
        (of("persistentvolumeclaims", "", "own"), false),
        (of("serviceaccounts", "", "own"), false),
        (of("pods", "", "own"), false),
    ] {
        assert_eq!(
            allowed(&api, attributes.clone()).await,
            expected,
            "{attributes}"
        );
    }
    for (node, expected) in [("n1", true), ("n2", false)] {
        let fields = json!({"requirements": [
            {"key": "spec.nodeName", "operator": "In", "values": [node]}]});
        let list = json!({"verb": "list", "resource": "pods", "fieldSelector": fields});
        assert_eq!(allowed(&api, list).await, expected, "{node}");
        let slices = json!({"verb": "deletecollection", "group": "resource.k8s.io",
            "resource": "resourceslices", "fieldSelector": fields});
        assert_eq!(allowed(&api, slices).await, expected, "{node}");
    }
}

/// findings S10: the table is exhaustive, so no role gives a node access to another kind.
#[tokio::test]
async fn no_role_gives_a_node_more() {
    let api = cluster().await;
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let all = json!({"metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "name": "system:nodes",
            "apiGroup": "rbac.authorization.k8s.io"}]});
    api.create(bindings, all).await;
    // The test waits until the binding is in force.
    let delete = json!({"verb": "delete", "resource": "events", "namespace": "default",
        "name": "x"});
    while !allowed(&api, delete.clone()).await {
        tokio::task::yield_now().await;
    }
    for (group, resource) in [
        ("", "secrets"),
        ("", "persistentvolumes"),
        ("apps", "statefulsets"),
        ("rbac.authorization.k8s.io", "clusterroles"),
        ("snapshot.storage.k8s.io", "volumesnapshotcontents"),
        ("example.com", "farms"),
    ] {
        for verb in VERBS {
            let attributes = json!({"verb": verb, "group": group, "resource": resource});
            assert!(!allowed(&api, attributes).await, "{verb} {resource}");
        }
    }
}
