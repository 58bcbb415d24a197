//! The pods to start, and the pods to stop.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use resource_kinds::labels::JOB_COMPLETION_INDEX;

use super::TRACKING;
use super::indexes::Indexes;
use super::observed::{ParsedJob, index};
use super::per_index;
use super::tracking::{Counted, active, number};
use crate::pod_set::{BURST_MAX, Names, Phase, PodAction, PodState, pod_of};

/// The back-off after the first failure; each further failure doubles it.
const BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_mins(10);
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Deletes all pods that are active: neither ended nor being deleted.
pub(super) fn stop_all(parsed: &ParsedJob<'_>) -> Vec<PodAction> {
    active(parsed).map(|pod| PodAction::delete(pod)).collect()
}

/// The pods to create and delete, and the time of the next check.
pub(super) fn adjust(
    parsed: &ParsedJob<'_>,
    counted: &Counted,
) -> (Vec<PodAction>, Option<Timestamp>) {
    let running: Vec<&PodState<'_>> = active(parsed).collect();
    let parallelism = parsed.spec.parallelism.unwrap_or(1).max(0);
    let desired = match parsed.spec.completions {
        Some(completions) => {
            let lost = number(counted.lost.len());
            let left = completions.saturating_sub(counted.succeeded);
            left.saturating_sub(lost).clamp(0, parallelism)
        }
        // A work queue starts no further pod after a pod has succeeded.
        None if counted.succeeded > 0 => running.len().try_into().unwrap_or(i32::MAX),
        None => parallelism,
    };
    let desired = usize::try_from(desired).unwrap_or_default();
    let (keep, surplus) = sort_out(parsed, counted, running);
    let mut stop: Vec<PodAction> = surplus.iter().map(|pod| PodAction::delete(pod)).collect();
    if keep.len() > desired {
        let mut ranked = keep.clone();
        ranked.sort_by_key(|pod| (pod.assigned, pod.phase, pod.ready(), pod.created()));
        let victims = ranked.into_iter().take(keep.len() - desired);
        stop.extend(victims.map(|pod| PodAction::delete(pod)));
        return (stop, None);
    }
    let leaving = parsed.pods.iter().filter(|p| p.terminating && !p.ended());
    let occupied = if parsed.patient { leaving.count() } else { 0 };
    let missing = desired.saturating_sub(keep.len() + occupied).min(BURST_MAX);
    if missing == 0 {
        return (stop, None);
    }
    // With a limit for each index, a failing index does not delay the other indexes.
    let together = parsed.limit_per_index.is_none();
    if together && let Some(at) = not_before(parsed).filter(|at| *at > parsed.now) {
        return (stop, Some(at));
    }
    let (started, wake) = start(parsed, counted, &keep, missing);
    stop.extend(started);
    (stop, wake)
}

/// Keeps the first pod of each incomplete index of an Indexed job; the other pods are surplus.
fn sort_out<'w, 'a>(
    parsed: &ParsedJob<'a>,
    counted: &Counted,
    running: Vec<&'w PodState<'a>>,
) -> (Vec<&'w PodState<'a>>, Vec<&'w PodState<'a>>) {
    let Some(end) = parsed.indexes else {
        return (running, Vec::new());
    };
    let mut covered = counted.done.clone().with(&counted.lost);
    running.into_iter().partition(|pod| {
        let index = index(pod).filter(|index| *index < end);
        index.is_some_and(|index| covered.insert(index))
    })
}

