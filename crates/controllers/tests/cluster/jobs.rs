//! Jobs and CronJobs.

use json_tree::{Value, json};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube_api_client::{DeleteParams, ResourceExt};

use crate::support::{Cluster, names, wait_for};

fn template(image: &str) -> Value {
    json!({ "spec": { "restartPolicy": "Never",
        "containers": [{ "name": "c", "image": image }] } })
}

fn job(image: &str, more: Value) -> Value {
    let mut spec = json!({ "template": template(image) });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({ "metadata": { "name": "pi" }, "spec": spec })
}

/// `2 0 Complete`: succeeded pods, failed pods, true conditions.
fn shows(jobs: &[Job]) -> String {
    let all = jobs.iter().map(|job| {
        let status = job.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let true_conditions: Vec<String> = conditions
            .into_iter()
            .filter(|condition| condition.status == "True")
            .map(|condition| condition.type_)
            .collect();
        let number = |count: Option<i32>| count.unwrap_or_default();
        format!(
            "{} {} {}",
            number(status.succeeded),
            number(status.failed),
            true_conditions.join("+")
        )
    });
    all.collect::<Vec<_>>().join(", ")
}

fn finalizers(pods: &[Pod]) -> String {
    let all = pods.iter().flat_map(|pod| pod.finalizers());
    all.count().to_string()
}

#[tokio::test]
async fn a_job_runs_until_enough_pods_have_succeeded() {
    let cluster = Cluster::new().await;
    let more = json!({ "completions": 5, "parallelism": 2 });
    cluster.create::<Job>(job("done", more)).await;
    wait_for(&cluster, "5 0 SuccessCriteriaMet+Complete", shows).await;
    wait_for(&cluster, "0", finalizers).await;
    wait_for::<Pod>(&cluster, "5", |pods| pods.len().to_string()).await;
    wait_for::<Event>(&cluster, "true", |events| {
        let is_reported = |text: &str| events.iter().any(|e| e.message.as_deref() == Some(text));
        is_reported("Job completed").to_string()
    })
    .await;
    cluster
        .delete::<Job>("pi", DeleteParams::background())
        .await;
    wait_for::<Pod>(&cluster, "", names).await;
}

#[tokio::test]
async fn an_indexed_job_has_a_pod_for_each_index() {
    let cluster = Cluster::new().await;
    let more = json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed" });
    cluster.create::<Job>(job("done", more)).await;
    wait_for(&cluster, "3 0 SuccessCriteriaMet+Complete", shows).await;
    wait_for::<Job>(&cluster, "0-2", |jobs| {
        let status = jobs[0].status.clone().unwrap_or_default();
        status.completed_indexes.unwrap_or_default()
    })
    .await;
    let pods = cluster
        .api::<Pod>()
        .list(&Default::default())
        .await
        .unwrap();
    let mut hosts: Vec<String> = pods
        .items
        .iter()
        .filter_map(|pod| pod.spec.as_ref()?.hostname.clone())
        .collect();
    hosts.sort();
    assert_eq!(hosts, ["pi-0", "pi-1", "pi-2"]);
}

#[tokio::test]
async fn a_job_that_fails_too_often_has_failed() {
    let cluster = Cluster::new().await;
    cluster
        .create::<Job>(job("fails", json!({ "backoffLimit": 0 })))
        .await;
    wait_for(&cluster, "0 1 FailureTarget+Failed", shows).await;
    wait_for(&cluster, "0", finalizers).await;
}

