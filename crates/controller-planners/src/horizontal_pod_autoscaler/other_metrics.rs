//! The demand of metrics of the custom and external metrics APIs.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::demand::{Demand, Failure};
use super::observed::{MetricSamples, Observed, PodFacts, milli};
use super::usage::{Goal, Pods, Tolerance, quantity, ratio, times};

/// The metric at an index of the specification; its samples are at the same index.
pub(super) struct IndexedMetric<'o> {
    pub(super) observed: &'o Observed,
    pub(super) index: usize,
    pub(super) spec: &'o api::MetricSpec,
}

impl<'o> IndexedMetric<'o> {
    /// The demand of a metric that is not of the resource metrics API.
    pub(super) fn demand(
        &self,
        replicas: i32,
        now: Timestamp,
    ) -> Result<(Demand, api::MetricStatus), Failure> {
        let status = |type_: &str| api::MetricStatus {
            type_: type_.to_owned(),
            ..api::MetricStatus::default()
        };
        if let Some(source) = &self.spec.pods {
            let (demand, current) =
                self.of_pods(source, replicas, now)
                    .map_err(|error| Failure {
                        reason: "FailedGetPodsMetric",
                        within: format!("failed to get pods metric value: {error}"),
                        error,
                    })?;
            let metric = source.metric.clone();
            let pods = Some(api::PodsMetricStatus { current, metric });
            return Ok((
                demand,
                api::MetricStatus {
                    pods,
                    ..status("Pods")
                },
            ));
        }
        if let Some(source) = &self.spec.object {
            let (demand, current) = self.of_object(source, replicas).map_err(|error| Failure {
                reason: "FailedGetObjectMetric",
                within: format!("failed to get object metric value: {error}"),
                error,
            })?;
            let object = Some(api::ObjectMetricStatus {
                current,
                described_object: source.described_object.clone(),
                metric: source.metric.clone(),
            });
            return Ok((
                demand,
                api::MetricStatus {
                    object,
                    ..status("Object")
                },
            ));
        }
        if let Some(source) = &self.spec.external {
            let name = &source.metric.name;
            let (demand, current) =
                self.of_external(source, replicas)
                    .map_err(|error| Failure {
                        reason: "FailedGetExternalMetric",
                        within: format!("failed to get {name} external metric value: {error}"),
                        error,
                    })?;
            let metric = source.metric.clone();
            let external = Some(api::ExternalMetricStatus { current, metric });
            return Ok((
                demand,
                api::MetricStatus {
                    external,
                    ..status("External")
                },
            ));
        }
        let error = format!("unknown metric source type {:?}", self.spec.type_);
        Err(Failure {
            reason: "InvalidMetricSourceType",
            within: error.clone(),
            error,
        })
    }

    fn namespace(&self) -> &str {
        let namespace = self.observed.autoscaler.metadata.namespace.as_deref();
        namespace.unwrap_or_default()
    }

