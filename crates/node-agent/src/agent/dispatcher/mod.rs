//! The dispatcher: adopts the pods of a former agent, and hands each pod's changes to its worker.

mod adoption;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use container_runtime::Sandbox;
use controller_framework::{Cache, Changes, ObjectChange};
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::block_in_place;
use k8s_openapi::api::core::v1::Pod;
use object_model::{ObjectKey, Uid};
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::{PodConfirmation, PodIdentity};
use process_telemetry::Component;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use crate::config::OnShutdown;
use crate::limits::{LISTS_PATIENCE, UNMOUNT_PATIENCE, UNMOUNT_RETRY, WORKER_RESTART_DELAY};
use crate::machine::pressure::Monitor;
use crate::machine::stats::UsageHistory;
use crate::node::disk_collector;
use crate::node::eviction::EvictionManager;
use crate::node::image_gc::ImageCollector;
use crate::node::registration::NodeKeeper;
use crate::node::stats_collector;
use crate::pods::message::Message;
use crate::pods::recovery::{self, RecordedPod, StoredPod};
use crate::worker::{Worker, WorkerContext, WorkerStart};

use adoption::{AdoptablePod, Adoption, adoptable_pods};

/// The workers of the pods with one name, by UID.
type WorkersOfName = BTreeMap<Uid, mpsc::Sender<Message>>;

/// The state of the API's lists when the agent starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InitialLists {
    Synced,
    /// No API server has responded: pods are adopted from the disk.
    Absent,
    /// The agent shut down before the lists were complete.
    Ended,
}

/// A pod of the API's cache.
#[derive(Clone)]
struct CachedPod {
    identity: PodIdentity,
    pod: Arc<Pod>,
}

impl CachedPod {
    /// `None` for a pod without a name, a namespace or a UID, which no API server sends.
    fn read(pod: Arc<Pod>) -> Option<Self> {
        match PodIdentity::read(&pod) {
            Ok(identity) => Some(Self { identity, pod }),
            Err(error) => {
                tracing::error!(%error, "a pod of the API is ignored");
                None
            }
        }
    }
}

/// The pods of a former agent, and the tasks that a new agent needs besides its workers.
pub(super) struct DispatcherStart {
    pub recorded: BTreeMap<Uid, RecordedPod>,
    pub sandboxes: Vec<Sandbox>,
    pub keeper: NodeKeeper,
    /// Stops the tasks that continue while pods are being stopped.
    pub background: CancellationToken,
    pub shutdown: CancellationToken,
}

/// Starts a worker for each pod, and sends the changes of a pod to its worker.
pub(super) struct Dispatcher {
    context: Arc<WorkerContext>,
    admission: Admission,
    monitor: Arc<Monitor>,
    usage: Arc<UsageHistory>,
    workers: BTreeMap<ObjectKey, WorkersOfName>,
    tasks: JoinSet<()>,
    /// The pod of each task.
    pods: HashMap<tokio::task::Id, PodIdentity>,
    component: Component,
}

/// The tasks that continue while pods are being stopped.
struct BackgroundTasks {
    heartbeat: JoinHandle<()>,
    usage: JoinHandle<()>,
    disk_usage: JoinHandle<()>,
}

impl BackgroundTasks {
    async fn join(self) {
        if let Err(error) = self.heartbeat.await {
            tracing::error!(%error, "heartbeat ended unexpectedly");
        }
        if let Err(error) = self.usage.await {
            tracing::error!(%error, "usage is no longer sampled");
        }
        if let Err(error) = self.disk_usage.await {
            tracing::error!(%error, "disk usage is no longer measured");
        }
    }
}

impl Dispatcher {
    pub fn new(
        context: Arc<WorkerContext>,
        monitor: Arc<Monitor>,
        usage: Arc<UsageHistory>,
        background: &Component,
    ) -> Self {
        let (node, pods) = (context.node.clone(), context.pods.clone());
        Self {
            admission: Admission::new(node, &context.client, monitor.clone(), pods, background),
            context,
            monitor,
            usage,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            pods: HashMap::new(),
            component: background.clone(),
        }
    }

    /// Adopts the pods of a former agent, then runs pods until the agent shuts down.
    pub async fn run(mut self, start: DispatcherStart) {
        let patience = match start.keeper.is_registered() {
            true => LISTS_PATIENCE,
            false => Duration::ZERO,
        };
        let background_tasks = self.spawn_background(start.keeper, &start.background);
        let pods = self.admission.pods().clone();
        let adoptable = adoptable_pods(start.recorded, start.sandboxes);
        let mut disk_space = JoinSet::new();
        let lists = tokio::select! {
            () = start.shutdown.cancelled() => InitialLists::Ended,
            is_synced = self.synced() => match is_synced {
                true => InitialLists::Synced,
                false => InitialLists::Ended,
            },
            () = tokio::time::sleep(patience) => InitialLists::Absent,
        };
        if lists != InitialLists::Ended {
            self.run_pods(&pods, adoptable, lists, &mut disk_space, &start.shutdown)
                .await;
        }
        self.end_pods(&pods).await;
        while let Some(result) = disk_space.join_next().await {
            if let Err(error) = result {
                tracing::error!(%error, "the node no longer makes room");
            }
        }
        start.background.cancel();
        background_tasks.join().await;
    }

