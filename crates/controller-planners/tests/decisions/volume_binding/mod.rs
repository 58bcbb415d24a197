//! Claims and volumes, situation by situation (statefulset.md §11, scenarios T46-T52), and properties of every plan.

mod cluster;
mod laws;

use controller_planners::volume_binding::{BindingObject, NoteType, VolumeBindingPlan};
use json_tree::{Value, json};

use cluster::{Cluster, claim, class, merge, volume, with};

/// A plan as short texts.
fn action_texts(plan: &VolumeBindingPlan) -> Vec<String> {
    let mut lines: Vec<String> = plan
        .actions
        .iter()
        .map(|action| {
            let write = action.write();
            let on = match &write.on {
                BindingObject::Claim => "claim".to_owned(),
                BindingObject::Volume(name) => name.clone(),
            };
            let what = write.patch;
            match on.as_str() {
                _ if write.status => {
                    format!(
                        "{on} is {}",
                        what["status"]["phase"].as_str().unwrap_or("?")
                    )
                }
                "claim" if !what["spec"]["volumeName"].is_null() => {
                    format!(
                        "claim names {}",
                        what["spec"]["volumeName"].as_str().unwrap_or("?")
                    )
                }
                "claim" => format!("claim {}", what),
                _ if what["spec"]["claimRef"].is_null() => format!("{on} is freed"),
                _ => format!("{on} is kept for {}", what["spec"]["claimRef"]["uid"]),
            }
        })
        .collect();
    lines.extend(plan.notes.iter().map(|note| {
        let warning = if note.note_type == NoteType::Warning {
            "!"
        } else {
            ""
        };
        format!("{warning}{}: {}", note.reason, note.message)
    }));
    lines
}

#[track_caller]
fn check(cluster: &Cluster, expected: &[&str]) {
    assert_eq!(action_texts(&cluster.claim_plan()), expected);
}

fn binding(volume: &str) -> Vec<String> {
    vec![
        format!("{volume} is kept for \"c1\""),
        format!("{volume} is Bound"),
        format!("claim names {volume}"),
        "claim is Bound".to_owned(),
    ]
}

/// T46 and §11.5: the smallest fitting volume is bound, in four writes.
#[test]
fn the_smallest_fitting_volume_is_taken_in_four_writes() {
    let volumes = [
        volume("v5", "5Gi", ""),
        volume("v1", "1Gi", ""),
        volume("v2", "2Gi", ""),
    ];
    let cluster = Cluster::new(claim(Some(""), "1Gi"), &volumes, &[]);
    assert_eq!(action_texts(&cluster.claim_plan()), binding("v1"));
    let cluster = Cluster::new(claim(Some(""), "1500Mi"), &volumes, &[]);
    assert_eq!(action_texts(&cluster.claim_plan()), binding("v2"));
}

/// T46: a selector matches only volumes with its labels.
#[test]
fn a_selector_takes_only_matching_labels() {
    let selecting = with(
        claim(Some(""), "1Gi"),
        json!({"spec": {"selector": {"matchLabels": {"d": "s"}}}}),
    );
    let labelled = with(
        volume("big", "9Gi", ""),
        json!({"metadata": {"labels": {"d": "s"}}}),
    );
    let cluster = Cluster::new(selecting, &[volume("v1", "1Gi", ""), labelled], &[]);
    assert_eq!(action_texts(&cluster.claim_plan()), binding("big"));
}

/// T46: a volume that the user reserved for the claim has precedence over class, labels and size.
#[test]
fn a_volume_that_names_the_claim_beats_all_others() {
    let reserved = with(
        volume("kept", "9Gi", "other"),
        json!({"spec": {"claimRef": {"name": "data", "namespace": "default"}}}),
    );
    let cluster = Cluster::new(
        claim(Some(""), "1Gi"),
        &[volume("v1", "1Gi", ""), reserved],
        &[],
    );
    let plan = cluster.claim_plan();
    assert_eq!(action_texts(&plan), binding("kept"));
    let written = plan.actions[0].write().patch;
    assert!(
        written["metadata"].is_null(),
        "the choice was not ours: {written}"
    );
}

