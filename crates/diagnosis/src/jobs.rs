//! Jobs and CronJobs: their failures, and the reasons why they do not progress.

use controller_planners::cron_job::missed_and_next;
use jiff::SignedDuration;
use json_tree::{Value, json};
use k8s_openapi::api::batch::v1::{CronJob, Job, JobCondition};
use k8s_openapi::api::core::v1::Event;
use pod_lifecycle::diagnosis::{Remedy, remedy, text};
use resource_kinds::pod_view::{Phase, PodView};

use super::chain_builder::ChainBuilder;
use super::deletion::blocked_deletion;
use super::explanation::{CauseChain, Explanation, Object, merged};
use super::kinds::TargetKind;
use super::observed::{self, ObservedNamespace};
use super::workloads::{PodOwner, controller};

/// A job that is created with a delay up to this time is on time.
const PUNCTUAL: SignedDuration = SignedDuration::from_secs(10);

pub(super) fn job(observed: &ObservedNamespace, job: &Job, object: Object) -> Explanation {
    let meta = &job.metadata;
    if let Some(chain) = blocked_deletion(observed, &object, meta) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let summary = summary(job);
    let explanation = Explanation::fine(object.clone(), summary);
    if let Some(failed) = condition(job, "Failed").or_else(|| condition(job, "FailureTarget")) {
        return explanation.waits([failure(observed, job, &object, failed)]);
    }
    if condition(job, "Complete").is_some() {
        return explanation;
    }
    let spec = job.spec.clone().unwrap_or_default();
    if spec.suspend == Some(true) {
        let mut builder = ChainBuilder::of(observed);
        let since = condition(job, "Suspended");
        let since = since.and_then(|one| one.last_transition_time.as_ref());
        let message = "it is suspended: no pods are started";
        builder.link(
            object.clone(),
            "Suspended",
            message,
            since.map(|time| time.0),
        );
        let patch = format!(
            "patch job {} -p '{{\"spec\":{{\"suspend\":false}}}}'",
            object.name
        );
        let patch = text::kubectl(&observed.namespace, &patch);
        builder.remedy(Remedy::new("resume it").with(patch));
        return explanation.waits([builder.chain()]);
    }
    let status = job.status.clone().unwrap_or_default();
    let left = spec
        .completions
        .map(|all| all - status.succeeded.unwrap_or_default());
    let parallelism = spec.parallelism.unwrap_or(1);
    let parallelism = left.map_or(parallelism, |left| left.min(parallelism));
    let work = PodOwner {
        observed,
        object: object.clone(),
        meta,
        template: template(job),
        desired: parallelism,
    };
    let mut chains = work.pods();
    let last = last_failed(observed, job);
    match (chains.is_empty(), last) {
        // The failed pod is retried.
        (true, Some(pod)) => chains.push(retried(observed, job, &object, pod)),
        (true, None) if spec.completions.is_some() => chains.extend(work.missing()),
        _ => {}
    }
    explanation.waits(merged(chains))
}

/// The object whose template a user can change after the API server refused a pod.
fn template(job: &Job) -> String {
    match controller(&job.metadata) {
        Some(("CronJob", name)) => format!("cronjob/{name}"),
        _ => format!("job/{}", text::name(&job.metadata)),
    }
}

/// `1 of 3 completions, 2 pods failed`
fn summary(job: &Job) -> String {
    let status = job.status.clone().unwrap_or_default();
    let done = status.succeeded.unwrap_or_default();
    let completions = job.spec.as_ref().and_then(|spec| spec.completions);
    let done = match completions {
        Some(all) => format!("{done} of {all} completions"),
        None => format!("{done} pods have succeeded"),
    };
    let running = match status.active.unwrap_or_default() {
        0 => String::new(),
        1 => ", 1 pod at work".to_owned(),
        many => format!(", {many} pods at work"),
    };
    let failed = match status.failed.unwrap_or_default() {
        0 => String::new(),
        1 => ", 1 pod failed".to_owned(),
        many => format!(", {many} pods failed"),
    };
    format!("{done}{running}{failed}")
}

fn condition<'j>(job: &'j Job, kind: &str) -> Option<&'j JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind && condition.status == "True")
}

