//! Claims and volumes, situation by situation (statefulset.md §11, scenarios T46-T52), and what
//! holds of every plan.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use planners::volume_binding::{ClaimView, NoteType, Plan, Subject, plan_claim, plan_volume};
use proptest::prelude::*;
use serde_json::{Value, json};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("a time")
}

fn typed<T: k8s_openapi::serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("a well-formed object")
}

fn claim(class: Option<&str>, size: &str) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}}});
    if let Some(class) = class {
        spec["storageClassName"] = class.into();
    }
    json!({"metadata": {"name": "data", "namespace": "default", "uid": "c1"},
        "spec": spec, "status": {"phase": "Pending"}})
}

fn volume(name: &str, size: &str, class: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "storageClassName": class, "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"}})
}

fn class(name: &str, mode: &str, provisioner: &str, default: bool) -> Value {
    json!({"metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}},
        "provisioner": provisioner, "volumeBindingMode": mode})
}

fn with(mut object: Value, change: Value) -> Value {
    merge(&mut object, &change);
    object
}

/// RFC 7396, as the server applies the plan's writes.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(target) = target.as_object_mut() {
                target.remove(key);
            }
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

/// A small cluster: one claim (or none), volumes, classes.
#[derive(Clone, Debug, PartialEq)]
struct World {
    claim: Option<Value>,
    volumes: Vec<Value>,
    classes: Vec<Value>,
    pods: Vec<String>,
}

impl World {
    fn new(claim: Value, volumes: &[Value], classes: &[Value]) -> Self {
        let (volumes, classes) = (volumes.to_vec(), classes.to_vec());
        Self {
            claim: Some(claim),
            volumes,
            classes,
            pods: Vec::new(),
        }
    }

    fn claim_plan(&self) -> Plan {
        let Some(claim) = &self.claim else {
            return Plan::default();
        };
        let claim: PersistentVolumeClaim = typed(claim);
        let volumes: Vec<Arc<PersistentVolume>> = self
            .volumes
            .iter()
            .map(|volume| Arc::new(typed(volume)))
            .collect();
        let classes: Vec<Arc<StorageClass>> = self
            .classes
            .iter()
            .map(|class| Arc::new(typed(class)))
            .collect();
        let view = ClaimView {
            claim: &claim,
            volumes: &volumes,
            classes: &classes,
            unscheduled_pods: &self.pods,
        };
        plan_claim(&view, now())
    }

    fn volume_plan(&self, index: usize) -> Plan {
        let claim: Option<PersistentVolumeClaim> = self.claim.as_ref().map(typed);
        plan_volume(&typed(&self.volumes[index]), claim.as_ref(), now())
    }

    /// Does the first `count` writes of a plan.
    fn apply(&mut self, plan: &Plan, count: usize) {
        for action in plan.actions.iter().take(count) {
            let write = action.write();
            let target = match &write.on {
                Subject::Claim => self
                    .claim
                    .as_mut()
                    .expect("a plan for a claim that is there"),
                Subject::Volume(name) => self
                    .volumes
                    .iter_mut()
                    .find(|volume| volume["metadata"]["name"] == **name)
                    .expect("a plan for a volume that is there"),
            };
            merge(target, &write.patch);
        }
    }

    /// Plans and does until nothing is left to do; says how many rounds that took.
    fn settle(&mut self) -> usize {
        for round in 0..20 {
            let before = self.clone();
            let plan = self.claim_plan();
            self.apply(&plan, usize::MAX);
            for index in 0..self.volumes.len() {
                let plan = self.volume_plan(index);
                self.apply(&plan, usize::MAX);
            }
            if *self == before {
                return round;
            }
        }
        panic!("does not come to rest: {self:#?}");
    }

    fn claim_phase(&self) -> &str {
        let claim = self.claim.as_ref().expect("a claim");
        claim["status"]["phase"].as_str().unwrap_or_default()
    }

    fn volume_phases(&self) -> Vec<String> {
        let phase = |volume: &Value| {
            let phase = volume["status"]["phase"].as_str().unwrap_or_default();
            format!(
                "{} {phase}",
                volume["metadata"]["name"].as_str().unwrap_or_default()
            )
        };
        self.volumes.iter().map(phase).collect()
    }

    fn bound_to(&self) -> Option<&str> {
        self.claim.as_ref()?["spec"]["volumeName"].as_str()
    }
}

