//! PodDisruptionBudgets.

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::support::{Cluster, wait_for};

fn budget(spec: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({ "matchLabels": { "app": "web" } });
    json!({ "metadata": { "name": "budget" }, "spec": spec })
}

/// Allowed, healthy, desired and expected pods, and the condition's reason.
fn shows(budgets: &[PodDisruptionBudget]) -> String {
    let status = budgets[0].status.clone().unwrap_or_default();
    let number = |count: Option<i32>| count.unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let reason = conditions.first().map(|c| c.reason.clone());
    format!(
        "{} {} {} {} {}",
        number(status.disruptions_allowed),
        number(status.current_healthy),
        number(status.desired_healthy),
        number(status.expected_pods),
        reason.unwrap_or_default()
    )
}

#[tokio::test]
async fn a_budget_counts_what_its_controllers_want() {
    let cluster = Cluster::new().await;
    let template = json!({ "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "a" }] } });
    let deployment = json!({ "metadata": { "name": "web" }, "spec": { "replicas": 4,
        "selector": { "matchLabels": { "app": "web" } }, "template": template } });
    cluster.create::<Deployment>(deployment).await;
    let share = json!({ "maxUnavailable": "30%" });
    cluster.create::<PodDisruptionBudget>(budget(share)).await;
    wait_for(&cluster, "2 4 2 4 SufficientPods", shows).await;
    cluster
        .patch::<Deployment>("web", json!({ "spec": { "replicas": 2 } }))
        .await;
    wait_for(&cluster, "1 2 1 2 SufficientPods", shows).await;

    // A pod without a controller cannot be part of a percentage.
    let stray = json!({ "metadata": { "name": "stray", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "a" }] } });
    cluster.create::<Pod>(stray).await;
    wait_for(&cluster, "0 3 0 0 SyncFailed", shows).await;
    let least = json!({ "spec": { "minAvailable": 3, "maxUnavailable": null } });
    cluster.patch::<PodDisruptionBudget>("budget", least).await;
    wait_for(&cluster, "0 3 3 3 InsufficientPods", shows).await;
}
