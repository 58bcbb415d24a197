//! The node lifecycle controller: watches heartbeats, marks lost nodes, and evicts their pods.

mod execute;
mod fence;
mod record;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use controller_framework::{
    Cache, Index, ObjectChange, Queue, ReconcileResult, WatchConfig, object_key, run_controller,
};
use controller_planners::node_lifecycle::fence::NodeLease;
use controller_planners::node_lifecycle::silence::{LeaseState, SilenceRecord, observed};
use controller_planners::node_lifecycle::{
    Disruption, EvictionRateLimiter, GAP, NodeHeartbeats, Observed, PERIOD, TimedTaints,
    concerns_new_pods, evictions, grace, is_ready, plan,
};
use jiff::{SignedDuration, Timestamp};
use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::Api;
use object_model::ObjectKey;
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;

use crate::Context;
use crate::api_error::ApiError;
use execute::Executor;
use fence::Fence;

pub use record::SilenceStorage;

struct Observer {
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods_by_node: Index<PodView>,
    memory: Mutex<Memory>,
    /// The start of this observer: silence is measured by its local monotonic clock.
    started: Instant,
}

/// The memory about the nodes.
struct Memory {
    heartbeats: NodeHeartbeats,
    taints: TimedTaints,
    eviction_rate: EvictionRateLimiter,
    disruption: Disruption,
}

struct NodeLifecycle {
    observer: Observer,
    fence: Fence,
    executor: Executor,
    pods: Cache<PodView>,
    /// The storage of the record for the next run.
    silence: Option<SilenceStorage>,
    /// The queue of nodes; all nodes are queued when the mode of evictions changes.
    nodes: Queue<ObjectKey>,
}

pub(crate) async fn run(context: Context) {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), NODE_LEASES);
    let queue = context.queue("node_lifecycle_controller");
    let recorder = context.recorder("node-controller");
    let controller = NodeLifecycle {
        fence: Fence::new(&context, recorder.clone()),
        observer: Observer {
            nodes: context.caches.nodes.clone(),
            leases: Cache::spawn(leases, WatchConfig::default(), context.component().clone()),
            pods_by_node: context
                .caches
                .pods
                .index(|pod| node_of(pod).into_iter().collect()),
            memory: Mutex::new(Memory {
                heartbeats: NodeHeartbeats::new(context.config.observation_gap.unwrap_or(GAP)),
                taints: TimedTaints::default(),
                eviction_rate: EvictionRateLimiter::default(),
                disruption: Disruption::default(),
            }),
            started: Instant::now(),
        },
        executor: Executor {
            client: context.client.clone(),
            recorder,
        },
        pods: context.caches.pods.clone(),
        silence: context.config.silence.clone(),
        nodes: queue.clone(),
    };
    let controller = Arc::new(controller);
    controller.continue_former_run().await;
    run_controller(controller.clone(), queue, context.shutdown.clone()).await;
    controller.record(&mut None, true).await;
}

impl controller_framework::Controller for NodeLifecycle {
    type Key = ObjectKey;
    type Error = ApiError;

    const WORKERS: usize = 4;