#[test]
fn the_fewest_modes_to_spare_are_taken_first() {
    let wide = with(
        volume("wide", "1Gi", ""),
        json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}}),
    );
    let cluster = Cluster::new(
        claim(Some(""), "1Gi"),
        &[wide, volume("v5", "5Gi", "")],
        &[],
    );
    assert_eq!(action_texts(&cluster.claim_plan()), binding("v5"));
}

/// §11.3: volumes that are never bound.
#[test]
fn volumes_that_do_not_fit_are_left_alone() {
    let others = json!({"spec": {"claimRef": {"name": "other", "namespace": "default"}}});
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let volumes = [
        with(volume("others", "1Gi", ""), others),
        with(volume("deleting", "1Gi", ""), deleting),
        with(
            volume("block", "1Gi", ""),
            json!({"spec": {"volumeMode": "Block"}}),
        ),
        with(
            volume("released", "1Gi", ""),
            json!({"status": {"phase": "Released"}}),
        ),
        with(
            volume("rox", "1Gi", ""),
            json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
        ),
        volume("small", "1Mi", ""),
        volume("classy", "1Gi", "fast"),
    ];
    let text = "FailedBinding: no persistent volumes available for this claim and no storage \
        class is set";
    check(
        &Cluster::new(claim(Some(""), "1Gi"), &volumes, &[]),
        &[text],
    );
}

/// T47: a volume that the claim names must be free and must fit.
#[test]
fn a_named_volume_must_be_free_and_fit() {
    let naming = |name: &str| {
        with(
            claim(Some(""), "1Gi"),
            json!({"spec": {"volumeName": name}}),
        )
    };
    let volumes = [
        volume("small", "1Mi", ""),
        volume("classy", "1Gi", "fast"),
        with(
            volume("taken", "1Gi", ""),
            json!({"spec": {"claimRef": {"name": "data", "namespace": "default", "uid": "c0"}}}),
        ),
        volume("fit", "1Gi", ""),
    ];
    let refused = |name: &str, why: &str| {
        let text = format!("!VolumeMismatch: Cannot bind to requested volume {name:?}: {why}");
        check(&Cluster::new(naming(name), &volumes, &[]), &[&text]);
    };
    refused("small", "requested PV is too small");
    refused("classy", "storageClassName does not match");
    check(
        &Cluster::new(naming("taken"), &volumes, &[]),
        &["!FailedBinding: volume \"taken\" already bound to a different claim."],
    );
    check(&Cluster::new(naming("absent"), &volumes, &[]), &[]);
    let mut cluster = Cluster::new(naming("fit"), &volumes, &[]);
    assert_eq!(action_texts(&cluster.claim_plan()), binding("fit"));
    cluster.settle();
    assert_eq!(cluster.claim_phase(), "Bound");
    let annotations = &cluster.claim.as_ref().expect("a claim")["metadata"]["annotations"];
    assert!(
        annotations["pv.kubernetes.io/bound-by-controller"].is_null(),
        "{annotations}"
    );
}

/// §11.6: a claim may wait for its first consumer.
#[test]
fn a_claim_may_wait_for_its_first_consumer() {
    let local = class("local", "WaitForFirstConsumer", "mainstay.dev/local", false);
    let volumes = [volume("v", "1Gi", "local")];
    let mut cluster = Cluster::new(claim(Some("local"), "1Gi"), &volumes, &[local]);
    check(
        &cluster,
        &["WaitForFirstConsumer: waiting for first consumer to be created before binding"],
    );
    cluster.pods = vec!["web-0".to_owned()];
    check(
        &cluster,
        &["WaitForPodScheduled: waiting for pod web-0 to be scheduled"],
    );
    let selected = json!({"metadata": {"annotations":
        {"volume.kubernetes.io/selected-node": "n"}}});
    cluster.claim = cluster.claim.map(|claim| with(claim, selected));
    let plan = cluster.claim_plan();
    assert_eq!(
        action_texts(&plan)[1].split(':').next(),
        Some("ExternalProvisioning")
    );
    cluster.apply(&plan, 1);
    let annotations = &cluster.claim.as_ref().expect("a claim")["metadata"]["annotations"];
    assert_eq!(
        annotations["volume.kubernetes.io/storage-provisioner"],
        "mainstay.dev/local"
    );
    assert!(cluster.claim_plan().actions.is_empty());
}