fn last_failed<'e>(observed: &'e ObservedNamespace, job: &Job) -> Option<&'e PodView> {
    let pods = observed.controlled(job.metadata.uid.as_deref());
    let failed = pods.into_iter().filter(|pod| pod.phase == Phase::Failed);
    failed.max_by_key(|pod| pod.created)
}

/// The finding for a failed job.
fn failure(
    observed: &ObservedNamespace,
    job: &Job,
    object: &Object,
    failed: &JobCondition,
) -> CauseChain {
    let mut builder = ChainBuilder::of(observed);
    let since = failed.last_transition_time.as_ref().map(|time| time.0);
    let reason = failed.reason.clone().unwrap_or_default();
    let message = text::then(": ", failed.message.as_deref().unwrap_or_default());
    builder.link(object.clone(), &*reason, format!("failed{message}"), since);
    if let Some(pod) = last_failed(observed, job) {
        builder.pod(pod);
    }
    let name = &object.name;
    let (text, change) = match &*reason {
        "DeadlineExceeded" => (
            "a failed Job is not restarted: recreate it, here without activeDeadlineSeconds",
            json!({ "activeDeadlineSeconds": null }),
        ),
        _ => (
            "a failed Job is not restarted, and its template is immutable: correct the cause, then recreate it",
            json!({}),
        ),
    };
    let remedy = match controller(&job.metadata) {
        Some(("CronJob", owner)) => Remedy::new(format!(
            "nothing to do; CronJob {owner} makes the next at its time; at once"
        ))
        .with(at_once(observed, owner, name)),
        _ => Remedy::new(text).with(remedy::job_anew(&observed.namespace, name, change)),
    };
    builder.remedy(remedy);
    builder.chain()
}

fn at_once(observed: &ObservedNamespace, cron_job: &str, after: &str) -> String {
    let create = format!("create job {after}-again --from=cronjob/{cron_job}");
    text::kubectl(&observed.namespace, &create)
}

/// The finding for a failed pod whose replacement is created after a back-off.
fn retried(observed: &ObservedNamespace, job: &Job, object: &Object, pod: &PodView) -> CauseChain {
    let mut builder = ChainBuilder::of(observed);
    let spec = job.spec.clone().unwrap_or_default();
    let failed = job.status.as_ref().and_then(|status| status.failed);
    let (failed, limit) = (failed.unwrap_or_default(), spec.backoff_limit.unwrap_or(6));
    let message = match spec.backoff_limit_per_index {
        Some(limit) => format!(
            "{failed} of its pods failed so far; each index is tried again {limit} times \
             (backoffLimitPerIndex)"
        ),
        None => format!(
            "{failed} of its pods failed so far; it is tried again {limit} times (backoffLimit)"
        ),
    };
    builder.link(object.clone(), "Retrying", message, None);
    builder.pod(pod);
    builder.remedy(
        Remedy::new(
            "correct the cause; if it is the template, recreate the Job with another, because a Job's template is immutable",
        )
        .with(remedy::job_anew(
            &observed.namespace,
            &object.name,
            json!({}),
        )),
    );
    builder.chain()
}

