//! HorizontalPodAutoscalers (kubectl.md 10.2).

use json_tree::{Value, json};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v1 as first;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_api_client::{Api, ApiResource, DynamicObject, PostParams};

use crate::support::{Cluster, wait_for};

fn scaler(target: Value, bounds: (i32, i32)) -> Value {
    let metric = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    json!({"metadata": {"name": "scaler"}, "spec": {"scaleTargetRef": target,
        "minReplicas": bounds.0, "maxReplicas": bounds.1, "metrics": [metric]}})
}

fn set(replicas: i32) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"serviceName": "web", "replicas": replicas,
        "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "a", "resources": {"requests": {"cpu": "1"}}}]}}}})
}

/// Current and desired replicas, and the reasons of the conditions.
fn shows(scalers: &[HorizontalPodAutoscaler]) -> String {
    let status = scalers[0].status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let reasons: Vec<String> = conditions
        .iter()
        .map(|one| format!("{}={}", one.status, one.reason.clone().unwrap_or_default()))
        .collect();
    format!(
        "{} {} {}",
        status.current_replicas.unwrap_or_default(),
        status.desired_replicas,
        reasons.join(" ")
    )
}

fn replicas(sets: &[StatefulSet]) -> String {
    let spec = sets[0].spec.as_ref().unwrap();
    spec.replicas.unwrap_or_default().to_string()
}

#[tokio::test]
async fn bounds_hold_and_what_cannot_be_measured_is_left_alone() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(5)).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"});
    cluster
        .create::<HorizontalPodAutoscaler>(scaler(target, (1, 3)))
        .await;
    wait_for(&cluster, "3", replicas).await;
    wait_for(&cluster, "5 3 True=SucceededRescale", shows).await;
    let reported = |events: &[Event]| {
        let mut all = events.iter();
        let one = all.find(|event| event.reason.as_deref() == Some("SuccessfulRescale"));
        one.and_then(|event| event.message.clone())
            .unwrap_or_default()
    };
    let text = "New size: 3; reason: Current number of replicas above Spec.MaxReplicas";
    wait_for(&cluster, text, reported).await;
    // A changed spec is evaluated at once; there are no measurements.
    cluster
        .patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": {"maxReplicas": 4}}))
        .await;
    let failed = "3 3 True=SucceededGetScale False=FailedGetResourceMetric";
    wait_for(&cluster, failed, shows).await;
    cluster
        .patch::<StatefulSet>("web", json!({"spec": {"replicas": 0}}))
        .await;
    cluster
        .patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": {"maxReplicas": 5}}))
        .await;
    let off = "0 0 True=SucceededGetScale False=ScalingDisabled";
    wait_for(&cluster, off, shows).await;
}

#[tokio::test]
async fn any_kind_with_a_scale_can_be_a_target() {
    let cluster = Cluster::new().await;
    let crd = json!({"metadata": {"name": "farms.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "farms", "singular": "farm", "kind": "Farm", "listKind": "FarmList"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}},
            "subresources": {"scale": {"specReplicasPath": ".spec.size",
                "statusReplicasPath": ".status.size"}}}]}});
    let crd: CustomResourceDefinition = json_tree::from_value(crd).unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let params = PostParams::default();
    definitions.create(&params, &crd).await.unwrap();
    let target = json!({"apiVersion": "example.com/v1", "kind": "Farm", "name": "east"});
    cluster
        .create::<HorizontalPodAutoscaler>(scaler(target, (2, 3)))
        .await;
    wait_for(&cluster, "0 0 False=FailedGetScale", shows).await;

    let kind = ApiResource::new("example.com", "v1", "Farm", "farms");
    let farms: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    let farm = json!({"apiVersion": "example.com/v1", "kind": "Farm", "metadata": {"name": "east"},
        "spec": {"size": 1}});
    let farm: DynamicObject = json_tree::from_value(farm).unwrap();
    let mut created = farms.create(&params, &farm).await;
    for _ in 0..12_000 {
        if created.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        created = farms.create(&params, &farm).await;
    }
    created.unwrap();
    cluster
        .patch::<HorizontalPodAutoscaler>("scaler", json!({"spec": {"maxReplicas": 4}}))
        .await;
    wait_for(&cluster, "1 2 True=SucceededRescale", shows).await;
    assert_eq!(farms.get("east").await.unwrap().data["spec"]["size"], 2);
}

