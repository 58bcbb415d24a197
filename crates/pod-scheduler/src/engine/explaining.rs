//! The reason why a pod has no node: an event, and a condition of the pod.

use std::time::Instant;

use jiff::Timestamp;
use object_model::ObjectKey;
use pod_placement::PlacementFailure;
use resource_kinds::pod_view::PodView;

use super::{Engine, FinishedWrite, WriteOutcome};
use crate::metrics::Attempt;
use crate::writes::{self, Nominated};

impl Engine {
    pub(super) fn explain(
        &mut self,
        key: ObjectKey,
        pod: &PodView,
        obstacle: PlacementFailure,
        begun: Instant,
    ) {
        tracing::debug!(pod = %key, message = %obstacle.message, "no node for the pod");
        if obstacle.reason == "SchedulingGated" {
            self.backlog.hold(&key, begun);
        } else {
            self.warn(pod, &obstacle.message);
            let metrics = &self.config.metrics;
            metrics.attempt(Attempt::Unschedulable, begun.elapsed());
            metrics.preemption(None);
        }
        self.explanations.keep(key.clone(), obstacle);
        self.write_explanation(key);
    }

    /// Reports the reason why the volumes were not bound on the chosen node. The pod is scheduled again.
    pub(super) fn explain_unbound_volumes(&mut self, key: &ObjectKey, pod: &PodView, why: &str) {
        let message = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
        self.warn(pod, &message);
        let failure = PlacementFailure {
            reason: "SchedulerError",
            message,
            keeps_nomination: true,
        };
        self.explanations.keep(key.clone(), failure);
        self.write_explanation(key.clone());
    }

    /// Writes the reason why the pod has no node, if the cached pod does not have the reason yet. If a write is in
    /// progress, the next attempt is at the end of that write, or at the pod's next change.
    pub(super) fn write_explanation(&mut self, key: ObjectKey) {
        let Some(obstacle) = self.explanations.next(&key) else {
            return;
        };
        let pod = self.caches.pods.get_key(&key);
        let Some(pod) = pod.filter(|pod| self.is_ours(pod)) else {
            return;
        };
        let condition = writes::condition(&pod, obstacle, Timestamp::now());
        let nominated = match &pod.nominated {
            Some(_) if !obstacle.keeps_nomination => Nominated::Nowhere,
            _ => Nominated::Unchanged,
        };
        if condition.is_none() && nominated == Nominated::Unchanged {
            return;
        }
        self.explanations.set_in_progress(&key, true);
        let client = self.client.clone();
        self.writes.spawn(async move {
            let result = writes::explain_unless_changed(&client, &pod, condition, nominated).await;
            FinishedWrite {
                key,
                pod,
                begun: Instant::now(),
                outcome: WriteOutcome::Explained(result),
            }
        });
    }

    /// Continues after the write of a reason. If the cached pod has not changed, its change will still arrive, or the
    /// write failed for another reason than a conflict.
    pub(super) fn explained(&mut self, key: ObjectKey, pod: &PodView) {
        self.explanations.set_in_progress(&key, false);
        let current = self.caches.pods.get_key(&key);
        if current.is_some_and(|current| current.resource_version != pod.resource_version) {
            self.write_explanation(key);
        }
    }
}
