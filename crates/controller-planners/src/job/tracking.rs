//! Counting pods that have ended, each once.
//!
//! The UID of a pod is first written into `uncountedTerminatedPods` of the status, then the pod's
//! finalizer is removed, then the UID is replaced by one more in the count. After a crash between
//! two of these steps the next plan continues.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};
use resource_kinds::pod_view::PodView;

use super::TRACKING;
use super::failure_policy::{self, FailureEffect};
use super::indexes::Indexes;
use super::observed::{ParsedJob, index, tracked};
use super::per_index::{self, Failure};
use crate::pod_set::{Phase, PodAction, PodState};

/// Maximum number of UIDs in one write; further UIDs follow with the next plan.
const UNCOUNTED_MAX: usize = 500;

/// The status after newly ended pods were counted.
pub(super) struct Counted {
    pub status: JobStatus,
    /// Pods whose finalizer is removed after the status is written.
    pub release: Vec<PodAction>,
    /// Succeeded pods, including uncounted pods.
    pub succeeded: i32,
    /// Failed pods, including uncounted pods.
    pub failed: i32,
    pub done: Indexes,
    /// The indexes that have failed.
    pub lost: Indexes,
    /// Whether failed pods are uncounted because they wait for their replacements.
    pub delayed: bool,
    /// The message if a failure ends the job by its `podFailurePolicy`.
    pub fatal: Option<String>,
}

pub(super) fn count(parsed: &ParsedJob<'_>) -> Counted {
    let mut status = parsed.stored.clone();
    let mut counted = Counted {
        release: Vec::new(),
        succeeded: 0,
        failed: 0,
        done: parsed.done_indexes(),
        lost: parsed.failed_indexes(),
        delayed: false,
        fatal: None,
        status: JobStatus::default(),
    };
    let (mut good, mut bad) = uncounted(&mut status, parsed);
    // The job is being deleted or has ended: no further pod is counted.
    let closing = parsed.owner.deleting || parsed.ended();
    for pod in &parsed.pods {
        let uid = pod.pod.uid.to_string();
        if closing {
            if tracked(pod.pod) && (parsed.owner.deleting || pod.ended() || pod.terminating) {
                counted.release.extend(untrack(pod.pod));
            }
            continue;
        }
        let ended_well = pod.phase == Phase::Succeeded;
        if !(ended_well || parsed.failed(pod)) || !tracked(pod.pod) {
            continue;
        }
        if good.contains(&uid) || bad.contains(&uid) {
            counted.release.extend(untrack(pod.pod));
            continue;
        }
        if good.len() + bad.len() >= UNCOUNTED_MAX {
            continue;
        }
        match (ended_well, index(pod), parsed.indexes) {
            (true, Some(index), Some(end)) => {
                if index < end {
                    counted.done.insert(index);
                }
            }
            (true, _, _) => {
                good.insert(uid);
            }
            (false, index, _) => {
                let verdict = failure_policy::verdict(&parsed.spec, pod);
                let failed = per_index::failure(parsed, pod, index, &verdict);
                if failed == Failure::IndexSoFar && !per_index::is_replaced(parsed, pod) {
                    // The replacement of the pod reads the failure count from this pod.
                    counted.delayed = true;
                    continue;
                }
                if failed == Failure::Index {
                    index.map(|index| counted.lost.insert(index));
                }
                if verdict != FailureEffect::Ignore {
                    bad.insert(uid);
                }
                if let FailureEffect::FailJob(why) = verdict {
                    counted.fatal.get_or_insert(why);
                }
            }
        }
        counted.release.extend(untrack(pod.pod));
    }
    if parsed.indexes.is_some() {
        status.succeeded = Some(number(counted.done.len()));
        let text = counted.done.write();
        status.completed_indexes = (!text.is_empty()).then_some(text);
        let lost = counted.lost.without(&counted.done);
        let text = lost.write();
        status.failed_indexes = (!text.is_empty()).then_some(text);
        counted.lost = lost;
    }
    let sum =
        |total: Option<i32>, more: usize| total.unwrap_or_default().saturating_add(number(more));
    counted.succeeded = sum(status.succeeded, good.len());
    counted.failed = sum(status.failed, bad.len());
    status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
        succeeded: list(good),
        failed: list(bad),
    });
    counted.status = status;
    counted
}

/// The UIDs that are still uncounted. UIDs whose pods are deleted or have no finalizer are added to the counts.
fn uncounted(
    status: &mut JobStatus,
    parsed: &ParsedJob<'_>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let tracked_pods: BTreeMap<&str, bool> = parsed
        .pods
        .iter()
        .map(|pod| (pod.pod.uid.as_str(), tracked(pod.pod)))
        .collect();
    let lists = status.uncounted_terminated_pods.take().unwrap_or_default();
    let sort = |uids: Option<Vec<String>>| -> (BTreeSet<String>, i32) {
        let all: BTreeSet<String> = uids.into_iter().flatten().collect();
        let (stay, go): (BTreeSet<String>, BTreeSet<String>) = all
            .into_iter()
            .partition(|uid| tracked_pods.get(uid.as_str()).copied().unwrap_or_default());
        (stay, number(go.len()))
    };
    let (good, more_good) = sort(lists.succeeded);
    let (bad, more_bad) = sort(lists.failed);
    let sum = |count: Option<i32>, more: i32| count.unwrap_or_default().saturating_add(more);
    status.succeeded = Some(sum(status.succeeded, more_good));
    status.failed = Some(sum(status.failed, more_bad));
    (good, bad)
}

fn list(uids: BTreeSet<String>) -> Option<Vec<String>> {
    (!uids.is_empty()).then(|| uids.into_iter().collect())
}

/// Removes the tracking finalizer; `None` if the pod does not have it.
pub(super) fn untrack(pod: &PodView) -> Option<PodAction> {
    if !tracked(pod) {
        return None;
    }
    let others = pod
        .finalizers
        .iter()
        .filter(|finalizer| ***finalizer != *TRACKING);
    Some(PodAction::SetFinalizers {
        name: pod.name.to_string(),
        uid: pod.uid.clone(),
        version: pod.resource_version,
        finalizers: others.map(|finalizer| finalizer.to_string()).collect(),
    })
}

/// The pods that are active: neither ended nor being deleted.
pub(super) fn active<'w, 'a>(parsed: &'w ParsedJob<'a>) -> impl Iterator<Item = &'w PodState<'a>> {
    parsed.pods.iter().filter(|pod| pod.active())
}

pub(super) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