    /// The samples of the metric.
    ///
    /// *Errors.* The reason why there are none.
    fn samples(&self, api: &str) -> Result<&'o MetricSamples, String> {
        let outcome = self.observed.measured.get(self.index);
        match outcome.and_then(Option::as_ref) {
            Some(outcome) => outcome.as_ref().map_err(Clone::clone),
            None => Err(format!(
                "unable to fetch metrics from {api} metrics API: no known available metric versions found"
            )),
        }
    }

    fn of_pods(
        &self,
        source: &api::PodsMetricSource,
        replicas: i32,
        now: Timestamp,
    ) -> Result<(Demand, api::MetricValueStatus), String> {
        let name = &source.metric.name;
        let about = |error: String| format!("unable to get metric {name}: {error}");
        let samples = match self.samples("custom").map_err(about)? {
            MetricSamples::Pods(samples) if !samples.is_empty() => samples,
            _ => {
                return Err(about(
                    "no metrics returned from custom metrics API".to_owned(),
                ));
            }
        };
        let pods = Pods::of(&self.observed.pods, samples, "", None, now)?;
        let target = source.target.average_value.as_ref();
        let goal = Goal::Value {
            goal: target.and_then(|value| milli(&value.0)).unwrap_or_default(),
        };
        let result = pods.replicas(&goal, replicas, Tolerance::of(self.observed))?;
        let demand = Demand {
            replicas: result.replicas,
            metric: format!("pods metric {name}"),
        };
        let current = api::MetricValueStatus {
            average_value: Some(quantity("", result.usage.average)),
            ..api::MetricValueStatus::default()
        };
        Ok((demand, current))
    }

    fn of_object(
        &self,
        source: &api::ObjectMetricSource,
        replicas: i32,
    ) -> Result<(Demand, api::MetricValueStatus), String> {
        let (metric, object) = (&source.metric.name, &source.described_object);
        let (kind, name) = (&object.kind, &object.name);
        let namespace = self.namespace();
        let about = |error: &str| {
            format!("unable to get metric {metric} on {kind} {namespace}/{name}: {error}")
        };
        let value = match self.samples("custom").map_err(|error| about(&error))? {
            MetricSamples::Value(value) => *value,
            MetricSamples::Pods(_) => return Err(about("no metric value for the object")),
        };
        let (replicas, current) = self.of_value(value, &source.target, replicas)?;
        let metric = format!("{kind} metric {metric}");
        Ok((Demand { replicas, metric }, current))
    }

    fn of_external(
        &self,
        source: &api::ExternalMetricSource,
        replicas: i32,
    ) -> Result<(Demand, api::MetricValueStatus), String> {
        let (name, namespace) = (&source.metric.name, self.namespace());
        let about =
            |error: &str| format!("unable to get external metric {namespace}/{name}: {error}");
        let value = match self.samples("external").map_err(|error| about(&error))? {
            MetricSamples::Value(value) => *value,
            MetricSamples::Pods(_) => return Err(about("no metric value")),
        };
        let (replicas, current) = self.of_value(value, &source.target, replicas)?;
        let metric = format!("external metric {name}");
        Ok((Demand { replicas, metric }, current))
    }

    /// The replicas for one value, which is compared as a whole (`Value`) or divided by the pods (`AverageValue`).
    fn of_value(
        &self,
        value: i64,
        target: &api::MetricTarget,
        replicas: i32,
    ) -> Result<(i32, api::MetricValueStatus), String> {
        let tolerance = Tolerance::of(self.observed);
        let goal = |text: &Option<ApiQuantity>| text.as_ref().and_then(|text| milli(&text.0));
        if let Some(goal) = goal(&target.average_value) {
            let pods = self
                .observed
                .pods
                .iter()
                .filter(|pod| !pod.is_inactive)
                .count();
            let count = i64::try_from(pods).unwrap_or(i64::MAX);
            let each = ratio(value, goal.saturating_mul(count));
            let demand = match tolerance.covers(each) && count > 0 {
                true => i32::try_from(count).unwrap_or(i32::MAX),
                false => times(ratio(value, goal), 1),
            };
            let (value, count) = (i128::from(value), i128::from(count.max(1)));
            let average = i64::try_from((value + count - 1) / count).unwrap_or(i64::MAX);
            let current = api::MetricValueStatus {
                average_value: Some(quantity("", average)),
                ..api::MetricValueStatus::default()
            };
            return Ok((demand, current));
        }
        let Some(goal) = goal(&target.value) else {
            let text = "neither a value target nor an average value target was set";
            return Err(format!("invalid metric source: {text}"));
        };
        let usage = ratio(value, goal);
        let demand = match (replicas, tolerance.covers(usage)) {
            (0, _) => times(usage, 1),
            (_, true) => replicas,
            (_, false) => {
                if self.observed.pods.is_empty() {
                    let text = "no pods returned by selector while calculating replica count";
                    return Err(format!("unable to calculate ready pods: {text}"));
                }
                let is_ready = |pod: &&PodFacts| {
                    !pod.is_inactive && !pod.pending && pod.ready.is_some_and(|(ready, _)| ready)
                };
                times(usage, self.observed.pods.iter().filter(is_ready).count())
            }
        };
        let current = api::MetricValueStatus {
            value: Some(quantity("", value)),
            ..api::MetricValueStatus::default()
        };
        Ok((demand, current))
    }
}