/// §11.6: the scheduler reserves a volume for the claim; the binder does the other writes.
#[test]
fn a_volume_that_the_scheduler_keeps_is_bound() {
    let local = class("local", "WaitForFirstConsumer", "mainstay.dev/local", false);
    let reserved = with(
        volume("v", "1Gi", "local"),
        json!({"spec": {"claimRef": {"name": "data", "namespace": "default", "uid": "c1"}}}),
    );
    let cluster = Cluster::new(claim(Some("local"), "1Gi"), &[reserved], &[local]);
    assert_eq!(action_texts(&cluster.claim_plan()), binding("v")[1..]);
}

/// §11.7: the reason names a class that cannot provision.
#[test]
fn classes_that_cannot_provision_are_named() {
    check(
        &Cluster::new(claim(Some("x"), "1Gi"), &[], &[]),
        &["!ProvisioningFailed: storageclass.storage.k8s.io \"x\" not found"],
    );
    let none = class("x", "Immediate", "kubernetes.io/no-provisioner", false);
    check(
        &Cluster::new(claim(Some("x"), "1Gi"), &[], &[none]),
        &["!ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"],
    );
}

/// T52: the default class is assigned to existing claims, but never to a claim with the empty class.
#[test]
fn the_default_class_is_assigned_later_but_never_to_the_empty_class() {
    let default = class("local", "Immediate", "mainstay.dev/local", true);
    let newer = with(
        default.clone(),
        json!({"metadata":
        {"name": "newer", "creationTimestamp": "2026-02-01T00:00:00Z"}}),
    );
    let classes = [default, newer];
    let assigned = "claim {\"spec\":{\"storageClassName\":\"newer\"}}";
    check(
        &Cluster::new(claim(None, "1Gi"), &[], &classes),
        &[assigned],
    );
    let text = "FailedBinding: no persistent volumes available for this claim and no storage \
        class is set";
    check(
        &Cluster::new(claim(Some(""), "1Gi"), &[], &classes),
        &[text],
    );
    let cluster = Cluster::new(claim(None, "1Gi"), &[volume("v", "1Gi", "")], &classes);
    assert_eq!(action_texts(&cluster.claim_plan()), binding("v"));
}

/// T48: a released volume waits for an administrator.
#[test]
fn a_released_volume_waits_for_an_administrator() {
    let volumes = [volume("v", "1Gi", "")];
    let mut cluster = Cluster::new(claim(Some(""), "1Gi"), &volumes, &[]);
    cluster.settle();
    cluster.claim = None;
    cluster.settle();
    assert_eq!(cluster.volume_phases(), ["v Released"]);
    let second = with(claim(Some(""), "1Gi"), json!({"metadata": {"uid": "c2"}}));
    cluster.claim = Some(second);
    cluster.settle();
    assert_eq!(
        (cluster.claim_phase(), cluster.bound_to()),
        ("Pending", None)
    );
    merge(
        &mut cluster.volumes[0],
        &json!({"spec": {"claimRef": null}}),
    );
    cluster.settle();
    assert_eq!(
        (cluster.claim_phase(), cluster.bound_to()),
        ("Bound", Some("v"))
    );
}

