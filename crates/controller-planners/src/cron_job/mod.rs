//! CronJob: jobs at scheduled times.
//!
//! **Goal**: a job for the latest scheduled time, unless the time is too long ago or the previous job still runs; a
//! limited number of finished jobs. **Relies on**: the API server, which refuses a second job of the same name.
//! **Guarantees**: each scheduled time creates at most one job, because the job's name is computed from the time.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use object_model::cron::Schedule;
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity;
use thiserror::Error;

use crate::pod_set::{Owner, OwnerKind, owner_reference};

/// API version and kind of a CronJob.
pub const CRON_JOB: OwnerKind = OwnerKind {
    api_version: "batch/v1",
    kind: "CronJob",
};
/// The annotation with the scheduled time of a job.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this cause a warning.
const MISSED_MAX: usize = 100;

/// The observed state of one CronJob.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub cron_job: Arc<CronJob>,
    /// The jobs that the CronJob controls, and all existing jobs in its status's `active` list.
    pub jobs: Vec<Arc<Job>>,
}

/// An event for the CronJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronJobEvent {
    /// Whether its type is `Warning` (otherwise `Normal`).
    pub warning: bool,
    /// Reason of the event, for instance `SuccessfulCreate`.
    pub reason: &'static str,
    /// Message of the event.
    pub message: String,
}

/// The planned writes, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CronJobPlan {
    pub delete: Vec<JobDeletion>,
    /// The Job to create, if a scheduled time is due.
    pub create: Option<Box<Job>>,
    /// The new status, if it differs from the stored one.
    pub status: Option<CronJobStatus>,
    /// Events to report, in order.
    pub notices: Vec<CronJobEvent>,
    /// The time to the next scheduled time.
    pub requeue_after: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobDeletion {
    pub name: String,
    pub uid: Uid,
}

/// Plans the writes for a CronJob. Any specification gives a plan.
pub fn plan(observed: &Observed, now: Timestamp) -> Result<CronJobPlan, IncompleteMetadata> {
    let cron_job = &observed.cron_job;
    let spec = cron_job.spec.clone();
    let mut plan = CronJobPlan::default();
    if cron_job.metadata.deletion_timestamp.is_some() {
        return Ok(plan);
    }
    let stored = cron_job.status.clone().unwrap_or_default();
    let mut status = CronJobStatus {
        active: None,
        ..stored.clone()
    };
    let recorded = stored.active.clone().unwrap_or_default();
    let (active, ended): (Vec<&Arc<Job>>, Vec<&Arc<Job>>) =
        observed.jobs.iter().partition(|job| outcome(job).is_none());
    note_ends(&recorded, &ended, &mut status, &mut plan);
    note_missing(&recorded, &observed.jobs, &mut plan);
    forget_old(&spec, &ended, &mut plan)?;
    let mut active: Vec<ObjectReference> = active.into_iter().map(|job| reference(job)).collect();
    if !spec.suspend.unwrap_or_default() {
        match times(cron_job, &spec) {
            Ok(times) => start(
                cron_job,
                &spec,
                &times,
                now,
                &mut active,
                &mut status,
                &mut plan,
            )?,
            Err(error) => plan.notices.push(error.notice()),
        }
    }
    active.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    status.active = (!active.is_empty()).then_some(active);
    plan.status = (status != stored).then_some(status);
    Ok(plan)
}

/// Whether a job succeeded; `None` while it is active.
fn outcome(job: &Job) -> Option<bool> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let mut ends = conditions.iter().filter(|c| c.status == "True");
    ends.find_map(|condition| match condition.type_.as_str() {
        "Complete" => Some(true),
        "Failed" => Some(false),
        _ => None,
    })
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Reports newly finished jobs, and records the last success.
fn note_ends(
    recorded: &[ObjectReference],
    ended: &[&Arc<Job>],
    status: &mut CronJobStatus,
    plan: &mut CronJobPlan,
) {
    for job in ended {
        let well = outcome(job) == Some(true);
        if recorded.iter().any(|active| active.uid == job.metadata.uid) {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let result = if well { "Complete" } else { "Failed" };
            plan.notices.push(CronJobEvent {
                warning: false,
                reason: "SawCompletedJob",
                message: format!("Saw completed job: {name}, condition: {result}"),
            });
        }
        let at = job.status.as_ref().and_then(|s| s.completion_time.clone());
        if well && at > status.last_successful_time {
            status.last_successful_time = at;
        }
    }
}

