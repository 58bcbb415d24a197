//! Jobs in which each index has its own limit of failures (`backoffLimitPerIndex`).
//!
//! The failure count of an index is written on its next pod. A failed pod is therefore counted and released only when
//! its replacement exists, or the index has failed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use resource_kinds::labels::{JOB_INDEX_FAILURES, JOB_INDEX_IGNORED_FAILURES};

use super::failure_policy::{self, FailureEffect};
use super::observed::{ParsedJob, index};
use super::pods::{delay, ended_at};
use crate::pod_set::PodState;

/// The effect of a pod's failure on its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The failure has no effect on an index: there is no limit for each index, or the job is about to end.
    Pod,
    /// The index may retry.
    IndexSoFar,
    /// The index has failed.
    Index,
}

pub(super) fn failure(
    parsed: &ParsedJob<'_>,
    pod: &PodState<'_>,
    index: Option<u32>,
    verdict: &FailureEffect,
) -> Failure {
    let Some(limit) = parsed.limit_per_index else {
        return Failure::Pod;
    };
    let is_valid = parsed
        .indexes
        .is_some_and(|end| index.is_some_and(|index| index < end));
    let exhausted = *verdict == FailureEffect::Count && failures(pod) >= i64::from(limit);
    match verdict {
        // Pods that were stopped because the job ends have not failed.
        _ if !is_valid || parsed.is_ending() => Failure::Pod,
        FailureEffect::FailIndex => Failure::Index,
        _ if exhausted => Failure::Index,
        FailureEffect::FailJob(_) => Failure::Pod,
        _ => Failure::IndexSoFar,
    }
}

/// Whether there is a newer pod of the pod's index.
pub(super) fn is_replaced(parsed: &ParsedJob<'_>, pod: &PodState<'_>) -> bool {
    let mut others = parsed.pods.iter();
    others.any(|other| index(other) == index(pod) && age(other) > age(pod))
}

/// The failures of an index before its next pod.
pub(super) struct History {
    failures: i64,
    ignored: i64,
    /// The earliest start of the next pod; `None` without failures.
    pub not_before: Option<Timestamp>,
}

/// The failure history for the next pod of an index; `None` without `backoffLimitPerIndex`.
pub(super) fn history(parsed: &ParsedJob<'_>, ordinal: u32) -> Option<History> {
    parsed.limit_per_index?;
    let failed = parsed.pods.iter().filter(|pod| parsed.failed(pod));
    let last = failed
        .filter(|pod| index(pod) == Some(ordinal))
        .max_by_key(|pod| age(pod));
    let Some(last) = last else {
        return Some(History {
            failures: 0,
            ignored: 0,
            not_before: None,
        });
    };
    let (mut failures, mut ignored) = (failures(last), ignored(last));
    match failure_policy::verdict(&parsed.spec, last) {
        FailureEffect::Ignore => ignored += 1,
        _ => failures += 1,
    }
    let all = usize::try_from(failures.saturating_add(ignored)).unwrap_or_default();
    Some(History {
        failures,
        ignored,
        not_before: ended_at(last).and_then(|at| at.checked_add(delay(all)).ok()),
    })
}

impl History {
    /// Writes the history into a pod's annotations.
    pub fn note(&self, pod: &mut Pod) {
        let notes = pod.metadata.annotations.get_or_insert_default();
        notes.insert(JOB_INDEX_FAILURES.to_owned(), self.failures.to_string());
        if self.ignored > 0 {
            let key = JOB_INDEX_IGNORED_FAILURES.to_owned();
            notes.insert(key, self.ignored.to_string());
        }
    }
}

/// The number of failures of the index before this pod.
fn failures(pod: &PodState<'_>) -> i64 {
    number(pod, JOB_INDEX_FAILURES)
}

fn ignored(pod: &PodState<'_>) -> i64 {
    number(pod, JOB_INDEX_IGNORED_FAILURES)
}

fn number(pod: &PodState<'_>, key: &str) -> i64 {
    let text = pod.pod.annotations.get(key);
    let number = text.and_then(|text| text.parse().ok()).unwrap_or(0);
    i64::max(number, 0)
}

/// The sort key of a pod. Pods of one index run one after the other; pods of the same second are ordered by their
/// failure count.
fn age(pod: &PodState<'_>) -> (Option<Timestamp>, i64) {
    (pod.created(), failures(pod).saturating_add(ignored(pod)))
}