/// T50 and §11.9: a claim whose volume was deleted is Lost until the volume exists again.
#[test]
fn a_claim_whose_volume_is_gone_is_lost_until_it_comes_back() {
    let mut cluster = Cluster::new(claim(Some(""), "1Gi"), &[volume("v", "1Gi", "")], &[]);
    cluster.settle();
    cluster.volumes.clear();
    let text = "!ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!";
    check(&cluster, &["claim is Lost", text]);
    cluster.settle();
    check(&cluster, &[]);
    cluster.volumes.push(volume("v", "1Gi", ""));
    cluster.settle();
    assert_eq!(
        (cluster.claim_phase(), cluster.bound_to()),
        ("Bound", Some("v"))
    );
    let rebound = json!({"spec": {"claimRef": {"uid": "c9"}}});
    merge(&mut cluster.volumes[0], &rebound);
    let text = "!ClaimMisbound: Two claims are bound to the same volume, this one is bound \
        incorrectly";
    check(&cluster, &["claim is Lost", text]);
}

/// §11.8: the reclaim policy decides about a released volume.
#[test]
fn what_becomes_of_a_released_volume_is_its_policys_business() {
    let released = |policy: &str, provisioned: bool| {
        let mut volume = with(
            volume("v", "1Gi", ""),
            json!({"spec": {"persistentVolumeReclaimPolicy": policy,
                "claimRef": {"name": "data", "namespace": "default", "uid": "c0"}}}),
        );
        if provisioned {
            let by = json!({"metadata": {"annotations":
                {"pv.kubernetes.io/provisioned-by": "mainstay.dev/local"}}});
            merge(&mut volume, &by);
        }
        let mut cluster = Cluster::new(claim(Some(""), "1Gi"), &[volume], &[]);
        cluster.claim = None;
        cluster.settle();
        cluster.volume_phases()
    };
    assert_eq!(released("Retain", true), ["v Released"]);
    assert_eq!(released("Delete", true), ["v Released"]);
    assert_eq!(released("Delete", false), ["v Failed"]);
    assert_eq!(released("Recycle", false), ["v Failed"]);
    assert_eq!(released("Melt", false), ["v Failed"]);
}

/// §11.8: the claim got another volume; §11.5: the reservation is removed.
#[test]
fn a_volume_whose_claim_is_bound_elsewhere_is_given_back() {
    let elsewhere = with(
        claim(Some(""), "1Gi"),
        json!({"spec": {"volumeName": "other"}}),
    );
    let reference = json!({"spec": {"claimRef":
        {"name": "data", "namespace": "default", "uid": "c1"}}});
    let by_us = json!({"metadata": {"annotations":
        {"pv.kubernetes.io/bound-by-controller": "yes"}}});
    let reserved = with(volume("v", "1Gi", ""), reference);
    let mut cluster = Cluster::new(elsewhere.clone(), &[with(reserved.clone(), by_us)], &[]);
    let plan = cluster.volume_plan(0);
    cluster.apply(&plan, usize::MAX);
    assert!(cluster.volumes[0]["spec"]["claimRef"].is_null());
    let mut cluster = Cluster::new(elsewhere, &[reserved], &[]);
    let plan = cluster.volume_plan(0);
    cluster.apply(&plan, usize::MAX);
    let reference = &cluster.volumes[0]["spec"]["claimRef"];
    assert_eq!(
        (&reference["name"], &reference["uid"]),
        (&json!("data"), &Value::Null)
    );
}

/// T49: after an interruption between any of the four writes the binding is completed.
#[test]
fn a_binding_that_is_cut_off_anywhere_is_completed() {
    for writes in 0..=4 {
        let volumes = [volume("v1", "1Gi", ""), volume("v2", "1Gi", "")];
        let mut cluster = Cluster::new(claim(Some(""), "1Gi"), &volumes, &[]);
        let plan = cluster.claim_plan();
        cluster.apply(&plan, writes);
        cluster.settle();
        assert_eq!(
            (cluster.claim_phase(), cluster.bound_to()),
            ("Bound", Some("v1")),
            "{writes}"
        );
        assert_eq!(
            cluster.volume_phases(),
            ["v1 Bound", "v2 Available"],
            "{writes}"
        );
    }
}

