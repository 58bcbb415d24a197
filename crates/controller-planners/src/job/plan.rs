//! The plan of a job.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::labels::JOB_NAME;
use resource_kinds::pod_view::PodView;

use super::observed::{Observed, ParsedJob, tracked};
use super::tracking::{self, Counted, active, number};
use super::{JOB, outcome, pods};
use crate::pod_set::{Owner, PodAction};

/// An event for the Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    /// Whether its type is `Warning` (otherwise `Normal`).
    pub warning: bool,
    /// Reason of the event, for instance `SuccessfulCreate`.
    pub reason: String,
    /// Message of the event.
    pub message: String,
}

/// The planned writes, in this order; each only if the previous one succeeded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobPlan {
    /// Adoptions and releases of pods.
    pub prepare: Vec<PodAction>,
    /// The new status, if it differs from the stored one.
    pub status: Option<JobStatus>,
    /// Pods whose finalizer is removed after the status is written.
    pub release: Vec<PodAction>,
    /// Pods to create and delete.
    pub pods: Vec<PodAction>,
    /// Whether to delete the job, because its time to live has passed.
    pub expired: bool,
    /// Events to report, in order.
    pub notices: Vec<JobEvent>,
    /// The time after which to plan again even without an event.
    pub requeue_after: Option<Duration>,
}

impl JobPlan {
    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        let actions = [&self.prepare, &self.release, &self.pods];
        self.status.is_none() && !self.expired && actions.iter().all(|list| list.is_empty())
    }
}

/// Plans the writes for a Job. Any specification gives a plan.
pub fn plan(observed: &Observed, now: Timestamp) -> Result<JobPlan, IncompleteMetadata> {
    let parsed = ParsedJob::of(observed, now)?;
    let counted = tracking::count(&parsed);
    if parsed.owner.deleting || parsed.owner.selector.is_none() {
        return Ok(JobPlan {
            release: counted.release,
            ..JobPlan::default()
        });
    }
    if parsed.ended() {
        return Ok(after_the_end(&parsed, counted));
    }
    Ok(go_on(parsed, counted))
}

fn after_the_end(parsed: &ParsedJob<'_>, counted: Counted) -> JobPlan {
    let expiry = outcome::expiry(parsed);
    let expired = expiry.is_some_and(|at| at <= parsed.now);
    JobPlan {
        release: counted.release,
        pods: pods::stop_all(parsed),
        expired,
        requeue_after: wait(expiry.filter(|_| !expired), parsed.now),
        ..JobPlan::default()
    }
}

fn go_on(parsed: ParsedJob<'_>, counted: Counted) -> JobPlan {
    let mut status = counted.status.clone();
    let mut notices = Vec::new();
    let decided = outcome::judge(&parsed, &counted);
    let (mut actions, mut wake) = (Vec::new(), None);
    match &decided {
        Some(decided) => {
            actions.extend(pods::stop_all(&parsed));
            let nothing_runs = parsed.pods.iter().all(|pod| pod.ended());
            let all_counted = is_settled(&status);
            let over = nothing_runs && all_counted && !counted.delayed;
            notices.extend(outcome::write(&mut status, decided, over, parsed.now));
        }
        None => {
            notices.extend(outcome::suspend(&parsed, &mut status));
            if parsed.suspended() {
                actions.extend(pods::stop_all(&parsed));
            } else {
                (actions, wake) = pods::adjust(&parsed, &counted);
            }
        }
    }
    fill_counts(&parsed, &mut status);
    let deadline = match &decided {
        None if status.start_time == parsed.stored.start_time => outcome::deadline(&parsed),
        _ => None,
    };
    let wake = [wake, deadline].into_iter().flatten().min();
    JobPlan {
        status: (status != with_zeros(&parsed.stored)).then_some(status),
        release: counted.release,
        pods: actions,
        notices,
        requeue_after: wait(wake, parsed.now),
        expired: false,
        prepare: parsed.sorted.actions,
    }
}

/// Whether all ended pods are in the counts.
fn is_settled(status: &JobStatus) -> bool {
    let lists = status.uncounted_terminated_pods.as_ref();
    lists.is_none_or(|lists| lists.succeeded.is_none() && lists.failed.is_none())
}

fn fill_counts(parsed: &ParsedJob<'_>, status: &mut JobStatus) {
    status.active = Some(number(active(parsed).count()));
    status.ready = Some(number(active(parsed).filter(|pod| pod.ready()).count()));
    let leaving = parsed.pods.iter().filter(|p| p.terminating && !p.ended());
    status.terminating = Some(number(leaving.count()));
}

/// The stored status with the zeros that the server omits.
fn with_zeros(stored: &JobStatus) -> JobStatus {
    let mut status = stored.clone();
    for count in [
        &mut status.active,
        &mut status.succeeded,
        &mut status.failed,
    ] {
        count.get_or_insert(0);
    }
    status
}

fn wait(at: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let at = at?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// Removes the finalizer of pods that no job will count: pods of a deleted job, and pods without a job that no job can
/// adopt. `job` is the present job of that name.
pub fn orphaned(
    pods: &[Arc<PodView>],
    name: &str,
    job: Option<&Job>,
) -> Result<Vec<PodAction>, IncompleteMetadata> {
    let selector = job.and_then(|job| job.spec.as_ref()?.selector.clone());
    let owner = job.map(|job| Owner::new(JOB, &job.metadata, &selector.unwrap_or_default()));
    let owner = owner.transpose()?;
    let is_of_job = |uid: &Uid| owner.as_ref().is_some_and(|owner| owner.uid == *uid);
    let adoptable = |pod: &PodView| {
        let owner = owner.as_ref().filter(|owner| !owner.deleting);
        !pod.is_deleting() && owner.is_some_and(|owner| owner.selects_pod(pod))
    };
    let of_nobody = |pod: &&Arc<PodView>| match &pod.controller {
        Some(owner) => *owner.kind == *JOB.kind && *owner.name == *name && !is_of_job(&owner.uid),
        None => {
            let is_orphan = job_of(pod) == Some(name) && !adoptable(pod);
            if is_orphan {
                cov_mark::hit!(findings_c14);
            }
            is_orphan
        }
    };
    let orphans = pods.iter().filter(of_nobody);
    Ok(orphans.filter_map(|pod| tracking::untrack(pod)).collect())
}

/// The name of the job that counts a pod, whether the job exists or not; empty if the pod does not
/// name it.
pub fn job_of(pod: &PodView) -> Option<&str> {
    if !tracked(pod) {
        return None;
    }
    match &pod.controller {
        Some(owner) => (*owner.kind == *JOB.kind).then_some(&*owner.name),
        None => Some(pod.label(JOB_NAME).unwrap_or_default()),
    }
}
