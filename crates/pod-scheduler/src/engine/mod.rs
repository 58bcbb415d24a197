//! The main loop of the scheduler: it receives changes and makes decisions.

mod cluster_view;
mod explaining;
mod feeds;
mod preempting;

use std::sync::Arc;
use std::time::Instant;

use controller_framework::{Cache, EventType, ObjectChange, Recorder, SharedCaches, object_key};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
};
use kube_api_client::Client;
use kube_api_client::guarded_writes::message;
use object_model::ObjectKey;
use pod_placement::{ClaimStep, PlacementDecision, asks_for_less};
use process_telemetry::Component;
use process_telemetry::polls::spend;
use resource_kinds::pod_view::PodView;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::cluster_view::ClusterState;
use self::feeds::{CacheChange, CacheSubscriptions};
use crate::backlog::{AffectedPods, Backlog, QueueOrder, RetryTriggers};
use crate::config::{Config, Error};
use crate::explanations::Explanations;
use crate::metrics::Attempt;
use crate::nominations::Nominations;
use crate::refusals::Refusals;
use crate::reservations::{Reservation, ReservationStage, Reservations, ReservedClaim};
use crate::{limits, writes};

struct Caches {
    pods: Cache<PodView>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
    services: Cache<Service>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    drivers: Cache<CSIDriver>,
    capacities: Cache<CSIStorageCapacity>,
    csi_nodes: Cache<CSINode>,
    attachments: Cache<VolumeAttachment>,
    budgets: Cache<PodDisruptionBudget>,
    device_claims: Cache<ResourceClaim>,
    device_slices: Cache<ResourceSlice>,
    device_classes: Cache<DeviceClass>,
}

struct FinishedWrite {
    key: ObjectKey,
    pod: Arc<PodView>,
    /// The time at which the decision began.
    begun: Instant,
    outcome: WriteOutcome,
}

enum WriteOutcome {
    Bound {
        node: String,
        /// The number of attempts, and the time since which the pod waits.
        history: Option<(u32, Instant)>,
    },
    Prepared(Vec<ReservedClaim>),
    /// The result of the write of the reason why the pod has no node.
    Explained(kube_api_client::Result<()>),
    Preempted {
        node: String,
        revision: Option<u64>,
        victims: Vec<Arc<PodView>>,
    },
    /// A failed write of a reservation or a nomination.
    Failed(kube_api_client::Error),
}

pub(crate) struct Engine {
    client: Client,
    config: Config,
    shutdown: CancellationToken,
    caches: Caches,
    cluster: ClusterState,
    recorder: Recorder,
    backlog: Backlog,
    reservations: Reservations,
    nominations: Nominations,
    refusals: Refusals,
    explanations: Explanations,
    writes: JoinSet<FinishedWrite>,
}

impl Engine {
    pub fn new(client: Client, config: Config, component: Component) -> Self {
        let new_caches = || SharedCaches::new(client.clone(), component.clone());
        let shared = config.caches.clone().unwrap_or_else(new_caches);
        let caches = Caches {
            pods: shared.pods(),
            nodes: shared.all(),
            namespaces: shared.all(),
            services: shared.all(),
            claims: shared.all(),
            volumes: shared.all(),
            classes: shared.all(),
            drivers: shared.all(),
            capacities: shared.all(),
            csi_nodes: shared.all(),
            attachments: shared.all(),
            budgets: shared.all(),
            device_claims: shared.all(),
            device_slices: shared.all(),
            device_classes: shared.all(),
        };
        let shutdown = component.shutdown;
        let source = config.scheduler_name.as_str();
        config.metrics.of(source);
        let recorder = Recorder::spawn(client.clone(), source, shutdown.clone());
        Self {
            client,
            config,
            shutdown,
            caches,
            cluster: ClusterState::default(),
            recorder,
            backlog: Backlog::default(),
            reservations: Reservations::default(),
            nominations: Nominations::default(),
            refusals: Refusals::default(),
            explanations: Explanations::default(),
            writes: JoinSet::new(),
        }
    }

