//! Claims of a pod: the volumes that are bound, chosen or awaited.

use json_tree::{Value, json};

use crate::check;

pub fn claiming(claim: &str) -> Value {
    json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]})
}

pub fn unbound(class: &str, size: &str) -> Value {
    json!({"spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}}}, "status": {"phase": "Pending"}})
}

pub fn bound(volume: &str) -> Value {
    let mut claim = unbound("local", "1Gi");
    claim["spec"]["volumeName"] = volume.into();
    claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    claim["status"]["phase"] = "Bound".into();
    claim
}

pub fn volume(size: &str, node: &str) -> Value {
    json!({"spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": size}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}},
        "status": {"phase": "Available"}})
}

pub fn classes() -> Value {
    json!({
        "local": {"provisioner": "mainstay.dev/local",
            "volumeBindingMode": "WaitForFirstConsumer"},
        "manual": {"provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer"},
        "now": {"provisioner": "k8s.io/minikube-hostpath", "volumeBindingMode": "Immediate"},
    })
}

/// statefulset.md §11.15: a claim that cannot be used is named.
#[test]
fn claims_that_cannot_serve_are_named() {
    let with = |claims: Value| json!({"nodes": {"a": {}}, "classes": classes(), "claims": claims});
    let text = "0/1 nodes are available: persistentvolumeclaim \"x\" not found.";
    check(with(json!({})), claiming("x"), text);
    let text = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    check(
        with(json!({"x": unbound("now", "1Gi")})),
        claiming("x"),
        text,
    );
    check(
        with(json!({"x": unbound("absent", "1Gi")})),
        claiming("x"),
        text,
    );
    let mut going = bound("v");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let text = "0/1 nodes are available: persistentvolumeclaim \"x\" is being deleted.";
    check(with(json!({"x": going})), claiming("x"), text);
    let mut lost = bound("v");
    lost["status"]["phase"] = "Lost".into();
    let text = "0/1 nodes are available: persistentvolumeclaim \"x\" bound to non-existent \
        persistentvolume \"v\".";
    check(with(json!({"x": lost})), claiming("x"), text);
}

/// The claim of an `ephemeral` volume must belong to the pod.
#[test]
fn somebody_elses_claim_is_not_taken_for_an_ephemeral_volume() {
    let spec = json!({"volumes": [{"name": "data", "ephemeral": {"volumeClaimTemplate":
        {"spec": {"accessModes": ["ReadWriteOnce"]}}}}]});
    let with = |owner: &str| {
        let mut claim = bound("v");
        claim["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Pod",
            "name": "web-0", "uid": owner, "controller": true}]);
        json!({"nodes": {"a": {}}, "classes": classes(), "claims": {"web-0-data": claim},
            "volumes": {"v": volume("1Gi", "a")}})
    };
    check(with("pod"), spec.clone(), "bind a");
    let text = "0/1 nodes are available: PVC default/web-0-data was not created for pod \
        default/web-0 (pod is not owner).";
    check(with("another"), spec, text);
}

/// statefulset.md §11.14: the volume decides the node of the pod.
#[test]
fn a_bound_volume_keeps_the_pod_on_its_node() {
    let objects = |volumes: Value| {
        json!({"nodes": {"a": {}, "b": {}}, "classes": classes(),
            "claims": {"x": bound("v")}, "volumes": volumes})
    };
    check(
        objects(json!({"v": volume("1Gi", "b")})),
        claiming("x"),
        "bind b",
    );
    let text = "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.";
    check(
        objects(json!({"v": volume("1Gi", "c")})),
        claiming("x"),
        text,
    );
    let text = "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound \
        to non-existent pv(s).";
    check(objects(json!({})), claiming("x"), text);
}

