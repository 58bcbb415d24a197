//! Extreme numbers in objects that the server accepts.

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::support::{Cluster, Warnings, eventually};

const MOST: i32 = i32::MAX;

fn template(image: &str, more: Value) -> Value {
    let mut spec = json!({
        "terminationGracePeriodSeconds": i64::MAX,
        "tolerations": [{ "key": "k", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": i64::MAX }],
        "containers": [{ "name": "c", "image": image }],
    });
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    json!({ "metadata": { "labels": { "app": "a" } }, "spec": spec })
}

fn job() -> Value {
    json!({
        "parallelism": 1, "completions": 1, "backoffLimit": MOST,
        "activeDeadlineSeconds": i64::MAX, "ttlSecondsAfterFinished": MOST,
        "template": template("done", json!({ "restartPolicy": "Never" })),
    })
}

/// findings S32: controllers compute with extreme numbers and do not panic.
#[tokio::test]
async fn controllers_work_with_numbers_at_the_ends_of_their_range() {
    let warnings = Warnings::default();
    let _collected = tracing::subscriber::set_default(warnings.clone());
    let cluster = Cluster::new().await;
    let selector = json!({ "matchLabels": { "app": "a" } });
    let named = |spec: Value| json!({ "metadata": { "name": "x" }, "spec": spec });
    let template_of_index = template("i", json!({}));
    cluster
        .create::<StatefulSet>(named(json!({
            "serviceName": "x", "replicas": 1, "minReadySeconds": MOST,
            "revisionHistoryLimit": MOST, "selector": selector, "template": template_of_index,
            "updateStrategy": { "rollingUpdate": { "partition": MOST } },
        })))
        .await;
    cluster
        .create::<Deployment>(named(json!({
            "replicas": 1, "minReadySeconds": MOST - 1, "progressDeadlineSeconds": MOST,
            "revisionHistoryLimit": MOST, "selector": selector, "template": template_of_index,
            "strategy": { "rollingUpdate": { "maxSurge": MOST, "maxUnavailable": MOST } },
        })))
        .await;
    cluster.create::<Job>(named(job())).await;
    cluster
        .create::<CronJob>(named(json!({
            "schedule": "* * * * *", "startingDeadlineSeconds": i64::MAX,
            "successfulJobsHistoryLimit": MOST, "failedJobsHistoryLimit": MOST,
            "jobTemplate": { "spec": job() },
        })))
        .await;
    cluster
        .create::<PodDisruptionBudget>(named(json!({ "minAvailable": MOST, "selector": selector })))
        .await;
    let sets = cluster.api::<StatefulSet>();
    let ready = |ready: Option<i32>| ready == Some(1);
    eventually(async || {
        let status = sets.get("x").await.unwrap().status;
        status.is_some_and(|status| ready(status.ready_replicas))
    })
    .await;
    let deployments = cluster.api::<Deployment>();
    eventually(async || {
        let status = deployments.get("x").await.unwrap().status;
        status.is_some_and(|status| ready(status.ready_replicas))
    })
    .await;
    let jobs = cluster.api::<Job>();
    eventually(async || {
        let status = jobs.get("x").await.unwrap().status;
        status.is_some_and(|status| ready(status.succeeded))
    })
    .await;
    assert!(warnings.found().is_empty(), "{:?}", warnings.found());
}