pub(super) fn cron_job(
    observed: &ObservedNamespace,
    cron_job: &CronJob,
    object: Object,
) -> Explanation {
    let meta = &cron_job.metadata;
    if let Some(chain) = blocked_deletion(observed, &object, meta) {
        return Explanation::fine(object, "being deleted").waits([chain]);
    }
    let name = object.name.clone();
    let patch = |spec: Value| {
        let patch = format!("patch cronjob {name} -p '{}'", json!({ "spec": spec }));
        text::kubectl(&observed.namespace, &patch)
    };
    let spec = &cron_job.spec;
    let (missed, next) = match missed_and_next(cron_job, observed.now) {
        Ok(times) => times,
        Err(why) => {
            let mut builder = ChainBuilder::of(observed);
            builder.link(object.clone(), "UnparseableSchedule", why.to_string(), None);
            let text = "a schedule that can be read";
            builder.remedy(Remedy::new(text).with(patch(json!({ "schedule": "*/5 * * * *" }))));
            return Explanation::fine(object, "no times").waits([builder.chain()]);
        }
    };
    if spec.suspend == Some(true) {
        return Explanation::fine(object, "suspended").note(format!(
            "it is suspended: no jobs are made; to continue: {}",
            patch(json!({ "suspend": false }))
        ));
    }
    let next = next.map_or_else(|| "never".to_owned(), |at| format!("at {at}"));
    let mut explanation = Explanation::fine(object.clone(), format!("its next job comes {next}"));
    let jobs = jobs_of(observed, cron_job);
    let running = jobs.iter().rev().find(|job| !has_ended(job));
    if let Some(running) = running
        && spec.concurrency_policy.as_deref() == Some("Forbid")
        && missed.is_some()
    {
        let chain = forbidden(
            observed,
            &object,
            running,
            patch(json!({
                "concurrencyPolicy": "Allow",
            })),
        );
        return explanation.waits([chain]);
    }
    let last = jobs
        .last()
        .filter(|job| condition(job, "Complete").is_none());
    if let Some(last) = last {
        let of_job = observed.object("Job", text::name(&last.metadata));
        explanation = explanation.waits(self::job(observed, last, of_job).chains);
    } else if let Some(missed) = missed.filter(|at| observed.now.duration_since(*at) > PUNCTUAL) {
        explanation = not_begun(observed, cron_job, explanation, missed);
    }
    explanation
}

/// The jobs of a CronJob, oldest first.
fn jobs_of<'e>(observed: &'e ObservedNamespace, cron_job: &CronJob) -> Vec<&'e Job> {
    let name = text::name(&cron_job.metadata);
    let jobs = observed.jobs.iter().map(AsRef::as_ref);
    let owned = jobs.filter(|job: &&Job| controller(&job.metadata) == Some(("CronJob", name)));
    let mut owned: Vec<&Job> = owned.collect();
    owned.sort_by_key(|job| job.metadata.creation_timestamp.as_ref().map(|time| time.0));
    owned
}

fn has_ended(job: &Job) -> bool {
    condition(job, "Complete").is_some() || condition(job, "Failed").is_some()
}

/// The finding if the previous job still runs, and the concurrency policy forbids a second job.
fn forbidden(
    observed: &ObservedNamespace,
    object: &Object,
    running: &Job,
    allow: String,
) -> CauseChain {
    let name = text::name(&running.metadata);
    let mut builder = ChainBuilder::of(observed);
    let message =
        format!("its next job waits for the end of job {name} (concurrencyPolicy: Forbid)");
    builder.link(object.clone(), "JobAlreadyActive", message, None);
    let of_job = observed.object("Job", name);
    let since = running
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0);
    builder.link(of_job, "Running", summary(running), since);
    let pods = observed.controlled(running.metadata.uid.as_deref());
    let mut unwell = pods
        .iter()
        .filter(|pod| pod_lifecycle::diagnosis::pod(pod).is_some());
    if let Some(pod) = unwell.next() {
        builder.pod(pod);
    }
    builder.remedy(Remedy::new("the job must end; or allow concurrent jobs").with(allow));
    builder.chain()
}

/// The finding if a scheduled time has passed without a job.
fn not_begun(
    observed: &ObservedNamespace,
    cron_job: &CronJob,
    explanation: Explanation,
    missed: jiff::Timestamp,
) -> Explanation {
    let object = explanation.object.clone();
    let uid = cron_job.metadata.uid.as_deref();
    let refused = |event: &Event| {
        event.reason.as_deref() == Some("FailedCreate") && observed::last_seen(event) > Some(missed)
    };
    if observed
        .newest_event(&object.kind, &object.name, uid, refused)
        .is_some()
    {
        let mut builder = ChainBuilder::of(observed);
        let message = format!("the job of {missed} could not be made");
        builder.link(object.clone(), "FailedCreate", message, None);
        let template = format!("{}/{}", TargetKind::CronJob.short(), object.name);
        builder.refusal(&object, uid, "", &template, 1);
        return explanation.waits([builder.chain()]);
    }
    let deadline = cron_job.spec.starting_deadline_seconds;
    let late = deadline.map_or(String::new(), |seconds| {
        format!(": it was not started within {seconds} seconds (startingDeadlineSeconds)")
    });
    explanation.note(format!(
        "there is no job of {missed}{late}; to make one: {}",
        at_once(observed, &object.name, &object.name)
    ))
}
