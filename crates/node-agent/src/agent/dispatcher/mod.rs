//! The dispatcher: adopts the pods of a former agent, and hands each pod's changes to its worker.

mod adoption;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use container_runtime::Sandbox;
use controller_framework::{Cache, Changes, ObjectChange};
use futures::FutureExt;
use futures::future::BoxFuture;
use host_kernel::block_in_place;
use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::node::shutdown::NodeStop;
use process_telemetry::Component;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use crate::config::OnShutdown;
use crate::limits::{LISTS_PATIENCE, WORKER_RESTART_DELAY};
use crate::machine::pressure::Monitor;
use crate::machine::stats::UsageHistory;
use crate::node::disk_collector;
use crate::node::eviction::EvictionManager;
use crate::node::image_gc::ImageCollector;
use crate::node::registration::NodeKeeper;
use crate::node::stats_collector;
use crate::pods::message::Message;
use crate::pods::recovery::{self, FoundPod, StoredPod};
use crate::worker::{PodConfirmation, Worker, WorkerContext, WorkerStart};

use adoption::{AdoptablePod, left};

type Name = (String, String);

/// The workers of the pods with one name, by UID.
type OfName = BTreeMap<String, mpsc::Sender<Message>>;

/// The state of the API's lists when the agent starts.
enum Start {
    /// The lists are complete.
    Synced,
    /// No API server has responded: pods are adopted from the disk.
    Alone,
    /// The agent shut down before the lists were complete.
    Ended,
}

/// Starts a worker for each pod, and sends the changes of a pod to its worker.
pub(super) struct Dispatcher {
    context: Arc<WorkerContext>,
    admission: Admission,
    monitor: Arc<Monitor>,
    usage: Arc<UsageHistory>,
    workers: BTreeMap<Name, OfName>,
    tasks: JoinSet<()>,
    /// The pod of each task.
    pods: HashMap<tokio::task::Id, (Name, String)>,
    component: Component,
}