/// A plan in a few words per line.
fn shown(plan: &Plan) -> Vec<String> {
    let mut lines: Vec<String> = plan
        .actions
        .iter()
        .map(|action| {
            let write = action.write();
            let on = match &write.on {
                Subject::Claim => "claim".to_owned(),
                Subject::Volume(name) => name.clone(),
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
fn check(world: &World, expected: &[&str]) {
    assert_eq!(shown(&world.claim_plan()), expected);
}

fn binding(volume: &str) -> Vec<String> {
    vec![
        format!("{volume} is kept for \"c1\""),
        format!("{volume} is Bound"),
        format!("claim names {volume}"),
        "claim is Bound".to_owned(),
    ]
}

/// T46 and §11.5.
#[test]
fn the_smallest_fitting_volume_is_taken_in_four_writes() {
    let volumes = [
        volume("v5", "5Gi", ""),
        volume("v1", "1Gi", ""),
        volume("v2", "2Gi", ""),
    ];
    let world = World::new(claim(Some(""), "1Gi"), &volumes, &[]);
    assert_eq!(shown(&world.claim_plan()), binding("v1"));
    let world = World::new(claim(Some(""), "1500Mi"), &volumes, &[]);
    assert_eq!(shown(&world.claim_plan()), binding("v2"));
}

/// T46.
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
    let world = World::new(selecting, &[volume("v1", "1Gi", ""), labelled], &[]);
    assert_eq!(shown(&world.claim_plan()), binding("big"));
}

/// T46: the user's word beats class, labels and size.
#[test]
fn a_volume_that_names_the_claim_beats_all_others() {
    let kept = with(
        volume("kept", "9Gi", "other"),
        json!({"spec": {"claimRef": {"name": "data", "namespace": "default"}}}),
    );
    let world = World::new(
        claim(Some(""), "1Gi"),
        &[volume("v1", "1Gi", ""), kept],
        &[],
    );
    let plan = world.claim_plan();
    assert_eq!(shown(&plan), binding("kept"));
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
    let world = World::new(
        claim(Some(""), "1Gi"),
        &[wide, volume("v5", "5Gi", "")],
        &[],
    );
    assert_eq!(shown(&world.claim_plan()), binding("v5"));
}

/// §11.3: what can never be taken.
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
    check(&World::new(claim(Some(""), "1Gi"), &volumes, &[]), &[text]);
}

/// T47.
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
        check(&World::new(naming(name), &volumes, &[]), &[&text]);
    };
    refused("small", "requested PV is too small");
    refused("classy", "storageClassName does not match");
    check(
        &World::new(naming("taken"), &volumes, &[]),
        &["!FailedBinding: volume \"taken\" already bound to a different claim."],
    );
    check(&World::new(naming("absent"), &volumes, &[]), &[]);
    let mut world = World::new(naming("fit"), &volumes, &[]);
    assert_eq!(shown(&world.claim_plan()), binding("fit"));
    world.settle();
    assert_eq!(world.claim_phase(), "Bound");
    let annotations = &world.claim.as_ref().expect("a claim")["metadata"]["annotations"];
    assert!(
        annotations["pv.kubernetes.io/bound-by-controller"].is_null(),
        "{annotations}"
    );
}

/// §11.6.
#[test]
fn a_claim_may_wait_for_its_first_consumer() {
    let local = class("local", "WaitForFirstConsumer", "mainstay.dev/local", false);
    let volumes = [volume("v", "1Gi", "local")];
    let mut world = World::new(claim(Some("local"), "1Gi"), &volumes, &[local]);
    check(
        &world,
        &["WaitForFirstConsumer: waiting for first consumer to be created before binding"],
    );
    world.pods = vec!["web-0".to_owned()];
    check(
        &world,
        &["WaitForPodScheduled: waiting for pod web-0 to be scheduled"],
    );
    let selected = json!({"metadata": {"annotations":
        {"volume.kubernetes.io/selected-node": "n"}}});
    world.claim = world.claim.map(|claim| with(claim, selected));
    let plan = world.claim_plan();
    assert_eq!(
        shown(&plan)[1].split(':').next(),
        Some("ExternalProvisioning")
    );
    world.apply(&plan, 1);
    let annotations = &world.claim.as_ref().expect("a claim")["metadata"]["annotations"];
    assert_eq!(
        annotations["volume.kubernetes.io/storage-provisioner"],
        "mainstay.dev/local"
    );
    assert!(world.claim_plan().actions.is_empty());
}

/// §11.6: the scheduler keeps a volume for the claim; the binder does the rest.
#[test]
fn a_volume_that_the_scheduler_keeps_is_bound() {
    let local = class("local", "WaitForFirstConsumer", "mainstay.dev/local", false);
    let kept = with(
        volume("v", "1Gi", "local"),
        json!({"spec": {"claimRef": {"name": "data", "namespace": "default", "uid": "c1"}}}),
    );
    let world = World::new(claim(Some("local"), "1Gi"), &[kept], &[local]);
    assert_eq!(shown(&world.claim_plan()), binding("v")[1..]);
}