/// Reports active jobs that were deleted.
fn note_missing(recorded: &[ObjectReference], jobs: &[Arc<Job>], plan: &mut CronJobPlan) {
    let is_there = |active: &&ObjectReference| jobs.iter().any(|j| j.metadata.uid == active.uid);
    for active in recorded.iter().filter(|active| !is_there(active)) {
        let name = active.name.as_deref().unwrap_or_default();
        cov_mark::hit!(findings_c6);
        plan.notices.push(CronJobEvent {
            warning: false,
            reason: "MissingJob",
            message: format!("Active job went missing: {name}"),
        });
    }
}

/// Deletes finished jobs beyond the history limits, the oldest first.
fn forget_old(
    spec: &CronJobSpec,
    ended: &[&Arc<Job>],
    plan: &mut CronJobPlan,
) -> Result<(), IncompleteMetadata> {
    for (well, limit) in [
        (true, spec.successful_jobs_history_limit),
        (false, spec.failed_jobs_history_limit),
    ] {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            continue;
        };
        let jobs = ended.iter().filter(|job| outcome(job) == Some(well));
        let mut jobs: Vec<&&Arc<Job>> = jobs.collect();
        jobs.sort_unstable_by_key(|job| {
            let start = job.status.as_ref().and_then(|s| s.start_time.clone());
            (start, job.metadata.name.clone())
        });
        let surplus = jobs.len().saturating_sub(limit);
        for job in jobs.into_iter().take(surplus) {
            let meta = &job.metadata;
            delete(meta.object_name()?, meta.object_uid()?, plan);
        }
    }
    Ok(())
}

fn delete(name: &str, uid: Uid, plan: &mut CronJobPlan) {
    plan.notices.push(CronJobEvent {
        warning: false,
        reason: "SuccessfulDelete",
        message: format!("Deleted job {name}"),
    });
    plan.delete.push(JobDeletion {
        name: name.to_owned(),
        uid,
    });
}

/// The schedule with its time zone.
struct Times {
    schedule: Schedule,
    zone: TimeZone,
    since: Timestamp,
}

/// The reason why a CronJob has no scheduled times.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScheduleError {
    #[error("unparseable schedule {schedule:?} : {problem}")]
    Schedule { schedule: String, problem: String },
    #[error("invalid timeZone: \"{0}\"")]
    TimeZone(String),
}

impl ScheduleError {
    fn notice(&self) -> CronJobEvent {
        CronJobEvent {
            warning: true,
            reason: match self {
                Self::Schedule { .. } => "UnparseableSchedule",
                Self::TimeZone(_) => "UnknownTimeZone",
            },
            message: self.to_string(),
        }
    }
}

fn times(cron_job: &CronJob, spec: &CronJobSpec) -> Result<Times, ScheduleError> {
    let schedule = Schedule::parse(&spec.schedule).map_err(|error| ScheduleError::Schedule {
        schedule: spec.schedule.clone(),
        problem: error.to_string(),
    })?;
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => TimeZoneDatabase::bundled()
            .get(name)
            .map_err(|_| ScheduleError::TimeZone(name.to_owned()))?,
    };
    let status = cron_job.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let since = last.or(cron_job.metadata.creation_timestamp.as_ref());
    Ok(Times {
        schedule,
        zone,
        since: since.map_or(Timestamp::MAX, |time| time.0),
    })
}

/// The latest scheduled time without a job, and the next scheduled time.
///
/// # Errors
/// The reason why the schedule cannot be parsed.
pub fn missed_and_next(
    cron_job: &CronJob,
    now: Timestamp,
) -> Result<(Option<Timestamp>, Option<Timestamp>), ScheduleError> {
    let spec = cron_job.spec.clone();
    let times = times(cron_job, &spec)?;
    let (due, _) = last_due(&times, times.since, now);
    let next = times.schedule.next(now, &times.zone);
    Ok((due, next))
}

