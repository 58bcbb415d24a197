//! The values of the custom and external metrics APIs, which extension API servers serve.

use std::time::Duration;

use controller_planners::horizontal_pod_autoscaler::{MetricSamples, pod_values, total_value};
use json_tree::Value;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, MetricIdentifier, MetricSpec, ObjectMetricSource,
};
use kube_api_client::Client;
use kube_api_client::guarded_writes;
use object_model::LabelSelector;

use super::target;

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";

/// The longest time for the values of a metric.
const LIMIT: Duration = Duration::from_secs(10);

/// The values of the autoscaler's metrics, in their order; `None` for metrics of the resource metrics API. `selector` is
/// the selector of the target's pods.
pub(super) async fn measured(
    client: &Client,
    namespace: &str,
    autoscaler: &HorizontalPodAutoscaler,
    selector: &str,
) -> Vec<Option<Result<MetricSamples, String>>> {
    let mut all = Vec::new();
    for metric in autoscaler.spec.metrics.iter().flatten() {
        let reading = tokio::time::timeout(LIMIT, values(client, namespace, metric, selector));
        all.push(match reading.await {
            Ok(values) => values,
            Err(_) => Some(Err("no response of the metrics API".to_owned())),
        });
    }
    all
}

async fn values(
    client: &Client,
    namespace: &str,
    metric: &MetricSpec,
    selector: &str,
) -> Option<Result<MetricSamples, String>> {
    if let Some(source) = &metric.pods {
        let path = ["namespaces", namespace, "pods", "*", &source.metric.name];
        let values = custom(client, &path, &source.metric, Some(selector)).await;
        return Some(values.map(|list| MetricSamples::Pods(pod_values(&list))));
    }
    if let Some(source) = &metric.object {
        return Some(of_object(client, namespace, source).await);
    }
    let source = metric.external.as_ref()?;
    let about =
        |error: String| format!("unable to fetch metrics from external metrics API: {error}");
    let values = async {
        version(client, EXTERNAL, &["v1beta1"]).await?;
        let path = [
            "apis",
            EXTERNAL,
            "v1beta1",
            "namespaces",
            namespace,
            &source.metric.name,
        ];
        let selector = metric_selector(&source.metric)?;
        let query = [("labelSelector", selector.as_str())];
        let list = client.get_at::<Value>(&path, &query).await;
        let list = list.map_err(|error| guarded_writes::message(&error))?;
        let total = total_value(&list);
        total.ok_or_else(|| "no metrics returned from external metrics API".to_owned())
    };
    Some(values.await.map(MetricSamples::Value).map_err(about))
}

async fn of_object(
    client: &Client,
    namespace: &str,
    source: &ObjectMetricSource,
) -> Result<MetricSamples, String> {
    let (object, name) = (&source.described_object, &source.metric.name);
    let served = target::resource(client, object).await?;
    let mut resource = served.resource.plural.clone();
    if !served.resource.group.is_empty() {
        resource = format!("{resource}.{}", served.resource.group);
    }
    let in_namespace = ["namespaces", namespace, &resource, &object.name, name];
    let of_namespace = ["namespaces", &object.name, "metrics", name];
    let in_cluster = [&resource, &object.name, name];
    let path: &[&str] = match served.namespaced {
        true => &in_namespace,
        false if resource == "namespaces" => &of_namespace,
        false => &in_cluster.map(String::as_str),
    };
    let list = custom(client, path, &source.metric, None).await?;
    let total = total_value(&list);
    total
        .map(MetricSamples::Value)
        .ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
}

/// The list of values at a path of the custom metrics API.
async fn custom(
    client: &Client,
    path: &[&str],
    metric: &MetricIdentifier,
    selector: Option<&str>,
) -> Result<Value, String> {
    let about = |error: String| format!("unable to fetch metrics from custom metrics API: {error}");
    let values = async {
        let version = version(client, CUSTOM, &["v1beta2", "v1beta1"]).await?;
        let path: Vec<&str> = ["apis", CUSTOM, version]
            .iter()
            .chain(path)
            .copied()
            .collect();
        let of_metric = metric_selector(metric)?;
        let mut query = Vec::new();
        query.extend(selector.map(|selector| ("labelSelector", selector)));
        if !of_metric.is_empty() {
            query.push(("metricLabelSelector", of_metric.as_str()));
        }
        let list = client.get_at(&path, &query).await;
        list.map_err(|error| guarded_writes::message(&error))
    };
    values.await.map_err(about)
}

/// The first of these versions that is served.
async fn version<'v>(
    client: &Client,
    group: &str,
    versions: &[&'v str],
) -> Result<&'v str, String> {
    let served = client.served_group(group).await;
    let served = served.map_err(|error| guarded_writes::message(&error))?;
    let served = served.map(|group| group.versions).unwrap_or_default();
    let mut versions = versions.iter();
    let version = versions.find(|version| served.iter().any(|one| one == *version));
    let unserved = "no known available metric versions found";
    version.copied().ok_or_else(|| unserved.to_owned())
}

/// The selector of a metric as a query parameter; empty if there is none.
fn metric_selector(metric: &MetricIdentifier) -> Result<String, String> {
    let Some(selector) = &metric.selector else {
        return Ok(String::new());
    };
    let parsed = LabelSelector::of(selector);
    let parsed = parsed.ok_or_else(|| "the selector of the metric is malformed".to_owned())?;
    Ok(parsed.to_string())
}