    async fn wait_synced(&self) -> bool {
        self.observer.nodes.wait_synced().await
            && self.observer.leases.wait_synced().await
            && self.pods.wait_synced().await
            && self.fence.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<ObjectKey>) {
        tokio::select! {
            () = self.follow(queue) => {}
            () = self.monitor(queue) => {}
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, ApiError> {
        self.check(&key.name).await
    }
}

impl NodeLifecycle {
    async fn check(&self, name: &str) -> Result<ReconcileResult, ApiError> {
        let observer = &self.observer;
        let now = Timestamp::now();
        let Some(node) = observer.nodes.get("", name) else {
            let exists = |name: &str| observer.nodes.get("", name).is_some();
            let mut memory = observer.memory();
            memory.heartbeats.retain(exists);
            memory.taints.retain(exists);
            drop(memory);
            self.fence.renewals().retain(exists);
            return Ok(ReconcileResult::Done);
        };
        let pods = observer.pods_by_node.get(name);
        let (plan, taints, others_ready) = {
            let mut memory = observer.memory();
            if observer.check(&mut memory, &node, &self.nodes) {
                self.fence.renewals().restart_all();
            }
            let observed = Observed {
                name: name.into(),
                node: node.clone(),
                silent_for: observer.silent_for(&mut memory.heartbeats, &node),
                grace: observer.grace(&node),
                is_fenced: observer
                    .lease(&node)
                    .is_some_and(|lease| NodeLease::from(&*lease).fenced),
                pods: pods.clone(),
                permission: memory
                    .eviction_rate
                    .permission(&node, &memory.disruption, now),
            };
            let plan = plan(&observed, now);
            if plan.begins_to_drive_away(&node) {
                memory.eviction_rate.begun(&node, now);
            }
            let taints = memory.taints.update(name, plan.taints_of(&node), now);
            (plan, taints, !memory.disruption.is_total())
        };
        let evictions = evictions(&taints, &pods, now);
        let wake = [plan.wake_at, evictions.wake_at]
            .into_iter()
            .flatten()
            .min();
        self.executor.execute(&node, plan).await?;
        let lease = observer.leases.get(NODE_LEASES, name);
        let again = match lease {
            Some(lease) => {
                let reading = observer.reading();
                let fence = &self.fence;
                fence
                    .check(&node, &lease, &pods, others_ready, reading)
                    .await?
            }
            None => None,
        };
        self.executor.evict(&evictions.now).await?;
        let wait = wake
            .map(|at| at.duration_since(now))
            .into_iter()
            .chain(again)
            .min();
        Ok(ReconcileResult::from(
            wait.map(|wait| Duration::try_from(wait).unwrap_or_default()),
        ))
    }

    /// Checks all nodes every [`PERIOD`].
    async fn monitor(&self, queue: &Queue<ObjectKey>) {
        let period = Duration::try_from(PERIOD).unwrap_or_default();
        let mut recorded = None;
        loop {
            if self.observer.check_all(&mut self.observer.memory(), queue) {
                self.fence.renewals().restart_all();
            }
            self.record(&mut recorded, false).await;
            tokio::time::sleep(period).await;
        }
    }

    /// Continues the counts of the server's former run.
    async fn continue_former_run(&self) {
        let Some(storage) = &self.silence else {
            return;
        };
        let Some(former) = storage.read(Timestamp::now()).await else {
            return;
        };
        let (mut leases, mut heartbeats) = (BTreeMap::new(), BTreeMap::new());
        for (name, silence) in former.nodes {
            let (unchanged, silent) = (silence.unchanged(), silence.silent());
            leases.insert(name.clone(), (silence.lease, unchanged));
            heartbeats.insert(name, (silence.signs, silent));
        }
        self.fence.renewals().continue_from(leases);
        self.observer.memory().heartbeats.continue_from(heartbeats);
    }

    /// Records the silence of nodes for the next run, unless the stored record is equal.
    async fn record(&self, recorded: &mut Option<SilenceRecord>, is_last: bool) {
        let Some(storage) = &self.silence else {
            return;
        };
        let observer = &self.observer;
        let now = observer.reading();
        let mut record = SilenceRecord::default();
        for node in observer.nodes.list() {
            let name = object_key(&*node).name;
            let Some(lease) = observer.lease(&node) else {
                continue;
            };
            let Ok(state) = LeaseState::of(&lease) else {
                continue;
            };
            let observed_for = self.fence.renewals().observed_for(&name, &state, now);
            let memory = observer.memory();
            let heartbeat = memory.heartbeats.observed(&name, now);
            let silence =
                heartbeat.map(|heartbeat| observed(&lease, observed_for, heartbeat, is_last));
            if let Some(Ok(Some(silence))) = silence {
                record.nodes.insert(name.to_string(), silence);
            }
        }
        let before = recorded.as_ref().map(|before| &before.nodes);
        let is_recorded = match before {
            Some(before) => *before == record.nodes,
            // There is no silence to record, and a record of the former run becomes invalid soon, because its leases
            // are renewed.
            None => record.nodes.is_empty(),
        };
        if is_recorded {
            return;
        }
        record.written = Timestamp::now();
        if storage.replace(&record).await {
            *recorded = Some(record);
        }
    }

    /// Queues nodes after a heartbeat or a change, and the nodes of new pods if these pods may not stay, or may fail
    /// over.
    async fn follow(&self, queue: &Queue<ObjectKey>) {
        let mut nodes = self.observer.nodes.subscribe();
        let mut leases = self.observer.leases.subscribe();
        let mut pods = self.pods.subscribe_to_changes(|old, new| {
            new.is_some_and(|new| old.is_none_or(|old| new.node != old.node))
        });
        loop {
            let node = tokio::select! {
                Some(change) = nodes.next() => Some(object_key(&**change.object()).name),
                // A renewal needs no plan; its time is recorded.
                Some(change) = leases.next() => match &change {
                    ObjectChange::Applied(lease, before) => {
                        let name = object_key(&**lease).name;
                        let now = self.observer.reading();
                        if let Ok(state) = LeaseState::of(lease) {
                            self.fence.renewals().unchanged_for(&name, &state, now);
                        }
                        if let Some(node) = self.observer.nodes.get("", &name) {
                            self.observer.silent_for(&mut self.observer.memory().heartbeats, &node);
                            let was_lost = !node_conditions::is_ready(&node);
                            let is_fenced = |lease: &Lease| NodeLease::from(lease).fenced;
                            let was_fenced = before.as_ref().is_some_and(|before| is_fenced(before));
                            let needs_plan = was_lost || was_fenced != is_fenced(lease);
                            needs_plan.then_some(name)
                        } else {
                            None
                        }
                    }
                    ObjectChange::Deleted(_) => None,
                },
                Some(change) = pods.next() => match &change {
                    ObjectChange::Applied(new, _) => node_of(new).map(Arc::from).filter(|name: &Arc<str>| {
                        let node = self.observer.nodes.get("", name);
                        new.ends_with_lease() || node.is_none_or(|node| concerns_new_pods(&node))
                    }),
                    ObjectChange::Deleted(_) => None,
                },
                else => return,
            };
            if let Some(node) = node {
                queue.add(ObjectKey::cluster(node));
            }
        }
    }
}

impl Observer {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the facts that the plan of one node depends on. A ready node among ready nodes needs only the check of
    /// the clock: its plan does not depend on other nodes, and all nodes are checked every [`PERIOD`].
    fn check(&self, memory: &mut Memory, node: &Node, queue: &Queue<ObjectKey>) -> bool {
        let anew = memory.heartbeats.check(self.reading());
        let silent_for = self.silent_for(&mut memory.heartbeats, node);
        let ready = is_ready(node, silent_for, self.grace(node));
        if ready == Some(true) && memory.disruption.is_none() {
            return anew;
        }
        self.check_all(memory, queue) || anew
    }

    /// Checks all nodes, and queues them when the mode of evictions changes. Returns whether the count of all silences
    /// started again.
    fn check_all(&self, memory: &mut Memory, queue: &Queue<ObjectKey>) -> bool {
        let now = self.reading();
        let mut anew = memory.heartbeats.check(now);
        let nodes = self.nodes.list();
        let with_health = nodes.iter().map(|node| {
            let silent_for = self.silent_for(&mut memory.heartbeats, node);
            (node.as_ref(), is_ready(node, silent_for, self.grace(node)))
        });
        let disruption = Disruption::of(with_health);
        let before = std::mem::replace(&mut memory.disruption, disruption);
        // The control plane was disconnected and has returned: missed heartbeats do not count as silence.
        if before.is_total() && !memory.disruption.is_total() {
            memory.heartbeats.restart_all(now);
            anew = true;
        }
        if !before.permits_as(&memory.disruption) {
            for node in &nodes {
                queue.add(object_key(&**node));
            }
        }
        anew
    }

    /// The reading of this observer's monotonic clock.
    fn reading(&self) -> SignedDuration {
        SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX)
    }

    fn lease(&self, node: &Node) -> Option<Arc<Lease>> {
        self.leases.get(NODE_LEASES, &object_key(node).name)
    }

    fn grace(&self, node: &Node) -> SignedDuration {
        grace(self.lease(node).as_deref())
    }

    fn silent_for(&self, heartbeats: &mut NodeHeartbeats, node: &Node) -> SignedDuration {
        let renewed = self.lease(node).and_then(|lease| {
            lease
                .spec
                .as_ref()
                .and_then(|spec| spec.renew_time.as_ref().map(|time| time.0))
        });
        heartbeats.silent_for(&object_key(node).name, node, renewed, self.reading())
    }
}

/// The patch of a pod's status with the reason of its deletion.
fn disruption_target(reason: &str, message: &str) -> Value {
    json!({ "conditions": [{
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": Timestamp::from_second(Timestamp::now().as_second()).ok(),
    }] })
}

fn node_of(pod: &PodView) -> Option<String> {
    pod.node.as_ref().map(ToString::to_string)
}
