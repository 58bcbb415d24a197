//! The number of a driver's volumes on a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use json_tree::{Value, json};
use pod_placement::{ClusterView, PlacementDecision, place};
use proptest::prelude::*;
use resource_kinds::pod_view::PodView;

use super::claims::{bound, claiming, classes, unbound};
use super::{check, pod, view};

const FULL: &str = "0/1 nodes are available: 1 node(s) exceed max volume count.";

/// A node with a driver that has this limit of volumes.
fn csi_node(count: Option<u8>) -> Value {
    let allocatable = count.map(|count| json!({"count": count}));
    json!({"spec": {"drivers": [
        {"name": "disks", "nodeID": "a", "topologyKeys": null, "allocatable": allocatable},
        {"name": "other", "nodeID": "a", "topologyKeys": null, "allocatable": {"count": 1}}]}})
}

fn csi_volume(driver: &str, handle: &str) -> Value {
    json!({"spec": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"},
        "csi": {"driver": driver, "volumeHandle": handle}}, "status": {"phase": "Bound"}})
}

fn with_claims(node: &str, names: &[&str]) -> Value {
    let volume = |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
    let volumes: Vec<Value> = names.iter().map(volume).collect();
    json!({"spec": {"nodeName": node, "containers": [{"name": "a"}], "volumes": volumes}})
}

/// A node with a pod with the claims `p` and `q`, and a driver with this limit of volumes.
fn cluster(count: Option<u8>) -> Value {
    let mut classes = classes();
    classes["disks"] = json!({"provisioner": "disks", "volumeBindingMode": "WaitForFirstConsumer"});
    json!({
        "nodes": {"a": {}}, "classes": classes, "csinodes": {"a": csi_node(count)},
        "claims": {"p": bound("v1"), "q": bound("v2"), "r": bound("v3"), "same": bound("w1"),
            "new": unbound("disks", "1Gi"), "of-other": bound("o1")},
        "volumes": {"v1": csi_volume("disks", "1"), "v2": csi_volume("disks", "2"),
            "v3": csi_volume("disks", "3"), "w1": csi_volume("disks", "1"),
            "o1": csi_volume("other", "1")},
        "pods": {"there": with_claims("a", &["p", "q"])},
    })
}

#[test]
fn a_node_takes_as_many_volumes_as_its_driver() {
    check(cluster(Some(2)), claiming("r"), FULL);
    check(cluster(Some(2)), claiming("new"), FULL);
    check(cluster(Some(3)), claiming("r"), "bind a");
    check(cluster(Some(3)), claiming("new"), "prepare a new=new");
    // Without a limit, or without the driver's CSINode, volumes are not counted.
    check(cluster(None), claiming("r"), "bind a");
    let mut objects = cluster(Some(2));
    objects["csinodes"] = json!({});
    check(objects, claiming("r"), "bind a");
}

#[test]
fn a_volume_counts_once() {
    // A volume that is already on the node, by the pod's claim or by another PersistentVolume with its handle, is not
    // counted again.
    check(cluster(Some(2)), claiming("p"), "bind a");
    check(cluster(Some(2)), claiming("same"), "bind a");
    // The pod is bound also if the node already has more volumes than the limit.
    check(cluster(Some(1)), claiming("p"), "bind a");
    // The limits of drivers are independent.
    check(cluster(Some(2)), claiming("of-other"), "bind a");
    // Two waiting pods with one claim.
    let mut objects = cluster(Some(3));
    objects["pods"]["next"] = with_claims("a", &["new"]);
    check(objects.clone(), claiming("new"), "prepare a new=new");
    check(objects, claiming("r"), FULL);
}

#[test]
fn an_attachment_counts_without_a_pod() {
    let attachment = |volume: &str| {
        json!({"spec": {"attacher": "disks", "nodeName": "a",
            "source": {"persistentVolumeName": volume}}})
    };
    let with = |count: u8, volume: &str| {
        let mut objects = cluster(Some(count));
        objects["attachments"] = json!({"x": attachment(volume)});
        objects
    };
    check(with(3, "v1"), claiming("r"), "bind a");
    check(with(3, "v3"), claiming("new"), FULL);
    check(with(4, "v3"), claiming("new"), "prepare a new=new");
    // The pod's own volume is attached already.
    check(with(3, "v3"), claiming("r"), "bind a");
    let mut elsewhere = with(3, "v3");
    elsewhere["attachments"]["x"]["spec"]["nodeName"] = "b".into();
    check(elsewhere, claiming("new"), "prepare a new=new");
}

