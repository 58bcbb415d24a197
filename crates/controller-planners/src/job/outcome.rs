//! The end of a job, and its result.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::{ParsedJob, holds};
use super::plan::JobEvent;
use super::success_policy;
use super::tracking::{Counted, active, number};

/// The result of a job, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobResult {
    pub well: bool,
    pub reason: String,
    pub message: String,
}

impl JobResult {
    fn bad(reason: &str, message: &str) -> Self {
        Self {
            well: false,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }
}

/// The result of the job, decided now or before; `None` while the job continues.
pub(super) fn judge(parsed: &ParsedJob<'_>, counted: &Counted) -> Option<JobResult> {
    // A result in the stored status is final.
    for (kind, well) in [("FailureTarget", false), ("SuccessCriteriaMet", true)] {
        let mut conditions = parsed.stored.conditions.iter().flatten();
        if let Some(met) = conditions.find(|c| c.type_ == kind && c.status == "True") {
            return Some(JobResult {
                well,
                reason: met.reason.clone().unwrap_or_default(),
                message: met.message.clone().unwrap_or_default(),
            });
        }
    }
    if let Some(why) = &counted.fatal {
        return Some(JobResult::bad("PodFailurePolicy", why));
    }
    if is_past_limit(parsed, counted) {
        let text = "Job has reached the specified backoff limit";
        return Some(JobResult::bad("BackoffLimitExceeded", text));
    }
    if let Some((reason, text)) = too_many_failed_indexes(parsed, counted) {
        return Some(JobResult::bad(reason, text));
    }
    if deadline(parsed).is_some_and(|at| at <= parsed.now) {
        let text = "Job was active longer than specified deadline";
        return Some(JobResult::bad("DeadlineExceeded", text));
    }
    if let Some(message) = success_policy::met(&parsed.spec, &counted.done) {
        return Some(JobResult {
            well: true,
            reason: "SuccessPolicy".to_owned(),
            message,
        });
    }
    is_done(parsed, counted).then(|| JobResult {
        well: true,
        reason: "CompletionsReached".to_owned(),
        message: "Reached expected number of succeeded pods".to_owned(),
    })
}

fn is_done(parsed: &ParsedJob<'_>, counted: &Counted) -> bool {
    match parsed.spec.completions {
        Some(completions) => {
            counted.succeeded >= completions && !(completions > 0 && parsed.suspended())
        }
        // A work queue is empty when one pod has succeeded and all pods have ended.
        None => counted.succeeded > 0 && active(parsed).next().is_none(),
    }
}

/// The message if failed indexes end the job: there are more than `maxFailedIndexes`, or all other indexes are
/// complete.
fn too_many_failed_indexes(
    parsed: &ParsedJob<'_>,
    counted: &Counted,
) -> Option<(&'static str, &'static str)> {
    parsed.limit_per_index?;
    let lost = number(counted.lost.len());
    if parsed
        .spec
        .max_failed_indexes
        .is_some_and(|most| lost > most)
    {
        let text = "Job has exceeded the specified maximal number of failed indexes";
        return Some(("MaxFailedIndexesExceeded", text));
    }
    let all = number(counted.done.len()).saturating_add(lost) >= parsed.spec.completions?;
    (lost > 0 && all).then_some(("FailedIndexes", "Job has failed indexes"))
}

fn is_past_limit(parsed: &ParsedJob<'_>, counted: &Counted) -> bool {
    let limit = parsed.spec.backoff_limit.unwrap_or(6);
    if counted.failed > limit {
        return true;
    }
    let template = parsed.spec.template.spec.as_ref();
    if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let restarts: i32 = active(parsed).map(|pod| pod.restarts()).sum();
    match limit {
        0 => restarts > 0,
        limit => restarts >= limit,
    }
}

/// The time at which `activeDeadlineSeconds` ends; `None` for a suspended job and for a job that has not started.
pub(super) fn deadline(parsed: &ParsedJob<'_>) -> Option<Timestamp> {
    let seconds = parsed.spec.active_deadline_seconds?;
    let start = parsed.stored.start_time.as_ref()?;
    let running = !parsed.suspended();
    let at = start.0.checked_add(SignedDuration::from_secs(seconds));
    at.ok().filter(|_| running)
}

/// The time at which an ended job is deleted (`ttlSecondsAfterFinished`).
pub(super) fn expiry(parsed: &ParsedJob<'_>) -> Option<Timestamp> {
    let seconds = parsed.spec.ttl_seconds_after_finished?;
    let mut conditions = parsed.stored.conditions.iter().flatten();
    let ended = conditions
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let since = ended.last_transition_time.as_ref()?;
    let ttl = SignedDuration::from_secs(seconds.into());
    since.0.checked_add(ttl).ok()
}

/// Writes the result: `FailureTarget` or `SuccessCriteriaMet` at once, `Failed` or `Complete` when
/// no pod runs any more.
pub(super) fn write(
    status: &mut JobStatus,
    outcome: &JobResult,
    nothing_runs: bool,
    now: Timestamp,
) -> Option<JobEvent> {
    let (first, last) = if outcome.well {
        ("SuccessCriteriaMet", "Complete")
    } else {
        ("FailureTarget", "Failed")
    };
    let (reason, message) = (&outcome.reason, &outcome.message);
    set(status, first, true, reason, message, now);
    if !nothing_runs {
        return None;
    }
    set(status, last, true, reason, message, now);
    if outcome.well {
        status.completion_time = Some(Time(now));
        return Some(JobEvent {
            warning: false,
            reason: "Completed".to_owned(),
            message: "Job completed".to_owned(),
        });
    }
    Some(JobEvent {
        warning: true,
        reason: reason.clone(),
        message: message.clone(),
    })
}

/// Sets the condition `Suspended` in `status`, and returns the event if the condition has changed.
pub(super) fn suspend(parsed: &ParsedJob<'_>, status: &mut JobStatus) -> Option<JobEvent> {
    let noted = holds(status, "Suspended");
    let (reason, message) = match (parsed.suspended(), noted) {
        (true, false) => ("JobSuspended", "Job suspended"),
        (false, true) => ("JobResumed", "Job resumed"),
        _ => {
            if !parsed.suspended() && status.start_time.is_none() {
                status.start_time = Some(Time(parsed.now));
            }
            return None;
        }
    };
    set(status, "Suspended", !noted, reason, message, parsed.now);
    status.start_time = noted.then_some(Time(parsed.now));
    let reason = if noted { "Resumed" } else { "Suspended" };
    Some(JobEvent {
        warning: false,
        reason: reason.to_owned(),
        message: message.to_owned(),
    })
}

fn set(status: &mut JobStatus, kind: &str, on: bool, reason: &str, message: &str, now: Timestamp) {
    let value = if on { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let same = |c: &JobCondition| c.type_ == kind && c.status == value;
    if conditions.iter().any(same) {
        return;
    }
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}
