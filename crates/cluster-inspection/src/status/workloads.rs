//! Workloads that are not StatefulSets: a line each.

use diagnosis::ObservedNamespace;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use object_model::LabelSelector as Selector;
use object_model::duration::human;

use super::model::{Workload, name, namespace};
use super::objects::StatusObjects;
use crate::pod_row::PodRows;

/// All workloads: by kind, then by name, as they were listed.
pub fn all(observed: &StatusObjects, rows: &PodRows<'_>, now: Timestamp) -> Vec<Workload> {
    let objects = &observed.objects;
    let reason = |meta: &ObjectMeta, selector: Option<&LabelSelector>| {
        let selector = Selector::of(selector?)?;
        let mut pods = objects.each(|e| &e.full_pods).filter(|pod| {
            let label = |key: &str| Some(pod.metadata.labels.as_ref()?.get(key)?.as_str());
            pod.metadata.namespace == meta.namespace && selector.matches_by(label)
        });
        pods.find_map(|pod| rows.of(pod, now).reason)
    };
    let mut all = Vec::new();
    for object in objects.each(|e| &e.deployments) {
        let selector = object.spec.as_ref().map(|spec| &spec.selector);
        all.push(deployment(object).because(|| reason(&object.metadata, selector)));
    }
    for object in objects.each(|e| &e.daemon_sets) {
        let selector = object.spec.as_ref().map(|spec| &spec.selector);
        all.push(daemon_set(object).because(|| reason(&object.metadata, selector)));
    }
    let sets = objects.each(|e| &e.replica_sets);
    for object in sets.filter(|set| !has_owner(&set.metadata)) {
        let selector = object.spec.as_ref().map(|spec| &spec.selector);
        all.push(replica_set(object).because(|| reason(&object.metadata, selector)));
    }
    for object in objects.each(|e| &e.replication_controllers) {
        let labels = object.spec.as_ref().and_then(|spec| spec.selector.clone());
        let selector = LabelSelector {
            match_labels: labels,
            ..LabelSelector::default()
        };
        all.push(
            replication_controller(object).because(|| reason(&object.metadata, Some(&selector))),
        );
    }
    let cron_jobs = objects.each(|e| &e.cron_jobs);
    all.extend(cron_jobs.map(|object| cron_job(object, now)));
    for object in objects.each(|e| &e.jobs) {
        let selector = object.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let job = job(object).because(|| reason(&object.metadata, selector));
        all.push(under_way(job));
    }
    let pods = objects
        .namespaces
        .iter()
        .flat_map(ObservedNamespace::viewed_pods);
    let free = pods.filter(|(view, _)| view.controller.is_none());
    all.extend(free.map(|(_, object)| pod(object, rows, now)));
    all
}

fn has_owner(meta: &ObjectMeta) -> bool {
    let owners = meta.owner_references.iter().flatten();
    owners
        .into_iter()
        .any(|owner| owner.controller == Some(true))
}

impl Workload {
    fn new(kind: &str, meta: &ObjectMeta, state: String, fine: bool) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: namespace(meta),
            name: name(meta),
            state,
            fine,
            reason: None,
        }
    }

    /// The count of ready pods, and of desired pods.
    fn counted(kind: &str, meta: &ObjectMeta, ready: Option<i32>, desired: i32) -> Self {
        let ready = ready.unwrap_or(0);
        Self::new(
            kind,
            meta,
            format!("{ready}/{desired} ready"),
            ready >= desired,
        )
    }

    /// Adds the reason if the workload is not healthy.
    fn because(mut self, reason: impl FnOnce() -> Option<String>) -> Self {
        if !self.fine && self.reason.is_none() {
            self.reason = reason();
        }
        self
    }
}

fn deployment(object: &Deployment) -> Workload {
    let (spec, status) = (object.spec.as_ref(), object.status.as_ref());
    let desired = spec.and_then(|spec| spec.replicas);
    let ready = status.and_then(|status| status.ready_replicas);
    let mut workload =
        Workload::counted("deployment", &object.metadata, ready, desired.unwrap_or(1));
    if object.spec.as_ref().and_then(|spec| spec.paused) == Some(true) {
        workload.state.push_str(", paused");
    }
    workload
}

fn daemon_set(object: &DaemonSet) -> Workload {
    let status = object.status.as_ref();
    let desired = status.map_or(0, |status| status.desired_number_scheduled);
    let ready = status.map(|status| status.number_ready);
    Workload::counted("daemonset", &object.metadata, ready, desired)
}

fn replica_set(object: &ReplicaSet) -> Workload {
    let (spec, status) = (object.spec.as_ref(), object.status.as_ref());
    let desired = spec.and_then(|spec| spec.replicas);
    let ready = status.and_then(|status| status.ready_replicas);
    Workload::counted("replicaset", &object.metadata, ready, desired.unwrap_or(1))
}

fn replication_controller(object: &ReplicationController) -> Workload {
    let (spec, status) = (object.spec.as_ref(), object.status.as_ref());
    let desired = spec.and_then(|spec| spec.replicas);
    let ready = status.and_then(|status| status.ready_replicas);
    Workload::counted(
        "replicationcontroller",
        &object.metadata,
        ready,
        desired.unwrap_or(1),
    )
}

fn job(object: &Job) -> Workload {
    let status = object.status.as_ref();
    let holds = |kind: &str| {
        let conditions = status.and_then(|status| status.conditions.as_deref());
        let mut conditions = conditions.unwrap_or_default().iter();
        conditions
            .find(|condition| condition.type_ == kind && condition.status == "True")
            .cloned()
    };
    let desired = object
        .spec
        .as_ref()
        .and_then(|spec| spec.completions)
        .unwrap_or(1);
    let done = status.and_then(|status| status.succeeded).unwrap_or(0);
    let with = |state: String, fine| Workload::new("job", &object.metadata, state, fine);
    if let Some(failed) = holds("Failed") {
        let mut workload = with("failed".to_owned(), false);
        workload.reason = failed.message;
        return workload;
    }
    if holds("Complete").is_some() {
        return with("complete".to_owned(), true);
    }
    if holds("Suspended").is_some() {
        return with("suspended".to_owned(), true);
    }
    with(format!("{done}/{desired} done"), false)
}

/// A running job is healthy if its pods are healthy.
fn under_way(mut job: Workload) -> Workload {
    job.fine |= job.reason.is_none();
    job
}

fn cron_job(object: &CronJob, now: Timestamp) -> Workload {
    let spec = &object.spec;
    let status = object.status.as_ref();
    let schedule = &spec.schedule;
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let last = match last {
        Some(last) => {
            let ago = human((now.as_second() - last.0.as_second()).max(0));
            format!("last {ago} ago")
        }
        None => "has not run yet".to_owned(),
    };
    let suspended = match spec.suspend {
        Some(true) => ", suspended",
        _ => "",
    };
    let state = format!("{schedule}, {last}{suspended}");
    Workload::new("cronjob", &object.metadata, state, true)
}

fn pod(object: &Pod, rows: &PodRows<'_>, now: Timestamp) -> Workload {
    let row = rows.of(object, now);
    let state = format!("{} {} {}", row.containers, row.state, row.address);
    let fine = row.ready || row.state == "Completed";
    let workload = Workload::new("pod", &object.metadata, state.trim_end().to_owned(), fine);
    workload.because(|| row.reason)
}
