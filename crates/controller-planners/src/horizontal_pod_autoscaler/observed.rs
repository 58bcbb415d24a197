//! The input of a decision about replicas.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use json_tree::Value;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use object_model::Quantity;
use resource_kinds::pod_view::{Phase, PodView};
use resource_kinds::reasons::pod_condition;

/// Amounts of resources by name, in thousandths.
pub(super) type Amounts = BTreeMap<String, i64>;

/// The observed state of one HorizontalPodAutoscaler.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The HorizontalPodAutoscaler.
    pub autoscaler: Arc<HorizontalPodAutoscaler>,
    /// The scale of its target, or the error of reading it.
    pub scale: Result<Scale, String>,
    /// The pods that the scale selects.
    pub pods: Vec<PodFacts>,
    /// The measurements of the pods, or the error of reading them.
    pub samples: Result<Vec<PodMeasurement>, String>,
    /// The values of the custom and external metrics APIs, or the errors of reading them, in the order of the
    /// autoscaler's metrics; `None` for a metric of the resource metrics API.
    pub measured: Vec<Option<Result<MetricSamples, String>>>,
    /// The autoscalers that select one of these pods (`namespace/name`), including this autoscaler.
    pub selecting: Vec<String>,
}

/// The scale of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// The desired number of replicas (`spec.replicas` of the scale).
    pub replicas: i32,
    /// The selector of its pods, in the form of a query parameter.
    pub selector: String,
}

/// The facts about a pod that a decision needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Name of the pod.
    pub name: String,
    /// Whether it is being deleted, or has ended.
    pub is_inactive: bool,
    /// Whether some of its containers have not started.
    pub pending: bool,
    /// The time at which its node started the pod.
    pub started: Option<Timestamp>,
    /// Whether the pod is Ready, and since when; `None` without a Ready condition.
    pub ready: Option<(bool, Timestamp)>,
    /// The requests of the pod as a whole.
    pub requests: Amounts,
    /// The requests of its containers, including sidecar containers.
    pub containers: Vec<(String, Amounts)>,
}

impl PodFacts {
    /// The facts about this pod.
    pub fn of(pod: &PodView) -> Self {
        let spec = &pod.spec;
        let ready = pod.condition(pod_condition::READY);
        let inits = spec.init_containers.iter().flatten();
        let is_sidecar =
            |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let containers = spec.containers.iter().chain(inits.filter(is_sidecar));
        Self {
            name: pod.name.to_string(),
            is_inactive: pod.is_deleting() || pod.has_ended(),
            pending: matches!(pod.phase, Phase::Unset | Phase::Pending),
            started: pod.started,
            ready: ready.map(|condition| {
                let since = condition.since.unwrap_or(Timestamp::UNIX_EPOCH);
                // A condition with the status `Unknown` counts as ready.
                (condition.status() != "False", since)
            }),
            requests: requests(spec.resources.as_ref()),
            containers: containers
                .map(|container| {
                    (
                        container.name.clone(),
                        requests(container.resources.as_ref()),
                    )
                })
                .collect(),
        }
    }

    /// The request of the pod, or of one of its containers, for a resource.
    ///
    /// *Errors.* The reason why there is no request.
    pub(super) fn request(&self, resource: &str, container: Option<&str>) -> Result<i64, String> {
        if container.is_none()
            && let Some(whole) = self.requests.get(resource)
        {
            return Ok(*whole);
        }
        let mut sum = 0_i64;
        let mut exists = false;
        for (name, requests) in &self.containers {
            if container.is_some_and(|name_of_container| name_of_container != name) {
                continue;
            }
            exists = true;
            let Some(amount) = requests.get(resource) else {
                return Err(format!(
                    "missing request for {resource} in container {name} of Pod {}",
                    self.name
                ));
            };
            sum = sum.saturating_add(*amount);
        }
        match container {
            Some(name_of_container) if !exists => Err(format!(
                "container {name_of_container} not found in Pod {}",
                self.name
            )),
            _ => Ok(sum),
        }
    }
}

fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let amounts = requests.into_iter().flatten();
    amounts
        .filter_map(|(name, amount)| Some((name.clone(), milli(&amount.0)?)))
        .collect()
}

pub(super) fn milli(text: &str) -> Option<i64> {
    Some(text.parse::<Quantity>().ok()?.milli_value())
}

/// The measured usage of a pod in a window of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodMeasurement {
    /// Name of the pod.
    pub pod: String,
    /// The end of the measurement's window.
    pub at: Timestamp,
    /// The length of the window.
    pub window: SignedDuration,
    /// The usage of each container.
    pub containers: Vec<(String, Amounts)>,
}

impl PodMeasurement {
    /// The usage of the pod, or of one of its containers. `None` if a part is missing.
    pub(super) fn usage(&self, resource: &str, container: Option<&str>) -> Option<i64> {
        let mut parts = self
            .containers
            .iter()
            .filter(|(name, _)| container.is_none_or(|container_name| container_name == name))
            .peekable();
        parts.peek()?;
        parts.try_fold(0_i64, |sum, (_, usage)| {
            Some(sum.saturating_add(*usage.get(resource)?))
        })
    }
}

/// The values of a metric of the custom or external metrics API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricSamples {
    /// One value for each pod, as the usage of a resource with an empty name.
    Pods(Vec<PodMeasurement>),
    /// The value of an object, or the sum of the values of an external metric, in thousandths.
    Value(i64),
}

/// Parses a MetricValueList of `custom.metrics.k8s.io` about pods; malformed items are skipped.
pub fn pod_values(list: &Value) -> Vec<PodMeasurement> {
    let items = list["items"].as_array().into_iter().flatten();
    let values = items.filter_map(|item| {
        let usage = Amounts::from([(String::new(), value_of(item)?)]);
        let seconds = item["windowSeconds"].as_i64().unwrap_or(60);
        Some(PodMeasurement {
            pod: item["describedObject"]["name"].as_str()?.to_owned(),
            at: item["timestamp"].as_str()?.parse().ok()?,
            window: SignedDuration::from_secs(seconds),
            containers: vec![(String::new(), usage)],
        })
    });
    values.collect()
}

/// The sum of the values of a MetricValueList or an ExternalMetricValueList, in thousandths; `None` without a value, or
/// if a value is malformed, because the sum of the others would be too small.
pub fn total_value(list: &Value) -> Option<i64> {
    let items = list["items"].as_array().filter(|items| !items.is_empty())?;
    let mut values = items.iter().map(value_of);
    values.try_fold(0_i64, |sum, value| Some(sum.saturating_add(value?)))
}

fn value_of(item: &Value) -> Option<i64> {
    let value = Quantity::from_json(&item["value"]).ok()?;
    Some(value.milli_value())
}

/// Parses a PodMetricsList of `metrics.k8s.io/v1beta1`; malformed items are skipped.
pub fn samples(list: &Value) -> Vec<PodMeasurement> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(sample).collect()
}

fn sample(item: &Value) -> Option<PodMeasurement> {
    let containers = item["containers"].as_array().into_iter().flatten();
    Some(PodMeasurement {
        pod: item["metadata"]["name"].as_str()?.to_owned(),
        at: item["timestamp"].as_str()?.parse().ok()?,
        window: item["window"].as_str()?.parse().ok()?,
        containers: containers
            .filter_map(|one| {
                let usage = one["usage"].as_object().into_iter().flatten();
                let amounts = usage.filter_map(|(name, amount)| {
                    let amount = Quantity::from_json(amount).ok()?;
                    Some((name.clone(), amount.milli_value()))
                });
                Some((one["name"].as_str()?.to_owned(), amounts.collect()))
            })
            .collect(),
    })
}
