//! Job: pods that are to end well, a number of times.
//!
//! **Goal**: `completions` pods that succeeded, at most `parallelism` at once; or the reason why
//! that cannot be.
//! **Relies on**: a view in which the job's own last writes are seen (`pod_set`). Pods that ended
//! keep the finalizer `batch.kubernetes.io/job-tracking` until the status says that they did.
//! **Guarantees**: each pod is counted once, also when the controller dies between two writes; an
//! ended job starts nothing.
//!
//! Read [`plan()`] first: `tracking` counts, `outcome` judges, `pods` decides what to start and
//! stop, `failure_policy` what a failure means.

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
pub use plan::{Notice, Plan, job_of, orphaned, plan};

/// Keeps a pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// API version and kind of a Job.
pub const JOB: (&str, &str) = ("batch/v1", "Job");