    fn spawn_background(&self, keeper: NodeKeeper, stop: &CancellationToken) -> BackgroundTasks {
        let recorder = self.context.node.recorder.clone();
        let node = self.admission.node().clone();
        let clock = self.context.node.clock;
        BackgroundTasks {
            heartbeat: tokio::spawn(keeper.keep(recorder, node, stop.clone())),
            usage: tokio::spawn(stats_collector::watch(
                self.usage.clone(),
                self.context.pods.clone(),
                clock,
                stop.clone(),
            )),
            disk_usage: tokio::spawn(disk_collector::watch(
                self.context.disk.clone(),
                self.context.pods.clone(),
                clock,
                stop.clone(),
            )),
        }
    }

    /// Adopts the pods of a former agent, and runs pods until the agent shuts down. Starts the tasks that free
    /// disk space in `disk_space`.
    async fn run_pods(
        &mut self,
        pods: &Cache<Pod>,
        mut adoptable: BTreeMap<Uid, AdoptablePod>,
        lists: InitialLists,
        disk_space: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) {
        let with_sandbox = adoptable.iter().filter(|(_, pod)| pod.sandbox.is_some());
        let with_sandbox = with_sandbox.map(|(uid, _)| uid.to_string()).collect();
        let node = self.context.node.clone();
        if let Err(error) = node.config.network.recover(&with_sandbox).await {
            tracing::error!(%error, "pod network not cleared of former pods");
        }
        let is_synced = lists == InitialLists::Synced;
        match is_synced {
            true => self.settle(pods, std::mem::take(&mut adoptable)).await,
            false => self.adopt_alone(&mut adoptable).await,
        }
        // After the adoption, the pod manager has all pods of the former agent.
        let running = self.context.pods.clone();
        let puller = self.context.images.clone();
        let images = Arc::new(ImageCollector::new(node.clone(), puller, running.clone()));
        let eviction = EvictionManager {
            node,
            monitor: self.monitor.clone(),
            pods: running,
            disk: self.context.disk.clone(),
            images: images.clone(),
        };
        disk_space.spawn(eviction.watch(shutdown.clone()));
        disk_space.spawn(images.watch(shutdown.clone()));
        if is_synced || self.follow_alone(pods, adoptable, shutdown).await {
            self.follow(pods, shutdown).await;
        }
    }

