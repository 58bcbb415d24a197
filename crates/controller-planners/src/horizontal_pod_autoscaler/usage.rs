//! The usage of pods, compared with a goal.

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

/// An amount in thousandths as a quantity: memory in binary units if it is whole.
pub(super) fn quantity(resource: &str, milli: i64) -> ApiQuantity {
    let exact = Quantity::from_milli(milli);
    let formatted = if resource == "memory" && exact.is_integer() {
        Quantity::from_bytes(exact.value())
    } else {
        exact
    };
    ApiQuantity(formatted.to_string())
}

/// The tolerated deviation of usage from the goal, down and up.
#[derive(Clone, Copy)]
pub(super) struct Tolerance {
    down: f64,
    up: f64,
}

impl Tolerance {
    pub(super) fn of(observed: &Observed) -> Self {
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

    pub(super) fn covers(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// The goal of a metric.
pub(super) enum Goal {
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
pub(super) struct Usage {
    /// The compared measure: the average, or a percentage.
    pub(super) measure: i64,
    pub(super) average: i64,
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
pub(super) fn ratio(measure: i64, goal: i64) -> f64 {
    measure as f64 / goal.max(1) as f64
}

fn average(values: impl Iterator<Item = i64> + Clone) -> i64 {
    let count = i128::try_from(values.clone().count()).unwrap_or(i128::MAX);
    let sum: i128 = values.map(i128::from).sum();
    i64::try_from(sum / count.max(1)).unwrap_or(i64::MAX)
}

/// The pods by the state of their measurement.
pub(super) struct Pods<'o> {
    /// Pods whose usage counts.
    metrics: BTreeMap<&'o str, i64>,
    /// The number of measured pods among the pods of the target.
    ready: usize,
    unready: Vec<&'o str>,
    missing: Vec<&'o str>,
}

/// The result of a metric.
pub(super) struct MetricResult {
    pub(super) replicas: i32,
    pub(super) usage: Usage,
}

impl<'o> Pods<'o> {
    /// The pods of the target by their measurements of a resource.
    pub(super) fn of(
        all: &'o [PodFacts],
        samples: &'o [PodMeasurement],
        resource: &str,
        container: Option<&str>,
        now: Timestamp,
    ) -> Result<Self, String> {
        if all.is_empty() {
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
        for pod in all {
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
    pub(super) fn replicas(
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
pub(super) fn times(ratio: f64, pods: usize) -> i32 {
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
