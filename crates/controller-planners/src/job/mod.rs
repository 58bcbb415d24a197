//! Job: pods that must succeed, a given number of times.
//!
//! **Goal**: `completions` succeeded pods, at most `parallelism` at once; or a failure with its reason. **Relies on**:
//! a snapshot that contains the job's own last writes (`pod_set`). Ended pods keep the finalizer
//! `batch.kubernetes.io/job-tracking` until the status counts them. **Guarantees**: each pod is counted once, also when
//! the controller stops between two writes; an ended job starts no pod.
//!
//! Start with [`plan()`]: `tracking` counts, `outcome` decides the result, `pods` decides which pods to start and stop,
//! `failure_policy` evaluates failures.

mod failure_policy;
mod indexes;
mod observed;
mod outcome;
mod per_index;
mod plan;
mod pods;
mod success_policy;
mod tracking;

pub use observed::Observed;
pub use plan::{JobEvent, JobPlan, job_of, orphaned, plan};

use crate::pod_set::OwnerKind;

/// The finalizer that keeps a pod until the pod is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// API version and kind of a Job.
pub const JOB: OwnerKind = OwnerKind {
    api_version: "batch/v1",
    kind: "Job",
};
