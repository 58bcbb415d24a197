//! Tests of the plug-in: each write of a provisioner, and the messages of refusals.

use std::sync::Arc;

use json_tree::json;

use super::super::testing::{Objects, request};
use super::*;

/// A cluster, and the node in the token of the provisioner; without a node, the provisioner of the server's process.
struct Asked(Objects, Option<&'static str>);

impl ObjectReader for Asked {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.get(group, plural, namespace, name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
        self.0.list(group, plural, namespace)
    }

    fn requester(&self) -> Value {
        match self.1 {
            Some(node) => json!({"extra": {NODE_NAME_EXTRA: [node]}}),
            None => json!({}),
        }
    }
}

/// The volume of a claim, as the provisioner of a node creates it.
fn volume(claim: &str, node: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("pvc-{claim}"),
            "annotations": {PROVISIONED_BY: "mainstay.dev/local"},
            "finalizers": [REMOVAL_FINALIZER],
        },
        "spec": {
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": "d", "name": claim, "uid": claim},
            "local": {"path": "/v"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME, "operator": "In", "values": [node]}]}]}},
        },
    })
}

/// A claim that the scheduler has assigned to a node; without a node, the claim waits.
fn claim(name: &str, class: &str, node: Option<&str>, bound_to: &str) -> Value {
    let mut claim = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name,
            "annotations": {STORAGE_PROVISIONER: "mainstay.dev/local"}},
        "spec": {"storageClassName": class, "volumeName": bound_to},
    });
    if let Some(node) = node {
        claim["metadata"]["annotations"][SELECTED_NODE] = node.into();
    }
    claim
}

fn cluster() -> Objects {
    let class = |name: &str, mode: &str| {
        json!({"metadata": {"name": name}, "provisioner": "mainstay.dev/local",
            "volumeBindingMode": mode})
    };
    let mut files = class("files-late", "WaitForFirstConsumer");
    files["provisioner"] = json!("mainstay.dev/nfs");
    Objects::default()
        .with("storageclasses", files)
        .with("storageclasses", class("late", "WaitForFirstConsumer"))
        .with("storageclasses", class("now", "Immediate"))
        .with(
            "persistentvolumeclaims",
            claim("here", "late", Some("n1"), ""),
        )
        .with(
            "persistentvolumeclaims",
            claim("there", "late", Some("n2"), ""),
        )
        .with("persistentvolumeclaims", claim("waits", "late", None, ""))
        .with("persistentvolumeclaims", claim("anywhere", "now", None, ""))
        .with(
            "persistentvolumeclaims",
            claim("bound", "late", Some("n1"), "pvc-x"),
        )
        .with("persistentvolumes", volume("mine", "n1"))
        .with("persistentvolumes", volume("theirs", "n2"))
}

fn why_from(node: Option<&'static str>, request: &AdmissionRequest<'_>, object: &Value) -> String {
    let cluster = Asked(cluster(), node);
    let outcome = ProvisionerRestriction.admit(request, &mut object.clone(), &cluster);
    outcome.map_or_else(|status| status.message, |()| String::new())
}

fn asks(
    operation: Operation,
    plural: &'static str,
    part: &'static str,
) -> AdmissionRequest<'static> {
    AdmissionRequest {
        user: NodeAccount::Provisioner.user(),
        subresource: part,
        name: "x",
        ..request(operation, plural)
    }
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
        let why = why_from(Some("n1"), request, object);
        let fits = match expected.is_empty() {
            true => why.is_empty(),
            false => why.contains(expected),
        };
        assert!(fits, "{expected:?}, but {why:?} for {object}");
    }
}

const FORM: &str = "may write local volumes only, with a node affinity to";

