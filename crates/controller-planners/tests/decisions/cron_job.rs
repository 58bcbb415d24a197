//! CronJobs: one job for each scheduled time, as the policies demand.

use std::sync::Arc;

use controller_planners::cron_job::{CronJobPlan, JobDeletion, Observed, plan};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::batch::v1::{CronJob, Job};

fn cron_job(more: Value) -> CronJob {
    let mut spec = json!({"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow",
        "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json_tree::from_value(
        json!({"metadata": {"name": "c", "namespace": "d", "uid": "u",
        "creationTimestamp": "2026-01-01T00:00:30Z"}, "spec": spec}),
    )
    .unwrap()
}

fn job(name: &str, condition: Option<&str>) -> Arc<Job> {
    let conditions: Vec<Value> = condition
        .into_iter()
        .map(|kind| json!({"type": kind, "status": "True"}))
        .collect();
    let job = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
        "status": {"conditions": conditions, "startTime": "2026-01-01T00:00:00Z"}});
    Arc::new(json_tree::from_value(job).unwrap())
}

fn at(time: &str, cron_job: CronJob, jobs: Vec<Arc<Job>>) -> CronJobPlan {
    let observed = Observed {
        cron_job: Arc::new(cron_job),
        jobs,
    };
    let now: Timestamp = format!("2026-01-01T{time}Z").parse().unwrap();
    plan(&observed, now).unwrap()
}

fn deletion(name: &str) -> JobDeletion {
    JobDeletion {
        name: name.to_owned(),
        uid: name.parse().unwrap(),
    }
}

fn created(plan: &CronJobPlan) -> Option<String> {
    plan.create
        .as_ref()
        .and_then(|job| job.metadata.name.clone())
}

#[test]
fn a_job_is_made_when_its_time_has_come() {
    let early = at("00:09:00", cron_job(json!({})), Vec::new());
    assert_eq!(
        (created(&early), early.requeue_after.unwrap().as_secs()),
        (None, 60)
    );
    let due = at("00:10:01", cron_job(json!({})), Vec::new());
    // The number in the name is in minutes since 1970.
    assert_eq!(created(&due).as_deref(), Some("c-29453770"));
    let job = due.create.unwrap();
    assert_eq!(job.metadata.labels.unwrap()["a"], "b");
    let time =
        &job.metadata.annotations.unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert_eq!(time, "2026-01-01T00:10:00Z");
    let last = due.status.unwrap().last_schedule_time.unwrap();
    assert_eq!(last.0.to_string(), "2026-01-01T00:10:00Z");
}

#[test]
fn of_several_times_missed_the_last_counts() {
    let late = at("05:03:00", cron_job(json!({})), Vec::new());
    assert_eq!(created(&late).as_deref(), Some("c-29454060"));
    assert!(late.notices.is_empty());
    let strict = cron_job(json!({"startingDeadlineSeconds": 100}));
    assert_eq!(created(&at("05:03:00", strict, Vec::new())), None);
    let often = cron_job(json!({"schedule": "* * * * *"}));
    let late = at("23:03:30", often, Vec::new());
    assert_eq!(created(&late).as_deref(), Some("c-29455143"));
    assert_eq!(late.notices[0].reason, "TooManyMissedTimes");
}

#[test]
fn the_policy_says_what_becomes_of_a_job_that_still_runs() {
    let running = || vec![job("c-1", None)];
    let with = |policy: &str| {
        at(
            "00:10:01",
            cron_job(json!({"concurrencyPolicy": policy})),
            running(),
        )
    };
    assert!(created(&with("Allow")).is_some());
    let forbid = with("Forbid");
    assert_eq!(
        (created(&forbid), forbid.notices[0].reason),
        (None, "JobAlreadyActive")
    );
    let replace = with("Replace");
    assert!(created(&replace).is_some());
    assert_eq!(replace.delete, [deletion("c-1")]);
    let suspended = cron_job(json!({"suspend": true}));
    let plan = at("00:10:01", suspended, running());
    assert_eq!((created(&plan), plan.requeue_after), (None, None));
    assert_eq!(plan.status.unwrap().active.unwrap().len(), 1);
}

#[test]
fn ended_jobs_are_kept_within_limits() {
    let jobs = vec![
        job("c-1", Some("Complete")),
        job("c-2", Some("Complete")),
        job("c-3", Some("Failed")),
    ];
    let plan = at("00:05:00", cron_job(json!({})), jobs);
    assert_eq!(plan.delete, [deletion("c-1")]);
}

#[test]
fn a_zone_moves_the_times() {
    let zoned = cron_job(json!({"schedule": "30 5 * * *", "timeZone": "Asia/Kolkata"}));
    let plan = at("00:00:31", zoned, Vec::new());
    // At half past five the time zone had midnight, before the CronJob was created.
    assert_eq!(created(&plan), None);
    assert_eq!(plan.requeue_after.unwrap().as_secs(), 24 * 3600 - 31);
    let unknown = cron_job(json!({"timeZone": "Moon/Crater"}));
    let plan = at("00:10:01", unknown, Vec::new());
    assert_eq!(
        (created(&plan), plan.notices[0].reason),
        (None, "UnknownTimeZone")
    );
}

// findings C6: the event is that of kube-controller-manager.
#[test]
fn an_active_job_that_was_deleted_is_told_and_forgotten() {
    cov_mark::check!(findings_c6);
    let mut cron_job = cron_job(json!({}));
    let active =
        json!({"active": [{"name": "here", "uid": "here"}, {"name": "gone", "uid": "gone"}]});
    cron_job.status = json_tree::from_value(active).unwrap();
    let plan = at("00:09:00", cron_job, vec![job("here", None)]);
    let reported: Vec<(bool, &str, &str)> = plan
        .notices
        .iter()
        .map(|notice| (notice.warning, notice.reason, &*notice.message))
        .collect();
    assert_eq!(
        reported,
        [(false, "MissingJob", "Active job went missing: gone")]
    );
    let active = plan.status.unwrap().active.unwrap();
    assert_eq!(active.len(), 1);
    assert_eq!(active[0].name.as_deref(), Some("here"));
}