/// §11.5: the capacity is copied when the claim becomes Bound, not later.
#[test]
fn a_volume_that_grew_later_does_not_change_the_claims_capacity() {
    let mut cluster = Cluster::new(claim(Some(""), "1Gi"), &[volume("v", "1Gi", "")], &[]);
    cluster.settle();
    merge(
        &mut cluster.volumes[0],
        &json!({"spec": {"capacity": {"storage": "2Gi"}}}),
    );
    cluster.settle();
    let claim = cluster.claim.as_ref().expect("a claim");
    assert_eq!(claim["status"]["capacity"]["storage"], "1Gi");
}

/// A volume without a CSI driver has no attributes: the claim reports that the change is infeasible, until the request
/// is removed.
#[test]
fn a_class_of_attributes_is_refused_for_volumes_without_a_driver() {
    let volumes = [volume("v", "1Gi", "c")];
    let classes = [class("c", "Immediate", "d", false)];
    let mut cluster = Cluster::new(claim(Some("c"), "1Gi"), &volumes, &classes);
    cluster.settle();
    assert_eq!(cluster.claim_phase(), "Bound");
    let named = |cluster: &mut Cluster, name: Value| {
        let claim = cluster.claim.as_mut().unwrap();
        merge(claim, &json!({"spec": {"volumeAttributesClassName": name}}));
        let reasons: Vec<&str> = cluster
            .claim_plan()
            .notes
            .iter()
            .map(|note| note.reason)
            .collect();
        cluster.settle();
        reasons
    };
    assert_eq!(named(&mut cluster, json!("gold")), ["VolumeModifyFailed"]);
    let status = cluster.claim.as_ref().unwrap()["status"].clone();
    assert_eq!(
        status["modifyVolumeStatus"],
        json!({"status": "Infeasible", "targetVolumeAttributesClassName": "gold"})
    );
    assert_eq!(status["conditions"][0]["type"], "ModifyVolumeError");
    assert_eq!(named(&mut cluster, Value::Null), [""; 0]);
    let status = cluster.claim.as_ref().unwrap()["status"].clone();
    assert!(status["modifyVolumeStatus"].is_null(), "{status}");
    assert_eq!(status["conditions"], json!([]));
}

/// external-provisioner writes the class into the volume; the claim reports the class from the binding on.
#[test]
fn a_bound_claim_shows_the_class_of_attributes_of_its_volume() {
    let gold = json!({"spec": {"volumeAttributesClassName": "gold"}});
    let of_driver = json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}}});
    let claim = with(claim(Some("c"), "1Gi"), gold.clone());
    let volume = with(with(volume("v", "1Gi", "c"), gold), of_driver);
    let mut cluster = Cluster::new(claim, &[volume], &[class("c", "Immediate", "d", false)]);
    cluster.settle();
    let status = &cluster.claim.as_ref().unwrap()["status"];
    assert_eq!(status["currentVolumeAttributesClassName"], "gold");
    assert!(status["modifyVolumeStatus"].is_null(), "{status}");
}

#[test]
fn a_driver_that_runs_on_no_node_is_told() {
    let classes = [class("c", "Immediate", "csi.example.com", false)];
    let mut cluster = Cluster::new(claim(Some("c"), "1Gi"), &[], &classes);
    let reasons = |cluster: &Cluster| -> Vec<&str> {
        cluster
            .claim_plan()
            .notes
            .iter()
            .map(|note| note.reason)
            .collect()
    };
    assert_eq!(reasons(&cluster), ["ExternalProvisioning"]);
    cluster.is_driver_absent = true;
    assert_eq!(
        reasons(&cluster),
        ["ExternalProvisioning", "DriverNotOnNode"]
    );
}