/// §11.7.
#[test]
fn classes_that_cannot_provision_are_named() {
    check(
        &World::new(claim(Some("x"), "1Gi"), &[], &[]),
        &["!ProvisioningFailed: storageclass.storage.k8s.io \"x\" not found"],
    );
    let none = class("x", "Immediate", "kubernetes.io/no-provisioner", false);
    check(
        &World::new(claim(Some("x"), "1Gi"), &[], &[none]),
        &["!ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"],
    );
}

/// T52.
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
    check(&World::new(claim(None, "1Gi"), &[], &classes), &[assigned]);
    let text = "FailedBinding: no persistent volumes available for this claim and no storage \
        class is set";
    check(&World::new(claim(Some(""), "1Gi"), &[], &classes), &[text]);
    let world = World::new(claim(None, "1Gi"), &[volume("v", "1Gi", "")], &classes);
    assert_eq!(shown(&world.claim_plan()), binding("v"));
}

/// T48.
#[test]
fn a_released_volume_waits_for_an_administrator() {
    let volumes = [volume("v", "1Gi", "")];
    let mut world = World::new(claim(Some(""), "1Gi"), &volumes, &[]);
    world.settle();
    world.claim = None;
    world.settle();
    assert_eq!(world.volume_phases(), ["v Released"]);
    let second = with(claim(Some(""), "1Gi"), json!({"metadata": {"uid": "c2"}}));
    world.claim = Some(second);
    world.settle();
    assert_eq!((world.claim_phase(), world.bound_to()), ("Pending", None));
    merge(&mut world.volumes[0], &json!({"spec": {"claimRef": null}}));
    world.settle();
    assert_eq!(
        (world.claim_phase(), world.bound_to()),
        ("Bound", Some("v"))
    );
}

/// T50 and §11.9.
#[test]
fn a_claim_whose_volume_is_gone_is_lost_until_it_comes_back() {
    let mut world = World::new(claim(Some(""), "1Gi"), &[volume("v", "1Gi", "")], &[]);
    world.settle();
    world.volumes.clear();
    let text = "!ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!";
    check(&world, &["claim is Lost", text]);
    world.settle();
    check(&world, &[]);
    world.volumes.push(volume("v", "1Gi", ""));
    world.settle();
    assert_eq!(
        (world.claim_phase(), world.bound_to()),
        ("Bound", Some("v"))
    );
    let taken = json!({"spec": {"claimRef": {"uid": "c9"}}});
    merge(&mut world.volumes[0], &taken);
    let text = "!ClaimMisbound: Two claims are bound to the same volume, this one is bound \
        incorrectly";
    check(&world, &["claim is Lost", text]);
}

/// §11.8.
#[test]
fn what_becomes_of_a_released_volume_is_its_policys_business() {
    let gone = |policy: &str, provisioned: bool| {
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
        let mut world = World::new(claim(Some(""), "1Gi"), &[volume], &[]);
        world.claim = None;
        world.settle();
        world.volume_phases()
    };
    assert_eq!(gone("Retain", true), ["v Released"]);
    assert_eq!(gone("Delete", true), ["v Released"]);
    assert_eq!(gone("Delete", false), ["v Failed"]);
    assert_eq!(gone("Recycle", false), ["v Failed"]);
    assert_eq!(gone("Melt", false), ["v Failed"]);
}

/// §11.8: a claim that found another volume; §11.5: undo.
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
    let kept = with(volume("v", "1Gi", ""), reference);
    let mut world = World::new(elsewhere.clone(), &[with(kept.clone(), by_us)], &[]);
    let plan = world.volume_plan(0);
    world.apply(&plan, usize::MAX);
    assert!(world.volumes[0]["spec"]["claimRef"].is_null());
    let mut world = World::new(elsewhere, &[kept], &[]);
    let plan = world.volume_plan(0);
    world.apply(&plan, usize::MAX);
    let reference = &world.volumes[0]["spec"]["claimRef"];
    assert_eq!(
        (&reference["name"], &reference["uid"]),
        (&json!("data"), &Value::Null)
    );
}

/// T49: whichever of the four writes is the last, the end is the same.
#[test]
fn a_binding_that_is_cut_off_anywhere_is_completed() {
    for writes in 0..=4 {
        let volumes = [volume("v1", "1Gi", ""), volume("v2", "1Gi", "")];
        let mut world = World::new(claim(Some(""), "1Gi"), &volumes, &[]);
        let plan = world.claim_plan();
        world.apply(&plan, writes);
        world.settle();
        assert_eq!(
            (world.claim_phase(), world.bound_to()),
            ("Bound", Some("v1")),
            "{writes}"
        );
        assert_eq!(
            world.volume_phases(),
            ["v1 Bound", "v2 Available"],
            "{writes}"
        );
    }
}

