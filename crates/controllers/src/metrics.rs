//! The metrics of the controllers, for `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};

use controller_framework::metrics::QueueMetrics;
use controller_framework::{Cache, object_key};
use controller_planners::stateful_set::metrics;
use controller_planners::volume_replication::lag_seconds;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolume;
use process_telemetry::prometheus::{Metric, Page};
use resource_kinds::storage::volume_replication::VolumeReplication;

use crate::node_volumes::claim_of;

const MAX_UNAVAILABLE: Metric = Metric::gauge(
    "statefulset_controller_statefulset_max_unavailable",
    "Pods that a rolling update may make unavailable.",
);
const UNAVAILABLE: Metric = Metric::gauge(
    "statefulset_controller_statefulset_unavailable_replicas",
    "Wanted pods that are not available.",
);

const REPLICA_LAG: Metric = Metric::gauge(
    "mainstay_volume_replica_lag_seconds",
    "Seconds since the snapshot of the last complete copy of a volume on another node.",
);
const REPLICA_COPIED: Metric = Metric::gauge(
    "mainstay_volume_replica_last_copy_timestamp_seconds",
    "Time of the snapshot of the last complete copy of a volume on another node.",
);

/// Metrics that the controllers write and `/metrics` reads; clones share their data.
#[derive(Clone, Default)]
pub struct Metrics {
    sets: Arc<Mutex<Option<Cache<StatefulSet>>>>,
    volumes: Arc<Mutex<Option<Cache<PersistentVolume>>>>,
    queues: QueueMetrics,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Sets the caches for the metrics of StatefulSets and of volumes; `None` once the controllers have ended.
    pub(crate) fn read(
        &self,
        sets: Option<&Cache<StatefulSet>>,
        volumes: Option<&Cache<PersistentVolume>>,
    ) {
        *self.sets.lock().unwrap_or_else(PoisonError::into_inner) = sets.cloned();
        *self.volumes.lock().unwrap_or_else(PoisonError::into_inner) = volumes.cloned();
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
            let Ok(Some(metrics)) = metrics(&set) else {
                continue;
            };
            let key = object_key(&*set);
            let labels = [
                ("pod_management_policy", metrics.pod_management_policy),
                ("statefulset_name", &*key.name),
                ("statefulset_namespace", &*key.namespace),
            ];
            page.add(MAX_UNAVAILABLE, &labels, metrics.max_unavailable);
            page.add(UNAVAILABLE, &labels, metrics.unavailable);
        }
        self.write_replicas(page);
    }

    fn write_replicas(&self, page: &mut Page) {
        page.describe(REPLICA_LAG);
        page.describe(REPLICA_COPIED);
        let volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        let volumes = volumes.as_ref().map(Cache::list);
        for volume in volumes.unwrap_or_default() {
            let Some(record) = VolumeReplication::of(&volume) else {
                continue;
            };
            let now = Timestamp::now().as_millisecond();
            let (Some(last), Some(lag)) = (record.last, lag_seconds(&record, now)) else {
                continue;
            };
            let claim = claim_of(&volume);
            let labels = [
                ("namespace", claim.map_or("", |claim| claim.namespace)),
                (
                    "persistentvolumeclaim",
                    claim.map_or("", |claim| claim.name),
                ),
                ("node", &*record.replica.unwrap_or_default()),
            ];
            page.add(REPLICA_LAG, &labels, lag);
            page.add(REPLICA_COPIED, &labels, last.max(0) / 1000);
        }
    }
}
