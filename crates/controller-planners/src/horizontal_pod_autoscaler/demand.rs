//! The number of replicas that the metrics demand.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use object_model::Quantity;

use super::observed::{Observed, PodFacts, PodMeasurement, milli};

/// A deviation up to this share does not scale (kube-controller-manager's default).
const TOLERANCE: f64 = 0.1;
/// CPU usage of a pod is not trusted for this time after its start (as kube-controller-manager).
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready within this time after its start counts as never ready (as
/// kube-controller-manager).
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

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
    for metric in metrics {
        match of_metric(observed, metric, replicas, now) {
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
    Err(not_measured(observed, metric))
}

/// The error of a metric whose API is not served.
fn not_measured(observed: &Observed, metric: &api::MetricSpec) -> Failure {
    const CUSTOM: &str = "unable to fetch metrics from custom metrics API: \
        no known available metric versions found";
    let namespace = observed.autoscaler.metadata.namespace.as_deref();
    let namespace = namespace.unwrap_or_default();
    if let Some(source) = &metric.pods {
        let error = format!("unable to get metric {}: {CUSTOM}", source.metric.name);
        return Failure {
            reason: "FailedGetPodsMetric",
            within: format!("failed to get pods metric value: {error}"),
            error,
        };
    }
    if let Some(source) = &metric.object {
        let (metric, object) = (&source.metric.name, &source.described_object);
        let (kind, name) = (&object.kind, &object.name);
        let error = format!("unable to get metric {metric} on {kind} {namespace}/{name}: {CUSTOM}");
        return Failure {
            reason: "FailedGetObjectMetric",
            within: format!("failed to get object metric value: {error}"),
            error,
        };
    }
    if let Some(source) = &metric.external {
        let name = &source.metric.name;
        let error = format!(
            "unable to get external metric {namespace}/{name}: unable to fetch metrics from \
             external metrics API: no known available metric versions found"
        );
        return Failure {
            reason: "FailedGetExternalMetric",
            within: format!("failed to get {name} external metric value: {error}"),
            error,
        };
    }
    let error = format!("unknown metric source type {:?}", metric.type_);
    Failure {
        reason: "InvalidMetricSourceType",
        within: error.clone(),
        error,
    }
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
        let result = Pods::group(observed, resource, container, now)
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
    let result = Pods::group(observed, resource, container, now)
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

/// An amount in thousandths as a quantity: memory in binary units if it is whole.
fn quantity(resource: &str, milli: i64) -> ApiQuantity {
    let exact = Quantity::from_milli(milli);
    let formatted = if resource == "memory" && exact.is_integer() {
        Quantity::from_bytes(exact.value())
    } else {
        exact
    };
    ApiQuantity(formatted.to_string())
}

fn requests(
    pods: &[PodFacts],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let request = |pod: &PodFacts| Ok((pod.name.clone(), pod.request(resource, container)?));
    pods.iter().map(request).collect()
}

/// The tolerated deviation of usage from the goal, down and up.
#[derive(Clone, Copy)]
struct Tolerance {
    down: f64,
    up: f64,
}

impl Tolerance {
    fn of(observed: &Observed) -> Self {
        let behavior = observed.autoscaler.spec.behavior.as_ref();
        let configured = |rules: Option<&api::HPAScalingRules>| {
            let share = milli(&rules?.tolerance.as_ref()?.0)?;
            Some(share as f64 / 1000.0)
        };
        let down = configured(behavior.and_then(|behavior| behavior.scale_down.as_ref()));
        let up = configured(behavior.and_then(|behavior| behavior.scale_up.as_ref()));
        Self {
            down: down.unwrap_or(TOLERANCE),
            up: up.unwrap_or(TOLERANCE),
        }
    }

    fn covers(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// The goal of a metric.
enum Goal {
    /// An average value.
    Value { goal: i64 },
    /// A percentage of the requests.
    Share {
        goal: i64,
        requests: BTreeMap<String, i64>,
    },
}

/// Usage of pods.
#[derive(Clone, Copy)]
struct Usage {
    /// The compared measure: the average, or a percentage.
    measure: i64,
    average: i64,
    /// The measure divided by the goal.
    ratio: f64,
}

impl Goal {
    fn usage(&self, metrics: &BTreeMap<&str, i64>) -> Result<Usage, String> {
        match self {
            Self::Value { goal } => {
                let average = average(metrics.values().copied());
                Ok(Usage {
                    measure: average,
                    average,
                    ratio: ratio(average, *goal),
                })
            }
            Self::Share { goal, requests } => {
                let measured = metrics
                    .iter()
                    .filter_map(|(pod, used)| Some((*used, *requests.get(*pod)?)));
                let measured: Vec<(i64, i64)> = measured.collect();
                let used: i128 = measured.iter().map(|(used, _)| i128::from(*used)).sum();
                let requested: i128 = measured
                    .iter()
                    .map(|(_, requested)| i128::from(*requested))
                    .sum();
                if requested == 0 {
                    return Err("no metrics returned matched known pods".to_owned());
                }
                let share = i64::try_from(used * 100 / requested).unwrap_or(i64::MAX);
                Ok(Usage {
                    measure: share,
                    average: average(measured.iter().map(|(used, _)| *used)),
                    ratio: ratio(share, *goal),
                })
            }
        }
    }

    /// The assumed usage of an unmeasured pod when the target is scaled down.
    fn assumed(&self, pod: &str) -> i64 {
        match self {
            Self::Value { goal } => *goal,
            Self::Share { goal, requests } => {
                let request = requests.get(pod).copied().unwrap_or_default();
                let share = i128::from(request) * i128::from((*goal).max(100)) / 100;
                i64::try_from(share).unwrap_or(i64::MAX)
            }
        }
    }
}

/// The measure divided by the goal. Validation refuses a goal below 1.
fn ratio(measure: i64, goal: i64) -> f64 {
    measure as f64 / goal.max(1) as f64
}

fn average(values: impl Iterator<Item = i64> + Clone) -> i64 {
    let count = i128::try_from(values.clone().count()).unwrap_or(i128::MAX);
    let sum: i128 = values.map(i128::from).sum();
    i64::try_from(sum / count.max(1)).unwrap_or(i64::MAX)
}

/// The pods by the state of their measurement.
struct Pods<'o> {
    /// Pods whose usage counts.
    metrics: BTreeMap<&'o str, i64>,
    /// The number of measured pods among the pods of the target.
    ready: usize,
    unready: Vec<&'o str>,
    missing: Vec<&'o str>,
}

/// The result of a metric.
struct MetricResult {
    replicas: i32,
    usage: Usage,
}

impl<'o> Pods<'o> {
    fn group(
        observed: &'o Observed,
        resource: &str,
        container: Option<&str>,
        now: Timestamp,
    ) -> Result<Self, String> {
        let about = |error: &str| format!("unable to get metrics for resource {resource}: {error}");
        let samples = observed.samples.as_ref().map_err(|error| about(error))?;
        if samples.is_empty() {
            return Err(about("no metrics returned from resource metrics API"));
        }
        if observed.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        let measured = samples.iter();
        let measured: BTreeMap<&str, (&PodMeasurement, i64)> = measured
            .filter_map(|sample| {
                let usage = sample.usage(resource, container)?;
                Some((sample.pod.as_str(), (sample, usage)))
            })
            .collect();
        let mut pods = Self {
            metrics: measured
                .iter()
                .map(|(pod, (_, usage))| (*pod, *usage))
                .collect(),
            ready: 0,
            unready: Vec::new(),
            missing: Vec::new(),
        };
        for pod in &observed.pods {
            let name = pod.name.as_str();
            if pod.is_inactive {
                pods.metrics.remove(name);
            } else if pod.pending {
                pods.metrics.remove(name);
                pods.unready.push(name);
            } else {
                match measured.get(name) {
                    None => pods.missing.push(name),
                    Some((sample, _)) if resource == "cpu" && !counts(pod, sample, now) => {
                        pods.metrics.remove(name);
                        pods.unready.push(name);
                    }
                    Some(_) => pods.ready += 1,
                }
            }
        }
        if pods.metrics.is_empty() {
            return Err(
                "did not receive metrics for targeted pods (pods might be unready)".to_owned(),
            );
        }
        Ok(pods)
    }

    /// The number of replicas that changes usage to the goal. Pods that are unmeasured or not ready are assumed to
    /// reduce the change; this assumption never reverses the direction of the change.
    fn replicas(
        &self,
        goal: &Goal,
        current: i32,
        tolerance: Tolerance,
    ) -> Result<MetricResult, String> {
        let usage = goal.usage(&self.metrics)?;
        let result = |replicas: i32| MetricResult { replicas, usage };
        let up_with_unready = !self.unready.is_empty() && usage.ratio > 1.0;
        if !up_with_unready && self.missing.is_empty() {
            return Ok(result(match tolerance.covers(usage.ratio) {
                true => current,
                false => times(usage.ratio, self.ready),
            }));
        }
        let mut metrics = self.metrics.clone();
        for pod in &self.missing {
            if usage.ratio < 1.0 {
                metrics.insert(pod, goal.assumed(pod));
            } else if usage.ratio > 1.0 {
                metrics.insert(pod, 0);
            }
        }
        if up_with_unready {
            metrics.extend(self.unready.iter().map(|pod| (*pod, 0)));
        }
        let ratio = goal.usage(&metrics)?.ratio;
        let turned = (usage.ratio < 1.0 && ratio > 1.0) || (usage.ratio > 1.0 && ratio < 1.0);
        if tolerance.covers(ratio) || turned {
            return Ok(result(current));
        }
        let replicas = times(ratio, metrics.len());
        let turned = (ratio < 1.0 && replicas > current) || (ratio > 1.0 && replicas < current);
        Ok(result(if turned { current } else { replicas }))
    }
}

/// Rounded up. The cast of a float saturates.
fn times(ratio: f64, pods: usize) -> i32 {
    (ratio * pods as f64).ceil() as i32
}

/// Whether a pod's CPU usage counts: the usage of a starting pod does not.
fn counts(pod: &PodFacts, sample: &PodMeasurement, now: Timestamp) -> bool {
    let (Some((ready, since)), Some(started)) = (pod.ready, pod.started) else {
        return false;
    };
    let after = |time: Timestamp, span: SignedDuration| time.checked_add(span).unwrap_or(time);
    if after(started, CPU_INITIALIZATION) > now {
        ready && sample.at >= after(since, sample.window)
    } else {
        ready || after(started, INITIAL_READINESS) <= since
    }
}