    /// Stops the pods or leaves them running, as the configuration says, and waits for the workers.
    async fn end_pods(&mut self, pods: &Cache<Pod>) {
        let on_shutdown = *self.context.node.config.on_shutdown.borrow();
        match on_shutdown {
            OnShutdown::StopPods => {
                self.stop_pods(pods).await;
                // An open socket would keep the mount of the directory busy.
                self.context.devices.plugins.close().await;
                self.unmount_drivers().await;
                if let Err(error) = self.context.runtime.close().await {
                    tracing::warn!(%error, "container runtime not closed");
                }
            }
            OnShutdown::LeavePods => {
                self.context.abandon.cancel();
                self.context.devices.plugins.close().await;
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Unmounts the directory of the drivers. Tasks of this node and a driver that stops may still use the
    /// directory for a moment, longest on a slow disk.
    async fn unmount_drivers(&self) {
        let directory = self.context.csi.directory();
        let begun = Instant::now();
        loop {
            let result = block_in_place(|| directory.unmount());
            match result {
                Ok(()) => return,
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy
                        && begun.elapsed() < UNMOUNT_PATIENCE => {}
                Err(error) => {
                    tracing::warn!(%error, "the mount of the drivers' directory is left");
                    return;
                }
            }
            tokio::time::sleep(UNMOUNT_RETRY).await;
        }
    }

    /// Waits for the first lists of the API; `false` if the caches stop before.
    fn synced(&self) -> BoxFuture<'static, bool> {
        let (pods, nodes) = (self.admission.pods().clone(), self.admission.node().clone());
        let objects = self.context.api_objects.clone();
        let synced = async move {
            pods.wait_synced().await && nodes.wait_synced().await && objects.wait_synced().await
        };
        synced.boxed()
    }

    /// Sends each change to the pod's worker until the agent shuts down.
    async fn follow(&mut self, pods: &Cache<Pod>, shutdown: &CancellationToken) {
        let mut changes = pods.subscribe();
        let mut address = self.context.node.config.node_ip.clone();
        address.mark_unchanged();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(result) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.worker_ended(result, pods).await;
                }
                change = changes.next() => match change {
                    Some(change) => self.handle(change).await,
                    None => return,
                },
                Ok(()) = address.changed() => self.address_changed().await,
            }
        }
    }

    async fn address_changed(&mut self) {
        for worker in self.workers.values().flat_map(BTreeMap::values) {
            if worker.send(Message::NodeAddressChanged).await.is_err() {
                tracing::debug!("a pod's worker has just ended");
            }
        }
    }

    async fn handle(&mut self, change: ObjectChange<Pod>) {
        match change {
            ObjectChange::Applied(pod, _) => {
                if let Some(pod) = CachedPod::read(pod) {
                    self.applied(pod).await;
                }
            }
            ObjectChange::Deleted(pod) => {
                if let Some(CachedPod { identity, pod }) = CachedPod::read(pod) {
                    self.send(&identity, Message::Removed(pod)).await;
                }
            }
        }
    }

    fn worker(&self, pod: &PodIdentity) -> Option<&mpsc::Sender<Message>> {
        self.workers.get(&pod.key)?.get(&pod.uid)
    }

    async fn applied(&mut self, CachedPod { identity, pod }: CachedPod) {
        if self.worker(&identity).is_some() {
            return self.send(&identity, Message::Pod(pod)).await;
        }
        // Pods of this name with other UIDs are deleted in the API, even if the watch missed the deletion.
        let workers = self.workers.get(&identity.key);
        let predecessors: BTreeSet<Uid> = workers
            .into_iter()
            .flatten()
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in &predecessors {
            let predecessor = PodIdentity {
                key: identity.key.clone(),
                uid: uid.clone(),
            };
            if let Some(view) = self.context.pods.get(&predecessor) {
                self.send(&predecessor, Message::Removed(view.pod.clone()))
                    .await;
            }
        }
        self.begin_new(CachedPod { identity, pod }, predecessors)
            .await;
    }

    /// Starts the worker of a pod that is new here, if the node admits the pod.
    async fn begin_new(
        &mut self,
        CachedPod { identity, pod }: CachedPod,
        predecessors: BTreeSet<Uid>,
    ) {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let rejection = match phase {
            Some("Succeeded" | "Failed") => None,
            _ => self.admission.rejection(&identity, &pod).await,
        };
        self.begin(WorkerStart {
            identity,
            pod,
            confirmation: PodConfirmation::Bound,
            rejection,
            stored: StoredPod::default(),
            sandbox: None,
            events: None,
            predecessors,
        });
    }

    async fn send(&mut self, pod: &PodIdentity, message: Message) {
        if let Some(worker) = self.worker(pod).cloned()
            && worker.send(message).await.is_err()
        {
            tracing::debug!("a pod's worker has just ended");
        }
    }

    fn begin(&mut self, start: WorkerStart) {
        let identity = start.identity.clone();
        let (worker, sender) = Worker::new(self.context.clone(), start);
        self.workers
            .entry(identity.key.clone())
            .or_default()
            .insert(identity.uid.clone(), sender);
        let component = self.component.clone();
        let run = async move { component.watched("worker of a pod", worker.run()).await };
        let task = self.tasks.spawn(run);
        self.pods.insert(task.id(), identity);
    }

    async fn worker_ended(
        &mut self,
        result: Result<(tokio::task::Id, ()), JoinError>,
        pods: &Cache<Pod>,
    ) {
        let task = match &result {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        let Some(identity) = self.pods.remove(&task) else {
            return;
        };
        if let Err(error) = result {
            let (namespace, name) = (identity.namespace(), identity.name());
            tracing::error!(namespace, name, %error, "a pod's worker failed");
            if self.begin_again(&identity, pods).await {
                return;
            }
        }
        self.forget(&identity).await;
        // No later object has this UID, so a missed removal is sent to the worker now.
        let current = pods.get(identity.namespace(), identity.name());
        if let Some(current) = current.and_then(CachedPod::read)
            && current.identity.uid != identity.uid
            && self.worker(&current.identity).is_none()
        {
            self.applied(current).await;
        }
    }

    /// Removes a worker whose pod is cleaned up. The next pod of this name may start then.
    async fn forget(&mut self, pod: &PodIdentity) {
        self.context.pods.remove(pod);
        if let Some(workers) = self.workers.get_mut(&pod.key) {
            workers.remove(&pod.uid);
            for worker in workers.values() {
                let message = Message::PredecessorRemoved(pod.uid.clone());
                if worker.send(message).await.is_err() {
                    tracing::debug!("a pod's worker has just ended");
                }
            }
            if workers.is_empty() {
                self.workers.remove(&pod.key);
            }
        }
    }

    /// Replaces a failed worker, as if the agent had restarted: the pod keeps running. Returns `false` if
    /// the pod needs no worker any more.
    async fn begin_again(&mut self, identity: &PodIdentity, pods: &Cache<Pod>) -> bool {
        // A delay, so that a repeated failure does not spin.
        tokio::time::sleep(WORKER_RESTART_DELAY).await;
        let uid = &identity.uid;
        let recorded =
            block_in_place(|| recovery::recorded_pods(&self.context.node.config.data_dir));
        let recorded = recorded.ok().and_then(|mut recorded| recorded.remove(uid));
        let current = pods.get(identity.namespace(), identity.name());
        let current = current.and_then(CachedPod::read);
        let current = current.filter(|current| current.identity.uid == *uid);
        let confirmation = match &current {
            Some(_) => PodConfirmation::Bound,
            None if pods.is_synced() => PodConfirmation::Removed,
            None => PodConfirmation::Unconfirmed,
        };
        // If neither the API nor the disk has the pod, the last published view is used.
        let published = || Some(self.context.pods.get(identity)?.pod.clone());
        let pod = current
            .map(|current| current.pod)
            .or_else(|| recorded.as_ref().map(|recorded| recorded.pod.clone()))
            .or_else(published);
        let Some(pod) = pod else { return false };
        let unrecorded = || RecordedPod {
            identity: identity.clone(),
            pod: pod.clone(),
            stored: StoredPod::default(),
            has_record: false,
        };
        let recorded = recorded.unwrap_or_else(unrecorded);
        let sandbox = match self.context.runtime.sandbox(uid.as_str()).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                tracing::error!(%uid, %error, "sandbox of a failed worker not found");
                None
            }
        };
        let workers = self.workers.get(&identity.key).into_iter().flatten();
        let predecessors = workers
            .map(|(predecessor, _)| predecessor)
            .filter(|predecessor| *predecessor != uid);
        let adoption = Adoption {
            pod,
            confirmation,
            predecessors: predecessors.cloned().collect(),
        };
        self.adopt(adoption, AdoptablePod { recorded, sandbox })
            .await;
        true
    }

    /// Stops all pods, one wave after the other, and waits until the pods have ended.
    async fn stop_pods(&mut self, pods: &Cache<Pod>) {
        let mut changes = pods.subscribe();
        let views = self.context.pods.list();
        let order = self.context.node.config.shutdown_order.clone();
        let waves: HashMap<Uid, usize> = views
            .iter()
            .map(|view| (view.identity.uid.clone(), order.wave_of(&view.pod)))
            .collect();
        // A pod without a view has no containers.
        let wave_of = |uid: &Uid| waves.get(uid).copied().unwrap_or_default();
        for (index, wave) in order.waves().iter().enumerate() {
            let stop = NodeStop {
                grace_seconds: wave.grace_seconds,
            };
            self.stop_wave(stop, |uid| wave_of(uid) == index, &mut changes)
                .await;
        }
    }

    /// Stops the pods with these UIDs concurrently, and waits until they have ended.
    async fn stop_wave(
        &mut self,
        stop: NodeStop,
        is_in: impl Fn(&Uid) -> bool,
        changes: &mut Changes<Pod>,
    ) {
        let all = self.workers.values().flatten();
        for (_, worker) in all.filter(|(uid, _)| is_in(uid)) {
            if worker.send(Message::NodeStops(stop)).await.is_err() {
                tracing::debug!("a pod's worker has just ended");
            }
        }
        while self.pods.values().any(|pod| is_in(&pod.uid)) {
            tokio::select! {
                Some(result) = self.tasks.join_next_with_id() => {
                    let task = match result {
                        Ok((task, ())) => task,
                        Err(error) => error.id(),
                    };
                    self.pods.remove(&task);
                }
                // A pod that is deleted during the shutdown gets a shorter grace period, or no grace
                // period.
                Some(change) = changes.next() => self.forward(change).await,
            }
        }
    }

    /// Sends a change to the pod's worker, if there is a worker.
    async fn forward(&mut self, change: ObjectChange<Pod>) {
        let (pod, message): (_, fn(Arc<Pod>) -> Message) = match change {
            ObjectChange::Applied(pod, _) => (pod, Message::Pod),
            ObjectChange::Deleted(pod) => (pod, Message::Removed),
        };
        if let Some(CachedPod { identity, pod }) = CachedPod::read(pod) {
            self.send(&identity, message(pod)).await;
        }
    }
}
