//! The metrics of the controllers, for `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::apps::v1::StatefulSet;
use planners::stateful_set::metrics;
use reconcile::Cache;
use reconcile::metrics::QueueMetrics;
use reconcile::prometheus::{Metric, Page};

const MAX_UNAVAILABLE: Metric = Metric::gauge(
    "statefulset_controller_statefulset_max_unavailable",
    "Pods that a rolling update may make unavailable.",
);
const UNAVAILABLE: Metric = Metric::gauge(
    "statefulset_controller_statefulset_unavailable_replicas",
    "Wanted pods that are not available.",
);

/// Metrics that the controllers write and `/metrics` reads; clones share their data.
#[derive(Clone, Default)]
pub struct Metrics {
    sets: Arc<Mutex<Option<Cache<StatefulSet>>>>,
    queues: QueueMetrics,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Sets the cache for the metrics of StatefulSets; `None` once the controllers have ended.
    pub(crate) fn read(&self, sets: Option<&Cache<StatefulSet>>) {
        *self.sets.lock().unwrap_or_else(PoisonError::into_inner) = sets.cloned();
    }

    /// The metrics of the queues.
    pub(crate) fn queues(&self) -> &QueueMetrics {
        &self.queues
    }

    /// Writes the metrics, with kube-controller-manager's names.
    pub fn write(&self, page: &mut Page) {
        self.queues.write(page);
        page.describe(MAX_UNAVAILABLE);
        page.describe(UNAVAILABLE);
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let sets = sets.as_ref().map(Cache::list);
        for set in sets.unwrap_or_default() {
            let Some(metrics) = metrics(&set) else {
                continue;
            };
            let (name, namespace) = (&set.metadata.name, &set.metadata.namespace);
            let labels = [
                ("pod_management_policy", metrics.pod_management_policy),
                ("statefulset_name", name.as_deref().unwrap_or_default()),
                (
                    "statefulset_namespace",
                    namespace.as_deref().unwrap_or_default(),
                ),
            ];
            page.add(MAX_UNAVAILABLE, &labels, metrics.max_unavailable);
            page.add(UNAVAILABLE, &labels, metrics.unavailable);
        }
    }
}