#[test]
fn a_pod_of_lower_priority_goes_for_its_volumes() {
    let mut spec = claiming("r");
    spec["priority"] = 1.into();
    check(cluster(Some(2)), spec.clone(), "preempt on a");
    // A preemption does not help while the victims' volumes stay attached.
    let mut objects = cluster(Some(2));
    objects["attachments"] = json!({"1": {"spec": {"attacher": "disks", "nodeName": "a",
        "source": {"persistentVolumeName": "v1"}}}, "2": {"spec": {"attacher": "disks",
        "nodeName": "a", "source": {"persistentVolumeName": "v2"}}}});
    check(objects, spec, FULL);
}

#[derive(Clone, Debug)]
enum Step {
    /// A pod with these claims is placed.
    Place(Vec<u8>),
    /// The oldest pod ends.
    End,
    /// A volume is provisioned for a claim.
    Provision(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0..8u8, 1..4).prop_map(Step::Place),
        1 => Just(Step::End),
        2 => (0..8u8).prop_map(Step::Provision),
    ]
}

/// A view of two nodes with these limits of volumes, and of eight claims without volumes.
fn empty(counts: [u8; 2]) -> ClusterView {
    let claims: BTreeMap<String, Value> = (0..8)
        .map(|claim| (format!("c{claim}"), unbound("disks", "1Gi")))
        .collect();
    let capacity = json!({"status": {"allocatable": {"pods": "110"}}});
    view(json!({
        "nodes": {"n0": capacity, "n1": capacity}, "claims": claims,
        "csinodes": {"n0": csi_node(Some(counts[0])), "n1": csi_node(Some(counts[1]))},
        "classes": {"disks":
            {"provisioner": "disks", "volumeBindingMode": "WaitForFirstConsumer"}},
    }))
}

/// The claims that the pods of a node use.
fn used(view: &ClusterView, node: &str) -> BTreeSet<String> {
    let pods = view.pods.iter();
    let there = pods.filter(|pod| pod.node.as_deref() == Some(node));
    let claims = there.flat_map(|pod| pod.claims.iter());
    claims.map(|claim| claim.name.to_string()).collect()
}

proptest! {
    /// No node gets more volumes than its driver's limit, in any order of pods that start and end and volumes that are
    /// provisioned; a pod without a feasible node would have exceeded the limit of each node.
    #[test]
    fn no_node_has_more_volumes_than_its_driver_takes(
        counts in [0..5u8, 0..5u8],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut view = empty(counts);
        let mut placed: Vec<Arc<PodView>> = Vec::new();
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Place(claims) => {
                    let claims: BTreeSet<String> =
                        claims.iter().map(|claim| format!("c{claim}")).collect();
                    let volumes: Vec<Value> = claims
                        .iter()
                        .map(|claim| json!({"name": claim,
                            "persistentVolumeClaim": {"claimName": claim}}))
                        .collect();
                    let mut asking = pod(json!({ "volumes": volumes }));
                    asking.uid = index.to_string().parse().expect("a UID");
                    match place(&asking, &view, None) {
                        // The scheduler reserves the node while the volumes are provisioned.
                        PlacementDecision::Bind { node } | PlacementDecision::Prepare { node, .. } => {
                            asking.node = Some(node.into());
                            let asking = Arc::new(asking);
                            placed.push(asking.clone());
                            view.pods.push(asking);
                        }
                        PlacementDecision::Unschedulable(_) => {
                            for (number, count) in counts.iter().enumerate() {
                                let there = used(&view, &format!("n{number}"));
                                let new = claims.difference(&there).count();
                                let fits = new == 0 || there.len() + new <= usize::from(*count);
                                prop_assert!(!fits, "it fits on n{number}");
                            }
                        }
                        PlacementDecision::Preempt(_) => prop_assert!(false, "all are equally important"),
                    }
                }
                Step::End => {
                    if !placed.is_empty() {
                        view.pods.remove(&placed.remove(0).uid);
                    }
                }
                Step::Provision(number) => {
                    let (claim, volume) = (format!("c{number}"), format!("v{number}"));
                    let objects = view_of_bound(&claim, &volume);
                    view.claims.extend(objects.claims);
                    view.volumes.extend(objects.volumes);
                }
            }
            for (number, count) in counts.iter().enumerate() {
                let there = used(&view, &format!("n{number}")).len();
                prop_assert!(there <= usize::from(*count), "n{number} has {there}");
            }
        }
    }
}

fn view_of_bound(claim: &str, volume: &str) -> ClusterView {
    view(json!({"claims": {claim: bound(volume)},
        "volumes": {volume: csi_volume("disks", volume)}}))
}