#[tokio::test]
async fn a_scaler_of_the_first_version_is_the_same_object() {
    let cluster = Cluster::new().await;
    cluster.create::<StatefulSet>(set(1)).await;
    let spec = json!({"maxReplicas": 5, "minReplicas": 2, "targetCPUUtilizationPercentage": 60,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"}});
    let first = json!({"metadata": {"name": "scaler"}, "spec": spec});
    cluster
        .create::<first::HorizontalPodAutoscaler>(first)
        .await;
    wait_for(&cluster, "2", replicas).await;
    wait_for(&cluster, "1 2 True=SucceededRescale", shows).await;
    let second = cluster.api::<HorizontalPodAutoscaler>().get("scaler").await;
    let metrics = second.unwrap().spec.metrics.unwrap();
    let target = metrics[0].resource.clone().unwrap().target;
    assert_eq!(target.average_utilization, Some(60));
    let share = json!({"spec": {"targetCPUUtilizationPercentage": 70}});
    let changed = cluster
        .patch::<first::HorizontalPodAutoscaler>("scaler", share)
        .await;
    let status = changed.status.unwrap();
    assert_eq!(status.desired_replicas, 2);
    assert_eq!(
        changed.spec.target_cpu_utilization_percentage,
        Some(70),
        "{:?}",
        changed.metadata
    );
}

/// A metric of another API is read with its selector: here, the objects of a custom kind have the form of its values.
#[tokio::test]
async fn an_external_metric_scales_its_target() {
    let cluster = Cluster::new().await;
    let crd = json!({"metadata": {"name": "queues.external.metrics.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test"}},
        "spec": {"group": "external.metrics.k8s.io", "scope": "Namespaced",
            "names": {"plural": "queues", "singular": "queue", "kind": "Queue",
                "listKind": "QueueList"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}}}]}});
    let crd: CustomResourceDefinition = json_tree::from_value(crd).unwrap();
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let params = PostParams::default();
    definitions.create(&params, &crd).await.unwrap();
    let kind = ApiResource::new("external.metrics.k8s.io", "v1beta1", "Queue", "queues");
    let queues: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &kind);
    for (name, of, value) in [("a", "web", "12"), ("b", "web", "12"), ("c", "other", "99")] {
        let queue = json!({"apiVersion": "external.metrics.k8s.io/v1beta1", "kind": "Queue",
            "metadata": {"name": name, "labels": {"of": of}}, "value": value});
        let queue: DynamicObject = json_tree::from_value(queue).unwrap();
        let mut created = queues.create(&params, &queue).await;
        for _ in 0..12_000 {
            if created.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            created = queues.create(&params, &queue).await;
        }
        created.unwrap();
    }
    cluster.create::<StatefulSet>(set(1)).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"});
    let mut scaler = scaler(target, (1, 9));
    scaler["spec"]["metrics"] = json!([{"type": "External", "external": {
        "metric": {"name": "queues", "selector": {"matchLabels": {"of": "web"}}},
        "target": {"type": "AverageValue", "averageValue": "8"}}}]);
    cluster.create::<HorizontalPodAutoscaler>(scaler).await;
    wait_for(&cluster, "3", replicas).await;
    let reported = |scalers: &[HorizontalPodAutoscaler]| {
        let status = scalers[0].status.clone().unwrap_or_default();
        let metrics = status.current_metrics.unwrap_or_default();
        let metric = metrics.into_iter().next().and_then(|one| one.external);
        let value = metric.and_then(|one| one.current.average_value);
        value.map(|value| value.0).unwrap_or_default()
    };
    wait_for(&cluster, "24", reported).await;
}