/// Plans the job for the latest scheduled time, and the next wake-up.
fn start(
    cron_job: &CronJob,
    spec: &CronJobSpec,
    times: &Times,
    now: Timestamp,
    active: &mut Vec<ObjectReference>,
    status: &mut CronJobStatus,
    plan: &mut CronJobPlan,
) -> Result<(), IncompleteMetadata> {
    let deadline = spec
        .starting_deadline_seconds
        .map(SignedDuration::from_secs);
    let earliest = deadline.and_then(|deadline| now.checked_sub(deadline).ok());
    let since = earliest.map_or(times.since, |earliest| earliest.max(times.since));
    let next = times.schedule.next(now, &times.zone);
    plan.requeue_after =
        next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
    let (due, missed) = last_due(times, since, now);
    if missed > MISSED_MAX {
        plan.notices.push(CronJobEvent {
            warning: true,
            reason: "TooManyMissedTimes",
            message: "too many missed start times. Set or decrease .spec.startingDeadlineSeconds \
                      or check clock skew"
                .to_owned(),
        });
    }
    let Some(due) = due else {
        return Ok(());
    };
    let job = job(cron_job, spec, due)?;
    let job_name = &job.metadata.name;
    // The job exists; only the status lacks it.
    if active.iter().any(|one| one.name == *job_name) {
        status.last_schedule_time = status.last_schedule_time.take().max(Some(Time(due)));
        return Ok(());
    }
    let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        plan.notices.push(CronJobEvent {
            warning: false,
            reason: "JobAlreadyActive",
            message: "Not starting job because prior execution is running and concurrency policy \
                      is Forbid"
                .to_owned(),
        });
        return Ok(());
    }
    if policy == "Replace" {
        for one in active.drain(..) {
            let name = one.name.unwrap_or_default();
            let uid = one.uid.unwrap_or_default().parse()?;
            delete(&name, uid, plan);
        }
    }
    plan.create = Some(Box::new(job));
    status.last_schedule_time = Some(Time(due));
    Ok(())
}

/// The last scheduled time after `since` and up to `now`, and the number of scheduled times in that interval.
fn last_due(times: &Times, since: Timestamp, now: Timestamp) -> (Option<Timestamp>, usize) {
    let (mut due, mut missed) = (None, 0);
    let mut at = since;
    while let Some(next) = times.schedule.next(at, &times.zone).filter(|at| *at <= now) {
        due = Some(next);
        missed += 1;
        at = next;
        // After many missed times the search skips half of the remaining interval, as long as a scheduled time follows.
        if missed > MISSED_MAX {
            let half = now.duration_since(at) / 2;
            let ahead = at.checked_add(half).unwrap_or(at);
            let later = times.schedule.next(ahead, &times.zone);
            if later.is_some_and(|later| later <= now) {
                at = ahead;
            }
        }
    }
    (due, missed)
}

/// The job for a scheduled time.
fn job(cron_job: &CronJob, spec: &CronJobSpec, due: Timestamp) -> Result<Job, IncompleteMetadata> {
    let owner = Owner::new(CRON_JOB, &cron_job.metadata, &LabelSelector::default())?;
    let from = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = from.annotations.unwrap_or_default();
    let zone = spec.time_zone.as_deref();
    annotations.insert(SCHEDULED.to_owned(), format_time(due, zone));
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", owner.name, due.as_second() / 60)),
            namespace: Some(owner.namespace.to_owned()),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner_reference(&owner)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    })
}

/// A time in the given zone, with its UTC offset.
fn format_time(at: Timestamp, zone: Option<&str>) -> String {
    let zone = zone.and_then(|name| TimeZoneDatabase::bundled().get(name).ok());
    match zone {
        Some(zone) => at.display_with_offset(zone.to_offset(at)).to_string(),
        None => at.to_string(),
    }
}
