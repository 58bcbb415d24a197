//! The number of replicas that the metrics demand.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2 as api;

use super::observed::{Observed, PodFacts, milli};
use super::other_metrics::IndexedMetric;
use super::usage::{Goal, Pods, Tolerance, quantity};

/// The demand of all metrics together.
pub(super) struct Demand {
    /// The largest number of replicas that a metric demands.
    pub replicas: i32,
    /// The metric with the largest demand, as the event names it.
    pub metric: String,
}

/// The failure of a metric.
pub(super) struct Failure {
    pub reason: &'static str,
    /// The error of the metric, for the condition's message.
    pub error: String,
    /// The error with the metric's index.
    pub within: String,
}

/// The results of all metrics.
pub(super) struct Evaluation {
    /// The demand, or the reason why there is none.
    pub demand: Result<Demand, String>,
    /// One status for each metric; empty for a metric without a measurement.
    pub statuses: Vec<api::MetricStatus>,
    /// The failures, in the order of the metrics.
    pub failures: Vec<Failure>,
}

/// Evaluates every metric; the largest demand decides. If a measurement of a metric is missing, the target is not
/// scaled down.
pub(super) fn of_all(observed: &Observed, replicas: i32, now: Timestamp) -> Evaluation {
    let metrics = observed.autoscaler.spec.metrics.as_deref();
    let metrics = metrics.unwrap_or_default();
    let mut best: Option<Demand> = None;
    let mut failures = Vec::new();
    let mut statuses = Vec::new();
    for (index, metric) in metrics.iter().enumerate() {
        match of_metric(observed, index, metric, replicas, now) {
            Ok((demand, status)) => {
                statuses.push(status);
                if best
                    .as_ref()
                    .is_none_or(|best| demand.replicas > best.replicas)
                {
                    best = Some(demand);
                }
            }
            Err(failure) => {
                statuses.push(api::MetricStatus::default());
                failures.push(failure);
            }
        }
    }
    let invalid = failures.first().map(|first| {
        let (count, all) = (failures.len(), metrics.len());
        format!(
            "invalid metrics ({count} invalid out of {all}), first error is: {}",
            first.within
        )
    });
    let demand = match (best, invalid) {
        (None, None) => Err("no metrics".to_owned()),
        (None, Some(invalid)) => Err(invalid),
        (Some(best), Some(invalid)) if best.replicas < replicas => Err(invalid),
        (Some(best), _) => Ok(best),
    };
    Evaluation {
        demand,
        statuses,
        failures,
    }
}

fn of_metric(
    observed: &Observed,
    index: usize,
    metric: &api::MetricSpec,
    replicas: i32,
    now: Timestamp,
) -> Result<(Demand, api::MetricStatus), Failure> {
    let status = |type_: &str| api::MetricStatus {
        type_: type_.to_owned(),
        ..api::MetricStatus::default()
    };
    if let Some(source) = &metric.resource {
        let name = &source.name;
        let measured = of_resource(observed, name, None, &source.target, replicas, now);
        let measured = measured.map_err(|error| Failure {
            reason: "FailedGetResourceMetric",
            within: format!("failed to get {name} resource metric value: {error}"),
            error,
        });
        let (demand, current) = measured?;
        let resource = api::ResourceMetricStatus {
            name: name.clone(),
            current,
        };
        let status = api::MetricStatus {
            resource: Some(resource),
            ..status("Resource")
        };
        return Ok((demand, status));
    }
    if let Some(source) = &metric.container_resource {
        let (name, container) = (&source.name, &source.container);
        let target = &source.target;
        let measured = of_resource(observed, name, Some(container), target, replicas, now);
        let measured = measured.map_err(|error| Failure {
            reason: "FailedGetContainerResourceMetric",
            within: format!("failed to get {container} container metric value: {error}"),
            error,
        });
        let (demand, current) = measured?;
        let resource = api::ContainerResourceMetricStatus {
            name: name.clone(),
            container: container.clone(),
            current,
        };
        let status = api::MetricStatus {
            container_resource: Some(resource),
            ..status("ContainerResource")
        };
        return Ok((demand, status));
    }
    let indexed = IndexedMetric {
        observed,
        index,
        spec: metric,
    };
    indexed.demand(replicas, now)
}

fn of_resource(
    observed: &Observed,
    resource: &str,
    container: Option<&str>,
    target: &api::MetricTarget,
    replicas: i32,
    now: Timestamp,
) -> Result<(Demand, api::MetricValueStatus), String> {
    let tolerance = Tolerance::of(observed);
    if let Some(average_value) = &target.average_value {
        let average_value = milli(&average_value.0).unwrap_or_default();
        let goal = Goal::Value {
            goal: average_value,
        };
        let result = group(observed, resource, container, now)
            .and_then(|pods| pods.replicas(&goal, replicas, tolerance))
            .map_err(|error| format!("failed to get {resource} usage: {error}"))?;
        let demand = Demand {
            replicas: result.replicas,
            metric: format!("{resource} resource"),
        };
        let status = api::MetricValueStatus {
            average_value: Some(quantity(resource, result.usage.average)),
            ..api::MetricValueStatus::default()
        };
        return Ok((demand, status));
    }
    let Some(average_value) = target.average_utilization else {
        return Err(
            "invalid resource metric source: neither an average utilization target nor \
                    an average value (usage) target was set"
                .to_owned(),
        );
    };
    let result = group(observed, resource, container, now)
        .and_then(|pods| {
            let requests = requests(&observed.pods, resource, container)?;
            let goal = Goal::Share {
                goal: i64::from(average_value),
                requests,
            };
            pods.replicas(&goal, replicas, tolerance)
        })
        .map_err(|error| format!("failed to get {resource} utilization: {error}"))?;
    let of_container = if container.is_some() {
        " container"
    } else {
        ""
    };
    let demand = Demand {
        replicas: result.replicas,
        metric: format!("{resource}{of_container} resource utilization (percentage of request)"),
    };
    let status = api::MetricValueStatus {
        average_utilization: Some(i32::try_from(result.usage.measure).unwrap_or(i32::MAX)),
        average_value: Some(quantity(resource, result.usage.average)),
        value: None,
    };
    Ok((demand, status))
}

fn requests(
    pods: &[PodFacts],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let request = |pod: &PodFacts| Ok((pod.name.clone(), pod.request(resource, container)?));
    pods.iter().map(request).collect()
}

/// The pods of the target by their measurements of the resource metrics API.
fn group<'o>(
    observed: &'o Observed,
    resource: &str,
    container: Option<&str>,
    now: Timestamp,
) -> Result<Pods<'o>, String> {
    let about = |error: &str| format!("unable to get metrics for resource {resource}: {error}");
    let samples = observed.samples.as_ref().map_err(|error| about(error))?;
    if samples.is_empty() {
        return Err(about("no metrics returned from resource metrics API"));
    }
    Pods::of(&observed.pods, samples, resource, container, now)
}
