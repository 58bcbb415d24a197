//! Preemption: writes the decision, and keeps it until the caches show it.

use std::sync::Arc;
use std::time::Instant;

use controller_framework::EventType;
use jiff::Timestamp;
use object_model::ObjectKey;
use pod_placement::Preemption;
use resource_kinds::pod_view::PodView;

use super::{Engine, FinishedWrite, WriteOutcome, same};
use crate::backlog::AffectedPods;
use crate::metrics::Attempt;
use crate::nominations::{self, Nomination};
use crate::reservations::{Reservation, ReservationStage};
use crate::writes;

impl Engine {
    /// The nominated node of a pod without a node and without a reservation.
    pub(super) fn nominated<'p>(&'p self, pod: &'p PodView) -> Option<&'p str> {
        if pod.node.is_some() || pod.is_deleting() || pod.has_ended() {
            return None;
        }
        if pod.nominated.is_none() && self.nominations.is_empty() {
            return None;
        }
        let key = pod.key();
        let reservation = self.reservations.get(&key);
        if reservation.is_some_and(|reservation| same(&reservation.pod, pod)) {
            return None;
        }
        self.nominations.node_of(&key, pod)
    }

    /// The pod in the cache.
    pub(super) fn current(&self, pod: &PodView) -> Option<Arc<PodView>> {
        let current = self.caches.pods.get(&pod.namespace, &pod.name);
        current.filter(|current| same(current, pod))
    }

    /// Preempts pods of lower priority for the pod.
    pub(super) fn preempt(
        &mut self,
        key: ObjectKey,
        pod: Arc<PodView>,
        mut preemption: Preemption,
        begun: Instant,
    ) {
        let metrics = &self.config.metrics;
        metrics.attempt(Attempt::Unschedulable, begun.elapsed());
        metrics.preemption(Some(preemption.victims.len()));
        let (node, obstacle) = (preemption.node.clone(), &preemption.obstacle);
        tracing::info!(pod = %key, node, victims = preemption.victims.len(), "others go for it");
        self.warn(&pod, &obstacle.message);
        let condition = writes::condition(&pod, obstacle, Timestamp::now());
        for other in &preemption.displaced {
            self.nominations.drop(&other.key());
        }
        preemption
            .victims
            .retain(|victim| !self.gives_way(victim, begun));
        let nomination = Nomination {
            pod: pod.clone(),
            node: node.clone(),
            victims: preemption.victims.clone(),
            written: nominations::NominationWrites::NotYet,
        };
        self.nominations.keep(key.clone(), nomination);
        let client = self.client.clone();
        self.writes.spawn(async move {
            let result = writes::preempt(&client, &pod, condition, preemption).await;
            let outcome = result.map_or_else(WriteOutcome::Failed, |(revision, victims)| {
                WriteOutcome::Preempted {
                    node,
                    revision,
                    victims,
                }
            });
            FinishedWrite {
                key,
                pod,
                begun,
                outcome,
            }
        });
    }

    /// Whether the victim has only a reservation. Such a victim is not deleted, but scheduled again.
    fn gives_way(&mut self, victim: &PodView, now: Instant) -> bool {
        let key = victim.key();
        let reservation = self.reservations.get(&key);
        let waits = |reservation: &Reservation| {
            reservation.stage != ReservationStage::Binding && same(&reservation.pod, victim)
        };
        if !reservation.is_some_and(waits) {
            return false;
        }
        self.reservations.drop(&key);
        self.backlog.retry(&key, now);
        true
    }

    pub(super) fn preempted(
        &mut self,
        key: &ObjectKey,
        node: &str,
        revision: Option<u64>,
        victims: &[Arc<PodView>],
        pod: &PodView,
    ) {
        for victim in victims {
            let text = format!("Preempted by pod {} on node {node}", pod.uid);
            let kind = EventType::Normal;
            self.recorder
                .event(victim.reference(), kind, "Preempted", text);
        }
        if let Some(nomination) = self
            .nominations
            .get_mut(key)
            .filter(|nomination| same(&nomination.pod, pod))
        {
            nomination.written = nominations::NominationWrites::At(revision.unwrap_or_default());
        }
        self.wake_free(key);
    }

    /// Retries a pod after all its victims are deleted.
    pub(super) fn wake_free(&mut self, key: &ObjectKey) {
        let nomination = self.nominations.get(key);
        if nomination.is_some_and(|entry| entry.is_free(|pod| self.current(pod))) {
            self.backlog.wake(AffectedPods::Pod(key));
        }
    }

    /// Handles a preemption in which some victims could not be deleted.
    pub(super) fn not_preempted(&mut self, key: &ObjectKey, pod: &PodView) {
        let nomination = self.nominations.get(key);
        if nomination.is_some_and(|entry| same(&entry.pod, pod)) {
            self.nominations.drop(key);
            self.backlog.wake(AffectedPods::All);
        }
    }
}