#[test]
fn a_volume_is_made_on_the_node_for_a_claim_that_wants_it_there() {
    let good = volume("here", "n1");
    let terms = "/spec/nodeAffinity/required/nodeSelectorTerms";
    let expression = format!("{terms}/0/matchExpressions/0");
    let two = json!([
        good.pointer(terms).unwrap()[0],
        good.pointer(terms).unwrap()[0]
    ]);
    let cases = [
        ("", good.clone()),
        ("", volume("anywhere", "n1")),
        (FORM, volume("here", "n2")),
        (FORM, with(&good, "/spec/nodeAffinity", Value::Null)),
        (FORM, with(&good, terms, two)),
        (
            FORM,
            with(&good, &format!("{expression}/operator"), json!("NotIn")),
        ),
        (
            FORM,
            with(&good, &format!("{expression}/key"), json!("zone")),
        ),
        (
            FORM,
            with(&good, &format!("{expression}/values"), json!(["n1", "n2"])),
        ),
        (
            FORM,
            with(
                &good,
                &format!("{terms}/0/matchFields"),
                json!([{"key": "metadata.name"}]),
            ),
        ),
        (FORM, with(&good, "/spec/local", Value::Null)),
        (FORM, with(&good, "/metadata/annotations", json!({}))),
        (
            FORM,
            with(
                &good,
                "/metadata/annotations",
                json!({PROVISIONED_BY: "example.com/x"}),
            ),
        ),
        (
            "there is no claim",
            with(&good, "/spec/claimRef", Value::Null),
        ),
        (
            "there is no claim",
            with(&good, "/spec/claimRef/uid", json!("old")),
        ),
        ("there is no claim", volume("nowhere", "n1")),
        (
            "has the name pvc-here",
            with(&good, "/metadata/name", json!("pvc-there")),
        ),
        ("is not for a volume on node \"n1\"", volume("there", "n1")),
        ("is not for a volume on node \"n1\"", volume("waits", "n1")),
        ("is not for a volume on node \"n1\"", volume("bound", "n1")),
    ];
    check_all(&asks(Operation::Create, "persistentvolumes", ""), &cases);
}

#[test]
fn a_volume_of_the_node_grows_fails_and_goes() {
    let old = volume("here", "n1");
    let write = |part| AdmissionRequest {
        old: Some(&old),
        ..asks(Operation::Update, "persistentvolumes", part)
    };
    let fields = "may not change other fields than metadata.finalizers, spec.capacity.storage";
    let cases = [
        ("", with(&old, "/spec/capacity/storage", json!("2Gi"))),
        ("", with(&old, "/metadata/finalizers", json!([]))),
        ("", with(&old, "/metadata/resourceVersion", json!("7"))),
        (
            "no other finalizer",
            with(&old, "/metadata/finalizers", json!(["a/b"])),
        ),
        (FORM, volume("here", "n2")),
        (fields, with(&old, "/spec/local/path", json!("/"))),
        (fields, with(&old, "/spec/claimRef/name", json!("there"))),
        (fields, with(&old, "/metadata/labels", json!({"a": "b"}))),
    ];
    check_all(&write(""), &cases);
    let phase = |phase: &str| with(&old, "/status", json!({"phase": phase}));
    let cases = [
        ("", phase("Failed")),
        ("no other phase than Failed", phase("Available")),
        (
            "other fields than status",
            with(&phase("Failed"), "/spec/local/path", json!("/")),
        ),
    ];
    check_all(&write("status"), &cases);
    let theirs = volume("there", "n2");
    for (old, expected) in [(&old, ""), (&theirs, FORM)] {
        let delete = AdmissionRequest {
            operation: Operation::Delete,
            old: Some(old),
            ..write("")
        };
        check_all(&delete, &[(expected, Value::Null)]);
    }
    for part in ["", "status"] {
        let of_other = AdmissionRequest {
            old: Some(&theirs),
            ..write(part)
        };
        check_all(
            &of_other,
            &[(FORM, volume("there", "n1")), (FORM, theirs.clone())],
        );
    }
}

#[test]
fn a_claim_of_the_node_is_sent_elsewhere_and_nothing_more() {
    let selected = |old: &Value, node: Value| {
        let mut sent = old.clone();
        match node {
            Value::Null => {
                let annotations = sent["metadata"]["annotations"].as_object_mut().unwrap();
                annotations.shift_remove(SELECTED_NODE);
            }
            node => sent["metadata"]["annotations"][SELECTED_NODE] = node,
        }
        sent
    };
    let not_here = "not for a volume on node \"n1\"";
    for (old, expected) in [
        (claim("here", "late", Some("n1"), ""), ""),
        (claim("anywhere", "now", None, ""), ""),
        (claim("there", "late", Some("n2"), ""), not_here),
        (claim("waits", "late", None, ""), not_here),
        (claim("bound", "late", Some("n1"), "pvc-mine"), not_here),
    ] {
        let write = AdmissionRequest {
            old: Some(&old),
            ..asks(Operation::Update, "persistentvolumeclaims", "")
        };
        let other = match expected {
            "" => "other fields than metadata.annotations.volume.kubernetes.io/selected-node",
            not_here => not_here,
        };
        let named = with(&old, "/spec/volumeName", json!("pvc-mine"));
        let cases = [
            (expected, selected(&old, Value::Null)),
            (expected, selected(&old, json!("n2"))),
            (other, named),
            (other, with(&old, "/metadata/labels", json!({"a": "b"}))),
            (other, with(&old, "/metadata/annotations/a", json!("b"))),
        ];
        check_all(&write, &cases);
    }
}