/// §11.5: the capacity is taken at the moment of becoming Bound, not later.
#[test]
fn a_volume_that_grew_later_does_not_change_the_claims_capacity() {
    let mut world = World::new(claim(Some(""), "1Gi"), &[volume("v", "1Gi", "")], &[]);
    world.settle();
    merge(
        &mut world.volumes[0],
        &json!({"spec": {"capacity": {"storage": "2Gi"}}}),
    );
    world.settle();
    let claim = world.claim.as_ref().expect("a claim");
    assert_eq!(claim["status"]["capacity"]["storage"], "1Gi");
}

fn any_volume(index: usize) -> impl Strategy<Value = Value> {
    let phase = prop::sample::select(vec!["", "Available", "Bound", "Released", "Failed"]);
    let class = prop::sample::select(vec!["", "local", "now"]);
    let policy = prop::sample::select(vec!["Retain", "Delete", "Recycle"]);
    let claimed = prop::sample::select(vec!["", "-", "c0", "c1"]);
    let provisioned = any::<bool>();
    let size = 1..4u8;
    (phase, class, policy, claimed, provisioned, size).prop_map(
        move |(phase, class, policy, claimed, provisioned, size)| {
            let mut volume = volume(&format!("v{index}"), &format!("{size}Gi"), class);
            volume["spec"]["persistentVolumeReclaimPolicy"] = policy.into();
            volume["status"]["phase"] = phase.into();
            if !claimed.is_empty() {
                volume["spec"]["claimRef"] = json!({"name": "data", "namespace": "default"});
                if claimed != "-" {
                    volume["spec"]["claimRef"]["uid"] = claimed.into();
                }
            }
            if provisioned {
                volume["metadata"]["annotations"] =
                    json!({"pv.kubernetes.io/provisioned-by": "mainstay.dev/local"});
            }
            volume
        },
    )
}

fn any_world() -> impl Strategy<Value = World> {
    let class_name =
        prop::sample::select(vec![None, Some(""), Some("local"), Some("now"), Some("x")]);
    let named = prop::sample::select(vec!["", "v0", "v1", "v9"]);
    let phase = prop::sample::select(vec!["", "Pending", "Bound", "Lost"]);
    let volumes = (any_volume(0), any_volume(1), any_volume(2));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (class_name, named, phase, volumes, flags).prop_map(
        |(class_name, named, phase, volumes, (complete, there, default))| {
            let mut claim = claim(class_name, "2Gi");
            claim["status"]["phase"] = phase.into();
            if !named.is_empty() {
                claim["spec"]["volumeName"] = named.into();
            }
            if complete {
                claim["metadata"]["annotations"] =
                    json!({"pv.kubernetes.io/bind-completed": "yes"});
            }
            let classes = [
                class(
                    "local",
                    "WaitForFirstConsumer",
                    "mainstay.dev/local",
                    default,
                ),
                class("now", "Immediate", "mainstay.dev/local", false),
            ];
            let mut world = World::new(claim, &[volumes.0, volumes.1, volumes.2], &classes);
            if !there {
                world.claim = None;
            }
            world
        },
    )
}

proptest! {
    /// Whatever the state, planning and doing comes to rest; at rest at most one volume is bound
    /// to the claim, a bound claim and its volume agree, and what is not bound says why.
    #[test]
    fn every_world_comes_to_rest(start in any_world()) {
        let mut world = start;
        world.settle();
        let bound: Vec<&Value> = world
            .volumes
            .iter()
            .filter(|volume| volume["status"]["phase"] == "Bound")
            .collect();
        prop_assert!(bound.len() <= 1, "{world:#?}");
        if let Some(claim) = &world.claim {
            let plan = world.claim_plan();
            if claim["status"]["phase"] == "Bound" {
                prop_assert_eq!(bound.len(), 1);
                prop_assert_eq!(&bound[0]["metadata"]["name"], &claim["spec"]["volumeName"]);
                prop_assert_eq!(&bound[0]["spec"]["claimRef"]["uid"], &claim["metadata"]["uid"]);
            } else {
                prop_assert!(plan.waiting_on.is_some(), "{claim}");
            }
        }
    }

    /// A volume that was kept for a claim that is gone is never given to another.
    #[test]
    fn released_volumes_are_not_reused(start in any_world()) {
        let theirs: Vec<bool> =
            start.volumes.iter().map(|volume| volume["spec"]["claimRef"]["uid"] == "c0").collect();
        let mut world = start;
        world.settle();
        for (volume, theirs) in world.volumes.iter().zip(theirs) {
            if theirs {
                prop_assert_eq!(&volume["spec"]["claimRef"]["uid"], "c0");
                prop_assert_ne!(&volume["status"]["phase"], "Available");
            }
        }
    }
}