    pub async fn run(mut self) -> Result<(), Error> {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = self.synced() => {}
        }
        let mut feeds = CacheSubscriptions::of(&self.caches);
        loop {
            self.schedule_ready(&mut feeds).await;
            self.config.metrics.pending(self.backlog.metrics());
            let dues = [
                self.backlog.next_due(Instant::now()),
                self.refusals.next_end(),
            ];
            let due = dues.into_iter().flatten().min();
            let due = due.unwrap_or_else(|| Instant::now() + limits::FORGOTTEN_AFTER);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.writes.join_next() => {
                    if let Ok(written) = ended {
                        self.written(written);
                    }
                }
                change = feeds.next() => match change {
                    Ok(change) => self.changed(change),
                    Err(_) if shutdown.is_cancelled() => break,
                    Err(stopped) => return Err(Error::WatchStopped { kind: stopped.kind }),
                },
                () = tokio::time::sleep_until(due.into()), if self.has_capacity() => {}
            }
        }
        self.writes.shutdown().await;
        Ok(())
    }

    async fn synced(&self) {
        self.caches.pods.wait_synced().await;
        self.caches.nodes.wait_synced().await;
        self.caches.namespaces.wait_synced().await;
        self.caches.services.wait_synced().await;
        self.caches.claims.wait_synced().await;
        self.caches.volumes.wait_synced().await;
        self.caches.classes.wait_synced().await;
        self.caches.drivers.wait_synced().await;
        self.caches.capacities.wait_synced().await;
        self.caches.csi_nodes.wait_synced().await;
        self.caches.attachments.wait_synced().await;
        self.caches.budgets.wait_synced().await;
        self.caches.device_claims.wait_synced().await;
        self.caches.device_slices.wait_synced().await;
        self.caches.device_classes.wait_synced().await;
    }

    fn has_capacity(&self) -> bool {
        self.writes.len() < limits::WRITES_MAX
    }

    fn changed(&mut self, change: CacheChange) {
        self.cluster.apply(&change);
        match change {
            CacheChange::Pod(change) => self.pod_changed(change),
            CacheChange::Node(change) => self.node_changed(&change),
            CacheChange::Claim(change) => {
                self.refusals.observe(&change, Instant::now());
                self.cluster.refused(self.refusals.nodes());
                let claim = object_key(&**change.object());
                self.backlog.wake(AffectedPods::ClaimsIn(&claim.namespace));
            }
            CacheChange::Volume(_) | CacheChange::Class(_) | CacheChange::Driver(_) => {
                self.backlog.wake(AffectedPods::Claims);
            }
            CacheChange::Capacity(change) => self.capacity_changed(&change),
            CacheChange::CsiNode(change) => self.csi_node_changed(&change),
            // A new attachment leaves less capacity, so it helps no pod.
            CacheChange::Attachment(ObjectChange::Deleted(_)) => {
                self.backlog.wake(AffectedPods::Claims)
            }
            CacheChange::Attachment(ObjectChange::Applied(..)) => {}
            CacheChange::DeviceClaim(_)
            | CacheChange::DeviceSlice(_)
            | CacheChange::DeviceClass(_) => {
                self.backlog.wake(AffectedPods::Devices);
            }
            CacheChange::Namespace(_) | CacheChange::Service(_) | CacheChange::Budget(_) => {}
        }
    }

    /// Decides about the ready pods while further writes are allowed.
    async fn schedule_ready(&mut self, feeds: &mut CacheSubscriptions) {
        for namespace in self.refusals.expire(Instant::now()) {
            self.cluster.refused(self.refusals.nodes());
            self.backlog.wake(AffectedPods::ClaimsIn(&namespace));
        }
        while self.has_capacity()
            && let Some(key) = self.backlog.next(Instant::now())
        {
            // All delivered changes are processed first, because a reservation ends when the caches show its result.
            while let Some(change) = feeds.ready() {
                self.changed(change);
                spend(1).await;
            }
            self.schedule(key);
            spend(1 + self.cluster.nodes() / limits::NODES_PER_UNIT).await;
        }
    }

    fn schedule(&mut self, key: ObjectKey) {
        let begun = Instant::now();
        let Some(pod) = self
            .caches
            .pods
            .get_key(&key)
            .filter(|pod| self.is_ours(pod))
        else {
            self.backlog.remove(&key);
            return;
        };
        let nomination = self.nominations.get(&key);
        let nomination = nomination.filter(|nominated| same(&nominated.pod, &pod));
        if nomination.is_some_and(|nominated| nominated.is_under_way(&pod, |pod| self.current(pod)))
        {
            return;
        }
        self.nominations.drop(&key);
        let reserved = self
            .reservations
            .get(&key)
            .filter(|reserved| same(&reserved.pod, &pod))
            .cloned();
        let overdue = match reserved.as_ref().map(|reserved| reserved.stage) {
            Some(ReservationStage::Preparing | ReservationStage::Binding) => return,
            Some(ReservationStage::Waiting(since)) => {
                since.elapsed() >= limits::VOLUMES_BOUND_WITHIN
            }
            None => false,
        };
        if overdue {
            self.explain_unbound_volumes(&key, &pod, "context deadline exceeded");
            self.reservations.drop(&key);
        }
        let reserved = reserved.filter(|_| !overdue);
        let decision = self.decide(
            &key,
            &pod,
            reserved.as_ref().map(|reserved| reserved.node.as_str()),
        );
        self.reservations.drop(&key);
        if !matches!(decision, PlacementDecision::Unschedulable(_)) {
            self.explanations.drop(&key);
        }
        match decision {
            PlacementDecision::Bind { node } => self.bind(key, pod, node, begun),
            PlacementDecision::Prepare { node, steps } => {
                let withdrawn = reserved
                    .as_ref()
                    .and_then(|reserved| reserved.withdrawn(&steps));
                if let Some(claim) = withdrawn {
                    let why = format!("provisioning failed for PVC {claim:?}");
                    self.explain_unbound_volumes(&key, &pod, &why);
                }
                self.prepare(key, pod, node, steps, reserved, begun)
            }
            PlacementDecision::Preempt(preemption) => self.preempt(key, pod, preemption, begun),
            PlacementDecision::Unschedulable(obstacle) => self.explain(key, &pod, obstacle, begun),
        }
    }

    fn bind(&mut self, key: ObjectKey, pod: Arc<PodView>, node: String, begun: Instant) {
        let reservation = Reservation {
            pod: pod.clone(),
            node: node.clone(),
            steps: Vec::new(),
            stage: ReservationStage::Binding,
        };
        self.reservations.keep(key.clone(), reservation);
        let history = self.backlog.history(&key);
        let client = self.client.clone();
        self.writes.spawn(async move {
            let result = writes::bind(client, &pod, &node).await;
            let bound = |()| WriteOutcome::Bound { node, history };
            FinishedWrite {
                key,
                pod,
                begun,
                outcome: result.map_or_else(WriteOutcome::Failed, bound),
            }
        });
    }

    fn prepare(
        &mut self,
        key: ObjectKey,
        pod: Arc<PodView>,
        node: String,
        steps: Vec<ClaimStep>,
        reserved: Option<Reservation>,
        begun: Instant,
    ) {
        let reserved = reserved.filter(|reserved| reserved.node == node);
        if steps.is_empty() {
            // All writes are finished. The reservation stays until the caches show them.
            let waiting = ReservationStage::Waiting(Instant::now());
            let reserved = reserved.unwrap_or(Reservation {
                pod,
                node,
                steps: Vec::new(),
                stage: waiting,
            });
            self.reservations.keep(key, reserved);
            return;
        }
        let under_way = steps
            .iter()
            .cloned()
            .map(ReservedClaim::under_way)
            .collect();
        let reservation = Reservation {
            pod: pod.clone(),
            node: node.clone(),
            steps: under_way,
            stage: ReservationStage::Preparing,
        };
        self.reservations.keep(key.clone(), reservation);
        let (client, claims) = (self.client.clone(), self.caches.claims.clone());
        let volumes = self.caches.volumes.clone();
        let device_claims = self.caches.device_claims.clone();
        self.writes.spawn(async move {
            let caches = writes::ObservedCaches {
                claims: &claims,
                volumes: &volumes,
                device_claims: &device_claims,
            };
            let result = writes::prepare(client, &pod, &node, steps, caches).await;
            FinishedWrite {
                key,
                pod,
                begun,
                outcome: result.map_or_else(WriteOutcome::Failed, WriteOutcome::Prepared),
            }
        });
    }

    fn warn(&self, pod: &PodView, text: &str) {
        let (kind, reason) = (EventType::Warning, "FailedScheduling");
        self.recorder.event(pod.reference(), kind, reason, text);
    }

    fn written(&mut self, written: FinishedWrite) {
        let FinishedWrite {
            key,
            pod,
            begun,
            outcome,
        } = written;
        let current = self
            .reservations
            .get(&key)
            .is_some_and(|reservation| same(&reservation.pod, &pod));
        match outcome {
            WriteOutcome::Explained(result) => {
                if let Err(error) = result {
                    tracing::debug!(pod = %key, error = %message(&error), "reason not written");
                }
                self.explained(key, &pod);
            }
            WriteOutcome::Preempted {
                node,
                revision,
                victims,
            } => self.preempted(&key, &node, revision, &victims, &pod),
            WriteOutcome::Bound { node, history } => {
                let metrics = &self.config.metrics;
                metrics.attempt(Attempt::Scheduled, begun.elapsed());
                if let Some((attempts, since)) = history {
                    metrics.placed(attempts, since.elapsed());
                }
                tracing::info!(pod = %key, node, "bound");
                let text = format!("Successfully assigned {key} to {node}");
                let kind = EventType::Normal;
                self.recorder
                    .event(pod.reference(), kind, "Scheduled", text);
                self.settle(&key);
            }
            WriteOutcome::Prepared(steps) => {
                if let Some(reservation) = self.reservations.get_mut(&key).filter(|_| current) {
                    let claims = &self.caches.claims;
                    self.refusals
                        .chose(&pod.namespace, &reservation.node, &steps, claims);
                    self.cluster.refused(self.refusals.nodes());
                    reservation.stage = ReservationStage::Waiting(Instant::now());
                    reservation.steps = steps;
                }
                // The change for which the pod waits may have arrived already.
                self.backlog.wake(AffectedPods::Pod(&key));
            }
            WriteOutcome::Failed(error) => {
                tracing::debug!(pod = %key, error = %message(&error), "write failed");
                self.config.metrics.attempt(Attempt::Error, begun.elapsed());
                if current {
                    self.reservations.drop(&key);
                }
                self.not_preempted(&key, &pod);
                // A deleted pod is retried as well: the cache will remove it from the backlog.
                self.backlog.retry(&key, Instant::now());
            }
        }
    }

    /// Ends a reservation once the cache shows the pod on its node.
    fn settle(&mut self, key: &ObjectKey) {
        let bound = self
            .caches
            .pods
            .get_key(key)
            .is_none_or(|pod| pod.node.is_some());
        if bound {
            self.reservations.drop(key);
        }
    }

    fn pod_changed(&mut self, change: ObjectChange<PodView>) {
        let key = change.object().key();
        match change {
            ObjectChange::Applied(pod, previous) => {
                let reservation = self.reservations.get(&key);
                if reservation.is_some_and(|reservation| !same(&reservation.pod, &pod)) {
                    self.reservations.drop(&key);
                }
                if previous.as_ref().is_some_and(|old| leaves(old, &pod)) {
                    self.backlog.wake(AffectedPods::All);
                }
                if self.is_ours(&pod) {
                    self.wake_free(&key);
                    let changed = previous.as_ref().is_none_or(|old| matters(old, &pod));
                    if changed || !self.backlog.contains(&key) {
                        let now = Instant::now();
                        self.backlog.add(key, rank(&pod), interests(&pod), now);
                    } else {
                        // Another write has replaced the reason.
                        self.write_explanation(key);
                    }
                    return;
                }
                self.backlog.remove(&key);
                self.nominations.drop(&key);
                self.explanations.drop(&key);
                self.settle(&key);
                let before = previous.filter(|old| is_running(old));
                if before.is_some_and(|old| !is_running(&pod) || asks_for_less(&old, &pod)) {
                    self.backlog.wake(AffectedPods::All);
                } else if pod.node.is_some() {
                    self.backlog.wake(AffectedPods::Neighbours);
                }
            }
            ObjectChange::Deleted(pod) => {
                self.backlog.remove(&key);
                self.reservations.drop(&key);
                let nominated = pod.nominated.is_some() || self.nominations.get(&key).is_some();
                self.nominations.drop(&key);
                self.explanations.drop(&key);
                if pod.node.is_some() || nominated {
                    self.backlog.wake(AffectedPods::All);
                }
            }
        }
    }

    fn node_changed(&mut self, change: &ObjectChange<Node>) {
        if let ObjectChange::Applied(new, Some(old)) = change {
            let capacity = |node: &Node| {
                node.status
                    .as_ref()
                    .and_then(|status| status.allocatable.clone())
            };
            if new.spec == old.spec
                && new.metadata.labels == old.metadata.labels
                && capacity(new) == capacity(old)
            {
                return;
            }
        }
        self.backlog.wake(AffectedPods::All);
    }

    /// Compares only the specifications, which contain the drivers and their limits.
    fn csi_node_changed(&mut self, change: &ObjectChange<CSINode>) {
        let is_same = |new: &CSINode, old: &CSINode| new.spec == old.spec;
        match change {
            ObjectChange::Applied(new, Some(old)) if is_same(new, old) => {}
            _ => self.backlog.wake(AffectedPods::Claims),
        }
    }

    fn capacity_changed(&mut self, change: &ObjectChange<CSIStorageCapacity>) {
        let is_same = |new: &CSIStorageCapacity, old: &CSIStorageCapacity| {
            new.capacity == old.capacity && new.maximum_volume_size == old.maximum_volume_size
        };
        match change {
            ObjectChange::Applied(new, Some(old)) if is_same(new, old) => {}
            ObjectChange::Applied(..) => self.backlog.wake(AffectedPods::Claims),
            ObjectChange::Deleted(_) => {}
        }
    }

    fn is_ours(&self, pod: &PodView) -> bool {
        let scheduler = pod.spec.scheduler_name.as_deref();
        pod.node.is_none()
            && !pod.is_deleting()
            && !pod.has_ended()
            && scheduler.unwrap_or("default-scheduler") == self.config.scheduler_name
    }
}

