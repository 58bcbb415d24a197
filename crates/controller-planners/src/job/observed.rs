//! The observed state, and its parsed form.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use object_model::IncompleteMetadata;
use resource_kinds::labels::JOB_COMPLETION_INDEX;
use resource_kinds::pod_view::PodView;

use super::indexes::Indexes;
use super::{JOB, TRACKING};
use crate::pod_set::{self, Owner, PodState, Sorted};

/// The observed state of one Job.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub job: Arc<Job>,
    /// Pods of its namespace: at least those it owns, and those without an owner.
    pub pods: Vec<Arc<PodView>>,
}

/// The parsed job and its pods.
pub(super) struct ParsedJob<'a> {
    pub owner: Owner<'a>,
    pub spec: JobSpec,
    pub stored: JobStatus,
    pub now: Timestamp,
    pub pods: Vec<PodState<'a>>,
    pub sorted: Sorted<'a>,
    /// Number of indexes of an Indexed job.
    pub indexes: Option<u32>,
    /// `backoffLimitPerIndex` of the specification.
    pub limit_per_index: Option<i32>,
    /// Whether a pod is replaced only after it has ended (`podReplacementPolicy: Failed`).
    pub patient: bool,
}

impl<'a> ParsedJob<'a> {
    pub fn of(observed: &'a Observed, now: Timestamp) -> Result<Self, IncompleteMetadata> {
        let job = &*observed.job;
        let spec = job.spec.clone().unwrap_or_default();
        let selector = spec.selector.clone().unwrap_or_default();
        let owner = Owner::new(JOB, &job.metadata, &selector)?;
        let sorted = owner.sort(&observed.pods);
        let states = sorted
            .mine
            .iter()
            .map(|pod| pod_set::state(pod, SignedDuration::ZERO, now));
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let count = u32::try_from(spec.completions.unwrap_or_default()).unwrap_or_default();
        Ok(Self {
            owner,
            stored: job.status.clone().unwrap_or_default(),
            now,
            pods: states.collect(),
            sorted,
            indexes: indexed.then_some(count),
            limit_per_index: spec.backoff_limit_per_index.filter(|_| indexed),
            patient: spec.pod_replacement_policy.as_deref() == Some("Failed"),
            spec,
        })
    }

    /// Whether the job's condition is True.
    pub fn is(&self, condition: &str) -> bool {
        holds(&self.stored, condition)
    }

    pub fn ended(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    pub fn suspended(&self) -> bool {
        self.spec.suspend.unwrap_or_default()
    }

    /// Whether a pod counts as failed.
    pub fn failed(&self, pod: &PodState<'_>) -> bool {
        match pod.phase {
            pod_set::Phase::Failed => true,
            pod_set::Phase::Succeeded => false,
            _ => pod.terminating && !self.patient,
        }
    }

    /// The completed indexes of the status.
    pub fn done_indexes(&self) -> Indexes {
        let text = self.stored.completed_indexes.as_deref();
        Indexes::read(text.unwrap_or_default(), self.indexes.unwrap_or_default())
    }
}

impl ParsedJob<'_> {
    /// The failed indexes of the status.
    pub fn failed_indexes(&self) -> Indexes {
        let text = self.stored.failed_indexes.as_deref();
        Indexes::read(text.unwrap_or_default(), self.indexes.unwrap_or_default())
    }

    /// Whether the result is decided, though pods may still run.
    pub fn is_ending(&self) -> bool {
        self.is("FailureTarget") || self.is("SuccessCriteriaMet")
    }
}

/// Whether the status's condition is True.
pub(super) fn holds(status: &JobStatus, condition: &str) -> bool {
    let mut all = status.conditions.iter().flatten();
    all.any(|c| c.type_ == condition && c.status == "True")
}

/// Whether the pod has the tracking finalizer.
pub(super) fn tracked(pod: &PodView) -> bool {
    let mut finalizers = pod.finalizers.iter();
    finalizers.any(|finalizer| **finalizer == *TRACKING)
}

/// The index of a pod.
pub(super) fn index(pod: &PodState<'_>) -> Option<u32> {
    let text = pod.pod.annotations.get(JOB_COMPLETION_INDEX);
    text?.parse().ok()
}