#[tokio::test]
async fn a_job_that_is_suspended_has_no_pods() {
    let cluster = Cluster::new().await;
    cluster
        .create::<Job>(job("slow", json!({ "parallelism": 2 })))
        .await;
    wait_for::<Pod>(&cluster, "2", |pods| pods.len().to_string()).await;
    cluster
        .patch::<Job>("pi", json!({ "spec": { "suspend": true } }))
        .await;
    wait_for::<Pod>(&cluster, "", names).await;
    wait_for::<Job>(&cluster, "true", |jobs| {
        shows(jobs).ends_with("Suspended").to_string()
    })
    .await;
    cluster
        .patch::<Job>("pi", json!({ "spec": { "suspend": false } }))
        .await;
    wait_for::<Pod>(&cluster, "2", |pods| pods.len().to_string()).await;
    // Pods of a deleted job lose the finalizer, also pods that the job leaves behind.
    let orphan = DeleteParams {
        propagation_policy: Some(kube_api_client::PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    cluster.delete::<Job>("pi", orphan).await;
    wait_for(&cluster, "0", finalizers).await;
    wait_for::<Pod>(&cluster, "2", |pods| pods.len().to_string()).await;
}

#[tokio::test]
async fn an_ended_job_goes_after_its_time() {
    let cluster = Cluster::new().await;
    cluster
        .create::<Job>(job("done", json!({ "ttlSecondsAfterFinished": 0 })))
        .await;
    wait_for::<Event>(&cluster, "true", |events| {
        events
            .iter()
            .any(|e| e.reason.as_deref() == Some("Completed"))
            .to_string()
    })
    .await;
    wait_for::<Job>(&cluster, "", names).await;
    wait_for::<Pod>(&cluster, "", names).await;
}

#[tokio::test]
async fn a_cron_job_makes_jobs_by_the_clock() {
    let cluster = Cluster::new().await;
    let often = json!({ "metadata": { "name": "often" }, "spec": { "schedule": "@every 1s",
        "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 1,
        "jobTemplate": { "spec": { "template": template("done") } } } });
    cluster.create::<CronJob>(often).await;
    wait_for::<Event>(&cluster, "true", |events| {
        let is_reported = |reason: &str| events.iter().any(|e| e.reason.as_deref() == Some(reason));
        let all = is_reported("SuccessfulCreate") && is_reported("SawCompletedJob");
        all.to_string()
    })
    .await;
    wait_for::<Job>(&cluster, "true", |jobs| {
        jobs.iter()
            .any(|job| job.name_any().starts_with("often-"))
            .to_string()
    })
    .await;
    wait_for::<CronJob>(&cluster, "true", |all| {
        let status = all[0].status.clone().unwrap_or_default();
        status.last_successful_time.is_some().to_string()
    })
    .await;
}

#[tokio::test]
async fn indexes_fail_and_succeed_on_their_own() {
    let cluster = Cluster::new().await;
    let more = json!({ "completionMode": "Indexed", "completions": 2, "parallelism": 2,
        "backoffLimitPerIndex": 0 });
    cluster.create::<Job>(job("fails", more)).await;
    wait_for(&cluster, "0 2 FailureTarget+Failed", shows).await;
    let job_now = cluster.api::<Job>().get("pi").await.unwrap();
    let status = job_now.status.unwrap();
    assert_eq!(status.failed_indexes.as_deref(), Some("0,1"));
    let conditions = status.conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("FailedIndexes"));
    wait_for(&cluster, "0", finalizers).await;
    cluster
        .delete::<Job>("pi", DeleteParams::background())
        .await;
    wait_for(&cluster, "", names::<Job>).await;

    let more = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 1,
        "successPolicy": { "rules": [{ "succeededIndexes": "0" }] } });
    cluster.create::<Job>(job("done", more)).await;
    let done = |jobs: &[Job]| {
        let status = jobs[0].status.clone().unwrap_or_default();
        let mut conditions = status.conditions.into_iter().flatten();
        let complete = conditions.find(|one| one.type_ == "Complete");
        complete.and_then(|one| one.reason).unwrap_or_default()
    };
    wait_for(&cluster, "SuccessPolicy", done).await;
}

// findings C14: otherwise the namespace of the pod could never be deleted.
#[tokio::test]
async fn a_pod_that_its_job_releases_loses_the_finalizer() {
    let cluster = Cluster::new().await;
    cluster.create::<Job>(job("slow", json!({}))).await;
    wait_for::<Pod>(&cluster, "1", |pods| pods.len().to_string()).await;
    let pods = cluster.api::<Pod>().list(&Default::default()).await;
    let name = pods.unwrap().items[0].name_any();
    let labels =
        json!({ "batch.kubernetes.io/controller-uid": "another", "controller-uid": "another" });
    let patch = json!({ "metadata": { "labels": labels } });
    cluster.patch::<Pod>(&name, patch).await;
    // The job creates another pod, which it owns.
    wait_for::<Pod>(&cluster, "free:0 owned:1", |pods| {
        let mut printed: Vec<String> = pods
            .iter()
            .map(|pod| match pod.owner_references().len() {
                0 => format!("free:{}", pod.finalizers().len()),
                _ => format!("owned:{}", pod.finalizers().len()),
            })
            .collect();
        printed.sort();
        printed.join(" ")
    })
    .await;
}
