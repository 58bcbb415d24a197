//! The parts of a cluster that a forecast needs beside the controller of the set: nodes that start and end pods, drivers
//! that change volumes, the garbage collector.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use resource_kinds::annotations::HOOK;
use resource_kinds::reasons::pod_condition;
use resource_kinds::stateful_set_policy::{CheckKind, PodHold};

use super::super::claim_edits::has_failed;
use super::Objects;
use crate::claim_size;

/// The conditions of a claim whose volume changes, waits for its file system, or has failed to change.
const CHANGES: [&str; 6] = [
    "Resizing",
    "FileSystemResizePending",
    "ControllerResizeError",
    "NodeResizeError",
    "ModifyingVolume",
    "ModifyVolumeError",
];

/// The changes of a round.
pub(super) struct Passed {
    /// The names of pods and claims that have changed or ended.
    pub changed: Vec<String>,
    /// The claims that the garbage collector deletes; they have changed, too.
    pub collected_claims: Vec<String>,
}

/// The pods and claims that do not work at present.
pub(super) fn troubled(objects: &Objects) -> BTreeSet<String> {
    let is_troubled = |pod: &Pod| {
        let has_failed = |kind: &str| condition(pod, kind).is_some_and(|one| one.status != "True");
        let is_ready = condition(pod, pod_condition::READY).is_some_and(|one| one.status == "True");
        !is_ready
            || CheckKind::OF_GUARD
                .iter()
                .any(|check| has_failed(check.condition()))
    };
    let pods = objects.pods.iter().filter(|(_, pod)| is_troubled(pod));
    let claims = objects.claims.iter().filter(|(_, claim)| has_failed(claim));
    let pods = pods.map(|(name, _)| name.clone());
    pods.chain(claims.map(|(name, _)| name.clone())).collect()
}

/// Ends the pods that are being deleted, and makes everything ready that is not troubled.
pub(super) fn pass(objects: &mut Objects, troubled: &BTreeSet<String>, now: Timestamp) -> Passed {
    let mut changed = remove(&mut objects.pods, |pod| {
        pod.metadata.deletion_timestamp.is_some()
    });
    for (name, pod) in &mut objects.pods {
        let is_ready = !troubled.contains(name) && make_ready(pod, now);
        // A pod may be not ready because of its hook.
        if answer_hook(pod, now) || is_ready {
            changed.push(name.clone());
        }
    }
    // A claim that a pod uses stays until the pod has ended.
    let pods = &objects.pods;
    changed.extend(remove(&mut objects.claims, |claim| {
        let is_ending = claim.metadata.deletion_timestamp.is_some();
        is_ending && !pods.values().any(|pod| uses(pod, claim))
    }));
    for (name, claim) in &mut objects.claims {
        if !troubled.contains(name) && follow(claim) {
            changed.push(name.clone());
        }
    }
    let collected_claims = objects.collect_claims();
    changed.extend(collected_claims.iter().cloned());
    Passed {
        changed,
        collected_claims,
    }
}

/// Removes the selected objects; returns their names.
fn remove<K>(objects: &mut BTreeMap<String, K>, is_selected: impl Fn(&K) -> bool) -> Vec<String> {
    let selected = objects.iter().filter(|(_, object)| is_selected(object));
    let selected: Vec<String> = selected.map(|(name, _)| name.clone()).collect();
    for name in &selected {
        objects.remove(name);
    }
    selected
}

/// Lets a pod pass its checks that fail. A pod or a claim that is not troubled any more works with the next round.
pub(super) fn recover(objects: &mut Objects, name: &str, now: Timestamp) {
    let Some(pod) = objects.pods.get_mut(name) else {
        return;
    };
    for check in CheckKind::OF_GUARD {
        if condition(pod, check.condition()).is_some() {
            set_true(pod, check.condition(), now);
        }
    }
}

/// The next time at which a Ready pod has been so for `minReadySeconds`.
pub(super) fn next_available(objects: &Objects, now: Timestamp) -> Option<Timestamp> {
    let spec = objects.set.spec.as_ref()?;
    let min_ready =
        SignedDuration::from_secs(i64::from(spec.min_ready_seconds.unwrap_or_default()));
    let ready = objects.pods.values().filter_map(|pod| {
        let ready = condition(pod, pod_condition::READY).filter(|one| one.status == "True")?;
        let since = ready.last_transition_time.as_ref()?.0;
        since.checked_add(min_ready).ok()
    });
    ready.filter(|at| *at > now).min()
}

fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Starts the pod, and answers the checks that its node runs. Returns whether the pod has changed.
fn make_ready(pod: &mut Pod, now: Timestamp) -> bool {
    let status = pod.status.get_or_insert_default();
    let is_running = status.phase.as_deref() == Some("Running");
    if !is_running {
        status.phase = Some("Running".to_owned());
        status.start_time = Some(Time(now));
    }
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let checks = CheckKind::OF_GUARD.into_iter();
    let checks = checks.filter(|check| annotations.contains_key(check.annotation()));
    // A check that has failed is troubled, and not new.
    let checks = checks.map(CheckKind::condition);
    let checks: Vec<&str> = checks
        .filter(|kind| condition(pod, kind).is_none())
        .collect();
    let mut is_changed = !is_running;
    for kind in checks.into_iter().chain([pod_condition::READY]) {
        is_changed |= set_true(pod, kind, now);
    }
    is_changed
}

/// Lets the present hook of a pod succeed. Returns whether there is one.
fn answer_hook(pod: &mut Pod, now: Timestamp) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let hold = annotations.and_then(|all| PodHold::parse(all.get(HOOK)?));
    let Some(id) = hold.map(|hold| hold.id).filter(|id| !id.is_empty()) else {
        return false;
    };
    let kind = CheckKind::Hook.condition();
    if condition(pod, kind).is_some_and(|one| one.message.as_ref() == Some(&id)) {
        return false;
    }
    put_true(pod, kind, Some(id), now);
    true
}

/// Sets a condition to True. Returns whether it was not.
fn set_true(pod: &mut Pod, kind: &str, now: Timestamp) -> bool {
    if condition(pod, kind).is_some_and(|one| one.status == "True") {
        return false;
    }
    put_true(pod, kind, None, now);
    true
}

/// Puts a condition that is True in place of the present one.
fn put_true(pod: &mut Pod, kind: &str, message: Option<String>, now: Timestamp) {
    let status = pod.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|one| one.type_ != kind);
    conditions.push(PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        message,
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
}

fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let mut sources = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    sources.any(|source| Some(&source.claim_name) == claim.metadata.name.as_ref())
}

/// Binds a claim, and gives its volume the size and the attributes that the claim requests. Returns whether the claim has changed.
fn follow(claim: &mut PersistentVolumeClaim) -> bool {
    // A volume may be larger than its claim requests, and never becomes smaller.
    let grows = claim_size::capacity(claim) < claim_size::requested(claim);
    let Some(spec) = &claim.spec else {
        return false;
    };
    let requests = spec.resources.as_ref().and_then(|all| all.requests.clone());
    let class = spec.volume_attributes_class_name.clone();
    let before = claim.status.clone();
    let status = claim.status.get_or_insert_default();
    status.phase = Some("Bound".to_owned());
    if grows {
        status.allocated_resources = requests.clone();
        status.capacity = requests;
    }
    if class.is_some() {
        status.current_volume_attributes_class_name = class;
    }
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|one| !CHANGES.contains(&one.type_.as_str()));
    }
    status.allocated_resource_statuses = None;
    status.modify_volume_status = None;
    claim.status != before
}