#[test]
fn the_status_of_a_claim_follows_a_volume_of_the_node() {
    for (name, bound_to, expected) in [
        ("mine", "pvc-mine", ""),
        ("other", "pvc-mine", "not bound to a volume of node"),
        ("theirs", "pvc-theirs", "not bound to a volume of node"),
        ("mine", "", "not bound to a volume of node"),
    ] {
        let old = claim(name, "late", None, bound_to);
        let write = AdmissionRequest {
            old: Some(&old),
            ..asks(Operation::Update, "persistentvolumeclaims", "status")
        };
        let grown = json!({"capacity": {"storage": "2Gi"}, "conditions": []});
        check_all(&write, &[(expected, with(&old, "/status", grown))]);
        if expected.is_empty() {
            let lost = with(&old, "/status", json!({"phase": "Lost"}));
            check_all(&write, &[("other fields than status.allocated", lost)]);
        }
    }
}

/// Before its volume is bound, the provisioner may only write conditions of a claim for a directory of an NFS export.
#[test]
fn a_claim_for_a_directory_gets_conditions() {
    for (class, selected, expected) in [
        ("files-late", Some("n1"), ""),
        ("files-late", Some("n2"), "not bound to a volume of node"),
        ("files-late", None, "not bound to a volume of node"),
        ("late", Some("n1"), "not bound to a volume of node"),
    ] {
        let old = claim("new", class, selected, "");
        let write = AdmissionRequest {
            old: Some(&old),
            ..asks(Operation::Update, "persistentvolumeclaims", "status")
        };
        let with_conditions = with(&old, "/status", json!({"conditions": []}));
        check_all(&write, &[(expected, with_conditions)]);
        if expected.is_empty() {
            let grown = with(&old, "/status", json!({"capacity": {"storage": "9Gi"}}));
            check_all(&write, &[("other fields than status.conditions", grown)]);
        }
    }
}

#[test]
fn the_snapshots_of_the_node_are_its_own() {
    let content = |source: Value, handle: Option<&str>| {
        json!({"metadata": {"name": "x", "finalizers": ["a/b"]},
            "spec": {"driver": "mainstay.dev/local-cow", "source": source},
            "status": {"snapshotHandle": handle}})
    };
    let of = |volume: &str| json!({"volumeHandle": volume});
    let mut going = content(of("pvc-gone"), None);
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let foreign = with(
        &content(of("pvc-mine"), None),
        "/spec/driver",
        json!("example.com/x"),
    );
    let elsewhere = "the snapshot is not on node \"n1\"";
    for (old, finalizers, status) in [
        (content(of("pvc-mine"), None), "", ""),
        (content(of("pvc-gone"), Some("n1/s")), "", ""),
        (content(json!({"snapshotHandle": "n1/s"}), None), "", ""),
        (content(of("pvc-theirs"), None), elsewhere, elsewhere),
        (content(of("pvc-mine"), Some("n2/s")), elsewhere, elsewhere),
        (content(of("pvc-gone"), None), elsewhere, elsewhere),
        (going, "", elsewhere),
        (foreign, elsewhere, elsewhere),
    ] {
        let write = |part| AdmissionRequest {
            group: snapshot::GROUP,
            old: Some(&old),
            ..asks(Operation::Update, "volumesnapshotcontents", part)
        };
        let with_finalizer = with(
            &old,
            "/metadata/finalizers",
            json!(["a/b", CONTENT_PROTECTION]),
        );
        check_all(&write(""), &[(finalizers, with_finalizer)]);
        let ready = json!({"readyToUse": true, "snapshotHandle": "n1/s"});
        check_all(&write("status"), &[(status, with(&old, "/status", ready))]);
        if status.is_empty() {
            let stolen = json!({"snapshotHandle": "n2/s"});
            let cases = [
                ("begins with \"n1\"", with(&old, "/status", stolen)),
                (
                    "other fields than status",
                    with(&old, "/spec/source", json!({})),
                ),
            ];
            check_all(&write("status"), &cases);
            let cases = [
                (
                    "no other finalizer",
                    with(&old, "/metadata/finalizers", json!([])),
                ),
                (
                    "other fields than metadata.finalizers",
                    with(&old, "/spec/driver", json!("mainstay.dev/local")),
                ),
            ];
            check_all(&write(""), &cases);
        }
    }
}