fn start(
    parsed: &ParsedJob<'_>,
    counted: &Counted,
    running: &[&PodState<'_>],
    missing: usize,
) -> (Vec<PodAction>, Option<Timestamp>) {
    let used_names = parsed.sorted.names.iter().cloned();
    let Some(end) = parsed.indexes else {
        let mut names = Names::new(parsed.owner.name, &parsed.owner.uid, parsed.now, used_names);
        let pods = std::iter::repeat_with(|| create(new_pod(parsed), names.draw()));
        return (pods.take(missing).collect(), None);
    };
    let mut busy = counted.done.clone().with(&counted.lost);
    for index in running.iter().filter_map(|pod| index(pod)) {
        busy.insert(index);
    }
    if parsed.patient {
        let leaving = parsed.pods.iter().filter(|p| p.terminating && !p.ended());
        for index in leaving.filter_map(index) {
            busy.insert(index);
        }
    }
    let free = Indexes::below(end).without(&busy);
    let (mut started, mut wake) = (Vec::new(), None::<Timestamp>);
    for index in free.iter() {
        if started.len() == missing {
            break;
        }
        let before = per_index::history(parsed, index);
        let waits = before.as_ref().and_then(|before| before.not_before);
        if let Some(at) = waits.filter(|at| *at > parsed.now) {
            wake = Some(wake.map_or(at, |other| other.min(at)));
            continue;
        }
        let prefix = format!("{}-{index}", parsed.owner.name);
        let mut names = Names::new(&prefix, &parsed.owner.uid, parsed.now, used_names.clone());
        let mut pod = indexed_pod(parsed, index);
        if let Some(before) = before {
            before.note(&mut pod);
        }
        started.push(create(pod, names.draw()));
    }
    (started, wake)
}

fn create(mut pod: Pod, name: String) -> PodAction {
    pod.metadata.name = Some(name);
    PodAction::Create(Box::new(pod))
}

fn new_pod(parsed: &ParsedJob<'_>) -> Pod {
    let mut pod = pod_of(&parsed.owner, &parsed.spec.template);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    pod
}

fn indexed_pod(parsed: &ParsedJob<'_>, index: u32) -> Pod {
    let mut pod = new_pod(parsed);
    let meta = &mut pod.metadata;
    meta.generate_name = Some(format!("{}-{index}-", parsed.owner.name));
    for map in [&mut meta.labels, &mut meta.annotations] {
        let map = map.get_or_insert_default();
        map.insert(JOB_COMPLETION_INDEX.to_owned(), index.to_string());
    }
    if let Some(spec) = &mut pod.spec {
        let host = format!("{}-{index}", parsed.owner.name);
        spec.hostname.get_or_insert(host);
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            set_index_variables(container);
        }
    }
    pod
}

fn set_index_variables(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        api_version: None,
        field_path: format!("metadata.labels['{JOB_COMPLETION_INDEX}']"),
    };
    env.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
    });
}

/// The earliest time to start a pod after failures, by the number of failures since the last
/// success.
fn not_before(parsed: &ParsedJob<'_>) -> Option<Timestamp> {
    let of = |phase: Phase| {
        let pods = parsed.pods.iter().filter(move |pod| pod.phase == phase);
        pods.filter_map(ended_at)
    };
    let success = of(Phase::Succeeded).max();
    let failures: Vec<Timestamp> = of(Phase::Failed)
        .filter(|at| success.is_none_or(|success| *at > success))
        .collect();
    let last = failures.iter().max()?;
    last.checked_add(delay(failures.len())).ok()
}

/// The back-off after that number of failures.
pub(super) fn delay(failures: usize) -> SignedDuration {
    let doublings = failures.saturating_sub(1);
    let doublings = u32::try_from(doublings).unwrap_or(u32::MAX).min(10);
    BACKOFF
        .checked_mul(1_i32.checked_shl(doublings).unwrap_or(i32::MAX))
        .unwrap_or(BACKOFF_MAX)
        .min(BACKOFF_MAX)
}

/// The end of a pod's last container.
pub(super) fn ended_at(pod: &PodState<'_>) -> Option<Timestamp> {
    let containers = pod.pod.containers.iter();
    let ends = containers.filter_map(|container| Some(container.end()?.finished_at.as_ref()?.0));
    ends.max().or_else(|| pod.created())
}