/// A volume is on no node while it moves (docs/storage.md).
#[test]
fn a_pod_waits_while_its_volume_moves() {
    let in_stage = |stage: &str| {
        let mut volume = volume("1Gi", "b");
        let record = json!({"id": "a1", "from": "b", "to": "a", "stage": stage}).to_string();
        volume["metadata"]["annotations"] = json!({"node.mainstay.dev/volume-move": record});
        json!({"nodes": {"a": {}, "b": {}}, "classes": classes(),
            "claims": {"x": bound("v")}, "volumes": {"v": volume}})
    };
    let text = "0/2 nodes are available: the volume of persistentvolumeclaim \"x\" is being moved \
        from node \"b\" to node \"a\".";
    for stage in ["Requested", "Stopping", "Copying", "Arrived"] {
        check(in_stage(stage), claiming("x"), text);
    }
    for stage in ["Placed", "Moved", "Abandoned", "Failed"] {
        check(in_stage(stage), claiming("x"), "bind b");
    }
}

/// statefulset.md §11.3, 11.6: waiting claims are bound to volumes of the node or provisioned there.
#[test]
fn waiting_claims_take_volumes_of_the_node_or_have_them_made() {
    let objects = |claims: Value, volumes: Value| {
        json!({"nodes": {"a": {}, "b": {}}, "classes": classes(), "claims": claims,
            "volumes": volumes})
    };
    let one = json!({"x": unbound("local", "2Gi")});
    check(
        objects(one.clone(), json!({})),
        claiming("x"),
        "prepare a x=new",
    );
    let mut only_b = claiming("x");
    only_b["nodeSelector"] = json!({"kubernetes.io/hostname": "b"});
    let there = json!({"big": volume("9Gi", "b"), "fit": volume("2Gi", "b"),
        "small": volume("1Gi", "b"), "far": volume("2Gi", "a")});
    check(
        objects(one.clone(), there),
        only_b.clone(),
        "prepare b x=fit",
    );
    let mut selected = one.clone();
    selected["x"]["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "b"});
    check(
        objects(selected.clone(), json!({})),
        claiming("x"),
        "prepare b",
    );
    selected["x"]["metadata"]["annotations"] =
        json!({"volume.kubernetes.io/selected-node": "gone"});
    check(
        objects(selected, json!({})),
        claiming("x"),
        "prepare a x=new",
    );
    let manual = json!({"x": unbound("manual", "1Gi")});
    let text = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to \
        bind.";
    check(objects(manual, json!({})), claiming("x"), text);
}

/// The pod waits until the claim's status is `Bound`, because the node reads the status.
#[test]
fn a_claim_is_waited_for_until_its_status_says_that_it_is_bound() {
    let objects = |phase: &str| {
        let mut claim = bound("v");
        claim["status"]["phase"] = phase.into();
        json!({"nodes": {"a": {}}, "classes": classes(), "claims": {"x": claim},
            "volumes": {"v": volume("1Gi", "a")}})
    };
    check(objects("Pending"), claiming("x"), "prepare a");
    check(objects("Bound"), claiming("x"), "bind a");
}

#[test]
fn two_claims_of_a_pod_take_two_volumes() {
    let spec = json!({"volumes": [
        {"name": "a", "persistentVolumeClaim": {"claimName": "large"}},
        {"name": "b", "persistentVolumeClaim": {"claimName": "little"}}]});
    let claims = json!({"large": unbound("local", "5Gi"), "little": unbound("local", "1Gi")});
    let objects = json!({"nodes": {"a": {}}, "classes": classes(), "claims": claims,
        "volumes": {"v5": volume("5Gi", "a"), "v6": volume("6Gi", "a")}});
    check(objects, spec, "prepare a little=v5 large=v6");
}

/// statefulset.md §11.11: only one pod uses a ReadWriteOncePod claim.
#[test]
fn an_exclusive_claim_is_used_by_one_pod() {
    let mut claim = bound("v");
    claim["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    let mut there = claiming("x");
    there["nodeName"] = "a".into();
    there["containers"] = json!([{"name": "a"}]);
    let objects = json!({"nodes": {"a": {}}, "classes": classes(), "claims": {"x": claim},
        "volumes": {"v": volume("1Gi", "a")}, "pods": {"other": {"spec": there}}});
    let text = "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the \
        same name and ReadWriteOncePod access mode.";
    check(objects, claiming("x"), text);
}
