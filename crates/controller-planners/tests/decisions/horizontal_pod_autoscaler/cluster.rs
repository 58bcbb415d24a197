//! An autoscaler, its target and the measurements of its pods, over time.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::horizontal_pod_autoscaler::{
    AutoscalerEvent, AutoscalerResult, Memory, Observed, PodFacts, Scale, plan, samples,
};
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

/// The time this many seconds after the start of the test.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub struct Cluster {
    pub observed: Observed,
    spec: Value,
    /// The API server's refusal of a rescale.
    pub refusal: Option<String>,
    memory: Memory,
    notices: Vec<AutoscalerEvent>,
    seconds: i64,
}

impl Cluster {
    pub fn new(replicas: i32, mut spec: Value) -> Self {
        spec["scaleTargetRef"] = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "name": "web"});
        let observed = Observed {
            autoscaler: Arc::default(),
            scale: Ok(Scale {
                replicas,
                selector: "app=web".to_owned(),
            }),
            pods: Vec::new(),
            samples: Ok(Vec::new()),
            measured: Vec::new(),
            selecting: vec!["default/web".to_owned()],
        };
        let mut cluster = Self {
            observed,
            spec,
            refusal: None,
            memory: Memory::default(),
            notices: Vec::new(),
            seconds: 0,
        };
        cluster.apply_spec();
        cluster
    }

    /// The spec, for changes before the next round.
    pub fn spec(&mut self) -> &mut Value {
        &mut self.spec
    }

    fn apply_spec(&mut self) {
        let mut object = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web", "namespace": "default"}});
        object["spec"] = self.spec.clone();
        let mut autoscaler: HorizontalPodAutoscaler = json_tree::from_value(object).unwrap();
        autoscaler.status = self.observed.autoscaler.status.clone();
        self.observed.autoscaler = Arc::new(autoscaler);
    }

    /// A pod that has been ready for a long time, with one container that requests one processor.
    pub fn pod(self, name: &str, used: i64) -> Self {
        self.pod_of(name, &[("main", Some(1000), used)])
    }

    /// A pod with containers: name, request and usage, in thousandths of a processor.
    pub fn pod_of(mut self, name: &str, containers: &[(&str, Option<i64>, i64)]) -> Self {
        let requests = |amount: &Option<i64>| -> BTreeMap<String, i64> {
            amount.iter().map(|one| ("cpu".to_owned(), *one)).collect()
        };
        self.observed.pods.push(PodFacts {
            name: name.to_owned(),
            started: Some(at(-4000)),
            ready: Some((true, at(-3000))),
            containers: containers
                .iter()
                .map(|(name, request, _)| ((*name).to_owned(), requests(request)))
                .collect(),
            ..PodFacts::default()
        });
        let containers: Vec<Value> = containers
            .iter()
            .map(|(name, _, used)| json!({"name": name, "usage": {"cpu": format!("{used}m")}}))
            .collect();
        self.sample(name, json!(containers))
    }

    /// Adds a pod without requests, or replaces the measurement of an existing pod.
    pub fn measured(mut self, name: &str, usage: Value) -> Self {
        if !self.observed.pods.iter().any(|pod| pod.name == name) {
            self.observed.pods.push(PodFacts {
                name: name.to_owned(),
                ..PodFacts::default()
            });
        }
        self.sample(name, json!([{"name": "main", "usage": usage}]))
    }

    fn sample(mut self, pod: &str, containers: Value) -> Self {
        self.forget_sample(pod);
        let list = json!({"items": [{"metadata": {"name": pod}, "timestamp": at(0).to_string(),
            "window": "30s", "containers": containers}]});
        self.observed
            .samples
            .as_mut()
            .unwrap()
            .extend(samples(&list));
        self
    }

    pub fn forget_sample(&mut self, pod: &str) {
        let samples = self.observed.samples.as_mut().unwrap();
        samples.retain(|sample| sample.pod != pod);
    }

    pub fn pod_mut(&mut self, name: &str) -> &mut PodFacts {
        let mut pods = self.observed.pods.iter_mut();
        pods.find(|pod| pod.name == name).unwrap()
    }

    /// The number of replicas of the target.
    pub fn replicas(&self) -> i32 {
        self.observed.scale.as_ref().unwrap().replicas
    }

    /// Plans once and executes the plan.
    pub fn round(&mut self) -> AutoscalerResult {
        self.apply_spec();
        let plan = plan(&self.observed, &self.memory, at(self.seconds));
        let outcome = self.refusal.clone().map_or(Ok(()), Err);
        if let (Some(rescale), Ok(())) = (&plan.rescale, &outcome) {
            assert_ne!(rescale.from, rescale.to);
            self.observed.scale.as_mut().unwrap().replicas = rescale.to;
        }
        let conclusion = plan.conclude(outcome);
        self.memory = conclusion.memory.clone();
        self.notices = conclusion.notices.clone();
        if let Some(status) = conclusion.status.clone() {
            let mut autoscaler = (*self.observed.autoscaler).clone();
            autoscaler.status = Some(status);
            self.observed.autoscaler = Arc::new(autoscaler);
        }
        conclusion
    }

    /// A round `seconds` later, with measurements of that time.
    pub fn later(&mut self, seconds: i64) {
        self.seconds += seconds;
        for sample in self.observed.samples.as_mut().unwrap() {
            sample.at += SignedDuration::from_secs(seconds);
        }
        self.round();
    }

    /// Repeats rounds until the windows for scaling down have passed.
    pub fn settle(&mut self) {
        self.round();
        self.later(150);
        self.later(151);
    }

    /// The events of the last round.
    pub fn event_texts(&self) -> String {
        let notices = self.notices.iter();
        let lines: Vec<String> = notices
            .map(|notice| format!("{}: {}", notice.reason, notice.message))
            .collect();
        lines.join("\n")
    }

    pub fn conditions(&self) -> String {
        let status = self.observed.autoscaler.status.clone().unwrap_or_default();
        let lines: Vec<String> = status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .map(|one| {
                let (reason, message) = (one.reason.unwrap(), one.message.unwrap());
                format!("{}={} {reason} ({message})", one.type_, one.status)
            })
            .collect();
        lines.join("\n")
    }
}
