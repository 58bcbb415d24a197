//! The metrics of the controllers, for `/metrics`.

use std::sync::{Arc, OnceLock};

use k8s_openapi::api::apps::v1::StatefulSet;
use planners::stateful_set::metrics;
use reconcile::Cache;
use reconcile::metrics::{QueueMetrics, heading, line};

const MAX_UNAVAILABLE: &str = "statefulset_controller_statefulset_max_unavailable";
const UNAVAILABLE: &str = "statefulset_controller_statefulset_unavailable_replicas";

/// Metrics that the controllers write and `/metrics` reads; clones share their data.
#[derive(Clone, Default)]
pub struct Metrics {
    sets: Arc<OnceLock<Cache<StatefulSet>>>,
    queues: QueueMetrics,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Sets the cache for the metrics of StatefulSets.
    pub(crate) fn read(&self, sets: &Cache<StatefulSet>) {
        self.sets.get_or_init(|| sets.clone());
    }

    /// The metrics of the queues.
    pub(crate) fn queues(&self) -> &QueueMetrics {
        &self.queues
    }

    /// The metrics in the text form of Prometheus, with kube-controller-manager's names.
    pub fn text(&self) -> String {
        let sets = self.sets.get().map(Cache::list).unwrap_or_default();
        let (mut limits, mut states) = (self.queues.text(), String::new());
        let help = "Pods that a rolling update may make unavailable.";
        heading(&mut limits, MAX_UNAVAILABLE, "gauge", help);
        let help = "Wanted pods that are not available.";
        heading(&mut states, UNAVAILABLE, "gauge", help);
        for set in sets {
            let Some(metrics) = metrics(&set) else {
                continue;
            };
            let labels = format!(
                "pod_management_policy=\"{}\",statefulset_name=\"{}\",statefulset_namespace=\"{}\"",
                metrics.pod_management_policy,
                set.metadata.name.as_deref().unwrap_or_default(),
                set.metadata.namespace.as_deref().unwrap_or_default(),
            );
            let (max, now) = (metrics.max_unavailable, metrics.unavailable);
            line(&mut limits, MAX_UNAVAILABLE, &labels, max);
            line(&mut states, UNAVAILABLE, &labels, now);
        }
        limits + &states
    }
}