#[test]
fn other_kinds_and_verbs_are_not_for_a_provisioner() {
    let theirs = volume("there", "n2");
    let claims = "persistentvolumeclaims";
    for (operation, plural, part) in [
        (Operation::Create, "pods", ""),
        (Operation::Update, "nodes", ""),
        (Operation::Create, claims, ""),
        (Operation::Delete, claims, ""),
        (Operation::Create, "serviceaccounts", "token"),
    ] {
        let write = AdmissionRequest {
            old: Some(&theirs),
            ..asks(operation, plural, part)
        };
        check_all(
            &write,
            &[("does not write resources of this type", json!({}))],
        );
    }
    let event = asks(Operation::Create, "events", "");
    check_all(&event, &[("", json!({}))]);
}

#[test]
fn the_provisioner_of_the_servers_process_and_other_users_are_not_restricted() {
    let write = asks(Operation::Create, "persistentvolumes", "");
    let object = volume("there", "n2");
    assert_ne!(why_from(Some("n1"), &write, &object), "");
    assert_eq!(why_from(None, &write, &object), "");
    let other = AdmissionRequest {
        user: NodeAccount::Dns.user(),
        ..write
    };
    assert_eq!(why_from(Some("n1"), &other, &object), "");
}

/// A directory of an NFS export, for a claim of a class.
fn directory(claim: &str, class: &str, path: &str) -> Value {
    json!({
        "metadata": {"name": format!("pvc-{claim}"), "finalizers": [REMOVAL_FINALIZER],
            "annotations": {PROVISIONED_BY: "mainstay.dev/nfs"}},
        "spec": {"capacity": {"storage": "1Gi"}, "storageClassName": class,
            "nfs": {"server": "files", "path": path},
            "claimRef": {"namespace": "d", "name": claim, "uid": claim}},
    })
}

#[test]
fn directories_of_an_export_are_made_for_its_class_and_removed_when_they_are_left() {
    let class = |name: &str, server: &str| {
        json!({"metadata": {"name": name}, "provisioner": "mainstay.dev/nfs",
            "volumeBindingMode": "Immediate",
            "parameters": {"server": server, "path": "/srv"}})
    };
    let mut shared = claim("shared", "nfs", None, "");
    shared["metadata"]["annotations"][STORAGE_PROVISIONER] = json!("mainstay.dev/nfs");
    let cluster = || {
        Objects::default()
            .with("storageclasses", class("nfs", "files"))
            .with("storageclasses", class("other", "elsewhere"))
            .with("persistentvolumeclaims", shared.clone())
    };
    let may = |operation, old: Option<&Value>, object: &Value| {
        let request = AdmissionRequest {
            old,
            ..asks(operation, "persistentvolumes", "")
        };
        let cluster = Asked(cluster(), Some("n1"));
        let outcome = ProvisionerRestriction.admit(&request, &mut object.clone(), &cluster);
        outcome.is_ok()
    };
    let directory_volume = directory("shared", "nfs", "/srv/d-shared");
    assert!(may(Operation::Create, None, &directory_volume));
    for (class, path) in [
        ("nfs", "/etc"),
        ("nfs", "/srv/../etc"),
        ("other", "/srv/d-shared"),
    ] {
        let volume = directory("shared", class, path);
        assert!(!may(Operation::Create, None, &volume), "{class} {path}");
    }
    let phase = |phase: &str| with(&directory_volume, "/status", json!({"phase": phase}));
    for (now, expected) in [("Bound", false), ("Released", true), ("Failed", true)] {
        let volume = phase(now);
        assert_eq!(
            may(Operation::Delete, Some(&volume), &Value::Null),
            expected,
            "{now}"
        );
    }
}