fn rank(pod: &PodView) -> QueueOrder {
    QueueOrder {
        priority: pod.spec.priority.unwrap_or_default(),
        created: pod.created,
    }
}

fn same(a: &PodView, b: &PodView) -> bool {
    a.uid == b.uid
}

/// Whether the pod uses capacity of a node.
fn is_running(pod: &PodView) -> bool {
    pod.node.is_some() && !pod.has_ended()
}

/// Whether the change of the pod can change its feasible nodes.
fn matters(old: &PodView, new: &PodView) -> bool {
    old.spec != new.spec
        || old.claims != new.claims
        || old.device_claims != new.device_claims
        || old.node != new.node
        || old.labels != new.labels
        || !same(old, new)
}

/// Whether the pod is no longer nominated for its former nominated node, and is not bound to it either.
fn leaves(old: &PodView, new: &PodView) -> bool {
    let node_name = new.nominated.as_ref().or(new.node.as_ref());
    old.nominated.is_some() && old.nominated.as_ref() != node_name
}

fn interests(pod: &PodView) -> RetryTriggers {
    let spec = &pod.spec;
    let affinity = spec.affinity.as_ref();
    let devices = spec.resource_claims.as_deref().unwrap_or_default();
    RetryTriggers {
        claims: !pod.claims.is_empty(),
        devices: !devices.is_empty(),
        neighbours: affinity.is_some_and(|affinity| affinity.pod_affinity.is_some())
            || spec.topology_spread_constraints.is_some(),
    }
}

#[cfg(test)]
mod tests;