fn name_of(pod: &Pod) -> Name {
    let meta = &pod.metadata;
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
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
    pub async fn run(
        mut self,
        found: BTreeMap<String, FoundPod>,
        sandboxes: Vec<Sandbox>,
        keeper: NodeKeeper,
        background: CancellationToken,
        shutdown: CancellationToken,
    ) {
        let recorder = self.context.node.recorder.clone();
        let patience = match keeper.is_registered() {
            true => LISTS_PATIENCE,
            false => Duration::ZERO,
        };
        let heartbeat =
            tokio::spawn(keeper.keep(recorder, self.admission.node().clone(), background.clone()));
        let node = self.context.node.clone();
        let figures = tokio::spawn(stats_collector::watch(
            self.usage.clone(),
            self.context.pods.clone(),
            node.clock,
            background.clone(),
        ));
        let disk_figures = tokio::spawn(disk_collector::watch(
            self.context.disk.clone(),
            self.context.pods.clone(),
            node.clock,
            background.clone(),
        ));
        let pods = self.admission.pods().clone();
        let mut left = left(found, sandboxes);
        let live = left.iter().filter(|(_, one)| one.sandbox.is_some());
        let live: BTreeSet<String> = live.map(|(uid, _)| uid.clone()).collect();
        let mut disk_space = JoinSet::new();
        let start = tokio::select! {
            () = shutdown.cancelled() => Start::Ended,
            synced = self.synced() => if synced { Start::Synced } else { Start::Ended },
            () = tokio::time::sleep(patience) => Start::Alone,
        };
        if !matches!(start, Start::Ended) {
            if let Err(error) = node.config.network.recover(&live).await {
                tracing::error!(%error, "pod network not cleared of former pods");
            }
            if matches!(start, Start::Synced) {
                self.settle(&pods, std::mem::take(&mut left)).await;
            } else {
                self.adopt_alone(&mut left).await;
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
            if matches!(start, Start::Synced) || self.follow_alone(&pods, left, &shutdown).await {
                self.follow(&pods, &shutdown).await;
            }
        }
        let on_shutdown = *self.context.node.config.on_shutdown.borrow();
        match on_shutdown {
            OnShutdown::StopPods => {
                self.stop_pods(&pods).await;
                let directory = self.context.csi.directory();
                if let Err(error) = block_in_place(|| directory.unmount()) {
                    tracing::warn!(%error, "the mount of the drivers' directory is left");
                }
                if let Err(error) = self.context.runtime.close().await {
                    tracing::warn!(%error, "container runtime not closed");
                }
            }
            OnShutdown::LeavePods => self.context.abandon.cancel(),
        }
        while self.tasks.join_next().await.is_some() {}
        while let Some(ended) = disk_space.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "the node no longer makes room");
            }
        }
        background.cancel();
        if let Err(error) = heartbeat.await {
            tracing::error!(%error, "heartbeat ended unexpectedly");
        }
        if let Err(error) = figures.await {
            tracing::error!(%error, "usage is no longer sampled");
        }
        if let Err(error) = disk_figures.await {
            tracing::error!(%error, "disk usage is no longer measured");
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
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.worker_ended(ended, pods).await;
                }
                change = changes.next() => match change {
                    Some(change) => self.take(change).await,
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

    async fn take(&mut self, change: ObjectChange<Pod>) {
        match change {
            ObjectChange::Applied(pod, _) => self.applied(pod).await,
            ObjectChange::Deleted(pod) => self.send(&pod.clone(), Message::Removed(pod)).await,
        }
    }

    async fn applied(&mut self, pod: Arc<Pod>) {
        let (name, uid) = (name_of(&pod), uid_of(&pod));
        let of_name = self.workers.get(&name);
        if of_name.is_some_and(|workers| workers.contains_key(&uid)) {
            return self.send(&pod.clone(), Message::Pod(pod)).await;
        }
        // Pods of this name with other UIDs are deleted in the API, even if the watch missed the deletion.
        let others: Vec<String> = of_name
            .into_iter()
            .flatten()
            .map(|(u, _)| u.clone())
            .collect();
        for other in &others {
            if let Some(view) = self.view_of(&name, other) {
                self.send(&view.clone(), Message::Removed(view)).await;
            }
        }
        self.begin_new(pod, others.into_iter().collect()).await;
    }

    /// Starts the worker of a pod that is new here, if the node admits the pod.
    async fn begin_new(&mut self, pod: Arc<Pod>, predecessors: BTreeSet<String>) {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let rejection = match phase {
            Some("Succeeded" | "Failed") => None,
            _ => self.admission.rejection(&pod).await,
        };
        self.begin(WorkerStart {
            pod,
            standing: PodConfirmation::Bound,
            rejection,
            stored: StoredPod::default(),
            sandbox: None,
            events: None,
            predecessors,
        });
    }

    fn view_of(&self, name: &Name, uid: &str) -> Option<Arc<Pod>> {
        let views = self.context.pods.list();
        let found = views.iter().find(|view| {
            name_of(&view.pod) == *name && view.pod.metadata.uid.as_deref() == Some(uid)
        });
        found.map(|view| view.pod.clone())
    }

    async fn send(&mut self, pod: &Pod, message: Message) {
        let worker = self
            .workers
            .get(&name_of(pod))
            .and_then(|w| w.get(&uid_of(pod)));
        if let Some(worker) = worker
            && worker.send(message).await.is_err()
        {
            tracing::debug!("a pod's worker has just ended");
        }
    }

    fn begin(&mut self, beginning: WorkerStart) {
        let (name, uid) = (name_of(&beginning.pod), uid_of(&beginning.pod));
        let (worker, sender) = Worker::new(self.context.clone(), beginning);
        self.workers
            .entry(name.clone())
            .or_default()
            .insert(uid.clone(), sender);
        let component = self.component.clone();
        let run = async move { component.watched("worker of a pod", worker.run()).await };
        let task = self.tasks.spawn(run);
        self.pods.insert(task.id(), (name, uid));
    }

    async fn worker_ended(
        &mut self,
        ended: Result<(tokio::task::Id, ()), JoinError>,
        pods: &Cache<Pod>,
    ) {
        let (task, failed) = match &ended {
            Ok((task, ())) => (*task, false),
            Err(error) => (error.id(), true),
        };
        let Some((name, uid)) = self.pods.remove(&task) else {
            return;
        };
        if let Err(error) = ended {
            tracing::error!(namespace = name.0, name = name.1, %error, "a pod's worker failed");
        }
        if failed && self.begin_again(&name, &uid, pods).await {
            return;
        }
        self.forget(&name, &uid).await;
        // No later object has this UID, so a missed removal is sent to the worker now.
        if let Some(pod) = pods.get(&name.0, &name.1)
            && uid_of(&pod) != uid
            && !self
                .workers
                .get(&name)
                .is_some_and(|w| w.contains_key(&uid_of(&pod)))
        {
            self.applied(pod).await;
        }
    }

    /// Removes a worker whose pod is cleaned up. The next pod of this name may start then.
    async fn forget(&mut self, name: &Name, uid: &str) {
        if let Some(view) = self.view_of(name, uid) {
            self.context.pods.remove(&view);
        }
        if let Some(of_name) = self.workers.get_mut(name) {
            of_name.remove(uid);
            for worker in of_name.values() {
                if worker
                    .send(Message::PredecessorGone(uid.to_owned()))
                    .await
                    .is_err()
                {
                    tracing::debug!("a pod's worker has just ended");
                }
            }
            if of_name.is_empty() {
                self.workers.remove(name);
            }
        }
    }

    /// Replaces a failed worker, as if the agent had restarted: the pod keeps running. Returns `false` if
    /// the pod needs no worker any more.
    async fn begin_again(&mut self, name: &Name, uid: &str, pods: &Cache<Pod>) -> bool {
        // A delay, so that a repeated failure does not spin.
        tokio::time::sleep(WORKER_RESTART_DELAY).await;
        let found = block_in_place(|| recovery::found(&self.context.node.config.data_dir));
        let stored = found.ok().and_then(|mut found| found.remove(uid));
        let current = pods.get(&name.0, &name.1).filter(|pod| uid_of(pod) == uid);
        let standing = match &current {
            Some(_) => PodConfirmation::Bound,
            None if pods.is_synced() => PodConfirmation::Removed,
            None => PodConfirmation::Unconfirmed,
        };
        // If neither the API nor the disk has the pod, the last published view is used.
        let shown = || self.view_of(name, uid);
        let pod = current
            .or_else(|| stored.as_ref().map(|found| found.pod.clone()))
            .or_else(shown);
        let Some(pod) = pod else { return false };
        let unrecorded = || FoundPod {
            pod: pod.clone(),
            stored: StoredPod::default(),
            recorded: false,
        };
        let found = stored.unwrap_or_else(unrecorded);
        let sandbox = match self.context.runtime.sandbox(uid).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                tracing::error!(uid, %error, "sandbox of a failed worker not found");
                None
            }
        };
        let others = self
            .workers
            .get(name)
            .into_iter()
            .flat_map(|workers| workers.keys());
        let predecessors = others.filter(|other| *other != uid).cloned().collect();
        self.adopt(pod, standing, AdoptablePod { found, sandbox }, predecessors)
            .await;
        true
    }

    /// Stops all pods, one wave after the other, and waits until the pods have ended.
    async fn stop_pods(&mut self, pods: &Cache<Pod>) {
        let mut changes = pods.subscribe();
        let views = self.context.pods.list();
        let order = self.context.node.config.shutdown_order.clone();
        let waves: HashMap<String, usize> = views
            .iter()
            .map(|view| (uid_of(&view.pod), order.wave_of(&view.pod)))
            .collect();
        // A pod without a view has no containers.
        let wave_of = |uid: &str| waves.get(uid).copied().unwrap_or_default();
        for (place, wave) in order.waves().iter().enumerate() {
            let stop = NodeStop {
                grace_seconds: wave.grace_seconds,
            };
            self.stop_wave(stop, |uid| wave_of(uid) == place, &mut changes)
                .await;
        }
    }

    /// Stops the pods with these UIDs concurrently, and waits until they have ended.
    async fn stop_wave(
        &mut self,
        stop: NodeStop,
        is_in: impl Fn(&str) -> bool,
        changes: &mut Changes<Pod>,
    ) {
        let all = self.workers.values().flatten();
        for (_, worker) in all.filter(|(uid, _)| is_in(uid)) {
            if worker.send(Message::NodeStops(stop)).await.is_err() {
                tracing::debug!("a pod's worker has just ended");
            }
        }
        while self.pods.values().any(|(_, uid)| is_in(uid)) {
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(error) => error.id(),
                    };
                    self.pods.remove(&task);
                }
                // A pod that is deleted during the shutdown gets a shorter grace period, or no grace
                // period.
                Some(change) = changes.next() => match change {
                    ObjectChange::Applied(pod, _) => {
                        self.send(&pod.clone(), Message::Pod(pod)).await;
                    }
                    ObjectChange::Deleted(pod) => {
                        self.send(&pod.clone(), Message::Removed(pod)).await;
                    }
                },
            }
        }
    }
}
