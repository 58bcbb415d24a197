//! The observed state of an autoscaler: its scale and measurements, which are requested each time because they cannot
//! be watched, and the pods that the scale selects.

use std::sync::Arc;

use controller_planners::horizontal_pod_autoscaler::{
    Observed, PodFacts, PodMeasurement, Scale, samples,
};
use json_tree::json;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, MetricSpec};
use kube_api_client::guarded_writes::{self, WriteRefusal, refusal};
use kube_api_client::{Api, ApiResource, DynamicObject, ListParams};
use object_model::{LabelSelector, ObjectKey, Uid};
use resource_kinds::pod_view::PodView;

use super::Worker;
use super::other_metrics;
use super::target::ScaleTarget;

impl Worker {
    pub(super) async fn observe(
        &self,
        key: &ObjectKey,
        uid: &Uid,
        autoscaler: &Arc<HorizontalPodAutoscaler>,
    ) -> (Observed, Option<ScaleTarget>) {
        let (scale, target) = match ScaleTarget::read(&self.context.client, autoscaler).await {
            Ok(target) => (Ok(scale(&target)), Some(target)),
            Err(error) => (Err(error), None),
        };
        let mut observed = Observed {
            autoscaler: autoscaler.clone(),
            scale,
            pods: Vec::new(),
            samples: Ok(Vec::new()),
            measured: Vec::new(),
            selecting: Vec::new(),
        };
        let selector = observed.scale.as_ref().ok();
        let selector = selector.map(|scale| scale.selector.clone());
        let text = selector.filter(|text| !text.is_empty());
        let parsed = text
            .as_deref()
            .and_then(|text| LabelSelector::parse(text).ok());
        self.with_memory(key, uid, |memory| memory.selector.clone_from(&parsed));
        if let (Some(text), Some(selector)) = (text, parsed) {
            let pods = self
                .context
                .pods_by_label
                .selected(&key.namespace, &selector);
            observed.pods = pods.iter().map(|pod| PodFacts::of(pod)).collect();
            observed.selecting = self.selecting(&key.namespace, &pods);
            if autoscaler.spec.metrics.iter().flatten().any(is_measured) {
                observed.samples = self.samples(&key.namespace, &text).await;
            }
            let client = &self.context.client;
            observed.measured =
                other_metrics::measured(client, &key.namespace, autoscaler, &text).await;
        }
        (observed, target)
    }

    async fn samples(
        &self,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<PodMeasurement>, String> {
        let client = self.context.client.clone();
        let metrics = ApiResource::new("metrics.k8s.io", "v1beta1", "PodMetrics", "pods");
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, &metrics);
        let listed = api.list(&ListParams::default().labels(selector)).await;
        let list = listed.map(|list| json!({"items": list.items}));
        list.map(|list| samples(&list)).map_err(|error| {
            let text = match refusal(&error) {
                WriteRefusal::NotFound => "the server could not find the requested resource \
                     (get pods.metrics.k8s.io)"
                    .to_owned(),
                _ => guarded_writes::message(&error),
            };
            format!("unable to fetch metrics from resource metrics API: {text}")
        })
    }

    /// The autoscalers whose targets select one of these pods.
    fn selecting(&self, namespace: &str, pods: &[Arc<PodView>]) -> Vec<String> {
        let selects = |selector: &LabelSelector| {
            let mut pods = pods.iter();
            pods.any(|pod| selector.matches_by(|key| pod.label(key)))
        };
        self.with_memories(|memories| {
            let in_namespace = memories
                .iter()
                .filter(|(key, _)| *key.namespace == *namespace);
            in_namespace
                .filter(|(_, memories)| memories.selector.as_ref().is_some_and(selects))
                .map(|(key, _)| key.to_string())
                .collect()
        })
    }
}

/// Whether a metric is of the resource metrics API.
fn is_measured(metric: &MetricSpec) -> bool {
    metric.resource.is_some() || metric.container_resource.is_some()
}

fn scale(target: &ScaleTarget) -> Scale {
    let (spec, status) = (target.scale.spec.as_ref(), target.scale.status.as_ref());
    Scale {
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or_default(),
        selector: status
            .and_then(|status| status.selector.clone())
            .unwrap_or_default(),
    }
}
