//! The pod worker: one task per pod receives events, asks the planner, and starts its actions.
//!
//! Only the worker changes the pod's record. Long work runs in separate tasks that report back by messages;
//! the worker never waits for them, so that a deletion is handled during a pull. The worker stores its
//! state on disk before it waits for the next event, and before it starts work with an effect.

mod context;
mod effects;
mod instance;
mod local_storage;
mod pod_sandbox;
mod record_keeping;
mod resources;
mod take;
mod tasks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use container_runtime::Sandbox;
use json_tree::Value;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::resources::admission::PodRejection;
use pod_lifecycle::{Instant, LifecycleAction, PodInput, PodPlan, PodRecord, doubled, plan_pod};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::api::environments::KnownEnvironments;
use crate::api::events::PodEvents;
use crate::api::known_status::KnownStatus;
use crate::api::objects::ObjectName;
use crate::api::status_writer;
use crate::clock::Clock;
use crate::limits::{PLANS_IN_A_ROW_MAX, STATUS_RETRY_MAX, STATUS_RETRY_MIN, WORKER_MESSAGES_MAX};
use crate::paths::PodDir;
use crate::pods::pod_manager::PodView;
use crate::pods::recovery::StoredPod;
use crate::volumes::PreparedVolumes;

use crate::pods::message::Message;

pub use context::WorkerContext;
use tasks::Tasks;

/// The state of a pod's object in the API when the pod's worker starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodConfirmation {
    /// The pod is bound to this node.
    Bound,
    Removed,
    /// Unknown: only the disk has the pod.
    Unconfirmed,
}

/// The initial state of a worker.
pub struct WorkerStart {
    /// The pod as the API server has it now.
    pub pod: Arc<Pod>,
    pub standing: PodConfirmation,
    /// The reason why the node rejects a new pod; `None` if it admits the pod.
    pub rejection: Option<PodRejection>,
    /// The state that a former agent has stored.
    pub stored: StoredPod,
    /// The pod's sandbox; `None` if it does not exist.
    pub sandbox: Option<Sandbox>,
    /// A subscription to the events of the sandbox, from before its state was read.
    pub events: Option<container_runtime::Events>,
    /// UIDs of older pods with this name that the node has not cleaned up.
    pub predecessors: BTreeSet<String>,
}

/// The task that runs one pod.
pub struct Worker {
    context: Arc<WorkerContext>,
    pod: Arc<Pod>,
    removed: bool,
    /// Whether the API has confirmed, since the agent started, that the pod is bound to this node.
    confirmed: bool,
    node_stops: Option<NodeStop>,
    predecessors: BTreeSet<String>,
    dir: PodDir,
    events: PodEvents,
    record: PodRecord,
    volumes: PreparedVolumes,
    environments: KnownEnvironments,
    sandbox: Option<Sandbox>,
    stored: Option<StoredPod>,
    /// The status from the last plan.
    status: PodStatus,
    /// The newest status that the API server has stored.
    known: KnownStatus<PodStatus>,
    /// The patch of a write in progress.
    writing: Option<Value>,
    /// A patch that was written but changed nothing, so it is not written again.
    futile: Option<Value>,
    status_failures: u32,
    removal_failures: u32,
    status_due: Option<Instant>,
    refresh_due: Option<Instant>,
    storage_due: Option<Instant>,
    /// The time of the next attempt to store the record, after a failure.
    record_due: Option<Instant>,
    /// Consecutive failures to store the record.
    record_failures: u32,
    refreshing: bool,
    /// Whether the last refresh of the volumes failed.
    refresh_failed: bool,
    /// Exits that were reported before the start of their instance was reported.
    early_exits: BTreeMap<String, container_runtime::spec::Exit>,
    /// The watches of objects that volumes are built from.
    watches: BTreeMap<ObjectName, AbortHandle>,
    sender: mpsc::Sender<Message>,
    inbox: mpsc::Receiver<Message>,
    tasks: Tasks,
}

impl Worker {
    /// Creates a worker, and the sender of its messages.
    pub fn new(context: Arc<WorkerContext>, from: WorkerStart) -> (Self, mpsc::Sender<Message>) {
        let (sender, inbox) = mpsc::channel(WORKER_MESSAGES_MAX);
        let status = from.pod.status.clone().unwrap_or_default();
        let worker = Self {
            dir: PodDir::of(&context.node.config.data_dir, &from.pod),
            events: PodEvents::of(&context.node.recorder, &from.pod),
            removed: from.standing == PodConfirmation::Removed,
            confirmed: from.standing == PodConfirmation::Bound,
            node_stops: None,
            predecessors: from.predecessors,
            record: from.stored.record.clone(),
            volumes: from.stored.volumes.clone(),
            environments: KnownEnvironments::default(),
            sandbox: from.sandbox,
            stored: None,
            status: status.clone(),
            known: KnownStatus::new(status),
            writing: None,
            futile: None,
            status_failures: 0,
            removal_failures: 0,
            status_due: None,
            refresh_due: None,
            storage_due: None,
            record_due: None,
            record_failures: 0,
            refreshing: false,
            refresh_failed: false,
            early_exits: BTreeMap::new(),
            watches: BTreeMap::new(),
            sender: sender.clone(),
            inbox,
            tasks: Tasks::default(),
            pod: from.pod,
            context,
        };
        let mut worker = worker;
        if let Some(events) = from.events {
            worker.follow_sandbox(events);
        }
        if worker.record.started_at.is_none() {
            worker.record.started_at = Some(worker.context.node.clock.now());
        }
        if let Some(rejection) = from.rejection {
            worker
                .events
                .warning(&rejection.reason, rejection.message.clone());
            worker.record.failure = Some(rejection.failure());
        }
        worker.follow_address();
        // The view is published at once, because the admission of the next pod counts this pod.
        worker.publish();
        (worker, sender)
    }

    /// Runs until the pod is cleaned up, or the agent stops its workers.
    pub async fn run(mut self) {
        if self.record.volumes == pod_lifecycle::record::Volumes::Ready && !self.removed {
            self.refresh_volumes();
        }
        self.watch_storage();
        loop {
            let plan = self.plan_and_act();
            self.persist();
            self.publish();
            self.write_status();
            if plan.finished && self.writing.is_none() {
                break;
            }
            if !self.wait(plan.next_at).await {
                return;
            }
        }
        self.end();
    }

    /// Plans until a plan has no actions.
    fn plan_and_act(&mut self) -> PodPlan {
        let host_ips = [self.context.node.config.node_ip().to_string()];
        let mut rounds = 0;
        loop {
            let pod = self.pod.clone();
            let input = PodInput {
                pod: &pod,
                record: &self.record,
                previous: &self.status,
                removed: self.removed,
                predecessor: !self.predecessors.is_empty(),
                confirmed: self.confirmed,
                node_stops: self.node_stops,
                host_ips: &host_ips,
                node_resources: self.node_resources(),
            };
            let plan = plan_pod(&input, self.context.node.clock.now());
            self.status.clone_from(&plan.status);
            rounds += 1;
            if plan.actions.is_empty() || rounds > PLANS_IN_A_ROW_MAX {
                if rounds > PLANS_IN_A_ROW_MAX {
                    tracing::error!(pod = self.name(), actions = ?plan.actions, "plans do not end");
                }
                return plan;
            }
            let (begins, others): (Vec<_>, Vec<_>) = plan
                .actions
                .into_iter()
                .partition(LifecycleAction::begins_work);
            let has_others = !others.is_empty();
            for action in others {
                self.perform(action);
            }
            if !begins.is_empty() && !self.begin_work(begins) && !has_others {
                return PodPlan {
                    actions: Vec::new(),
                    ..plan
                };
            }
        }
    }

    /// Waits for a message, a finished task or the time `next_at`; `false` if the agent stops its workers.
    async fn wait(&mut self, next_at: Option<Instant>) -> bool {
        let due = [
            next_at,
            self.status_due,
            self.refresh_due.filter(|_| !self.makes_files()),
            self.storage_due,
            self.record_due,
        ];
        let due = due.into_iter().flatten().min();
        let abandon = self.context.abandon.clone();
        let clock = self.context.node.clock;
        tokio::select! {
            biased;
            () = abandon.cancelled() => return false,
            Some(message) = self.inbox.recv() => self.take(message),
            Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(pod = self.name(), %error, "a task of the pod panicked");
                }
            }
            () = sleep_until(clock, due) => self.take_timers(),
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
        true
    }

    fn take_timers(&mut self) {
        let now = self.context.node.clock.instant();
        if self.status_due.is_some_and(|due| due <= now) {
            self.status_due = None;
        }
        // The refresh is repeated, because a change during a refresh may have been missed.
        if !self.makes_files() && self.refresh_due.is_some_and(|due| due <= now) {
            self.refresh_due = None;
            self.refresh_volumes();
        }
        if self.record_due.is_some_and(|due| due <= now) {
            self.record_due = None;
        }
        if self.storage_due.is_some_and(|due| due <= now) {
            self.storage_due = None;
            self.look_at_storage();
        }
    }

    /// Whether files of volumes are being built.
    fn makes_files(&self) -> bool {
        self.refreshing || self.record.volumes == pod_lifecycle::record::Volumes::Preparing
    }

    fn publish(&self) {
        self.context.pods.publish(PodView {
            pod: self.pod.clone(),
            record: self.record.clone(),
            status: self.status.clone(),
            sandbox: self.sandbox.clone(),
            volumes: self.volumes.clone(),
            dir: self.dir.clone(),
            worker: self.sender.clone(),
        });
    }

    /// Starts to write the status if it has changed and no write is in progress.
    fn write_status(&mut self) {
        if self.writing.is_some() || self.status_due.is_some() || self.removed {
            return;
        }
        let difference = status_writer::difference(self.known.get(), &self.status);
        let Some(patch) = difference.filter(|patch| self.futile.as_ref() != Some(patch)) else {
            return;
        };
        self.writing = Some(patch.clone());
        let (client, pod, sender) = (
            self.context.client.clone(),
            self.pod.clone(),
            self.sender.clone(),
        );
        self.tasks.spawn(async move {
            let written = status_writer::write(&client, &pod, patch).await;
            tell(&sender, Message::StatusWritten(written)).await;
        });
    }

    fn status_failed(&mut self, reason: &str) {
        self.status_failures += 1;
        let delay = doubled(STATUS_RETRY_MIN, STATUS_RETRY_MAX, self.status_failures);
        tracing::warn!(pod = self.name(), reason, "pod status not written");
        self.status_due = Some(self.context.node.clock.instant() + delay);
    }

    /// Cleans up after the pod is removed.
    fn end(self) {
        self.context.pods.remove(&self.pod);
        self.context.probes.forget(&self.pod);
        let gone = self.removed || self.record.removal == pod_lifecycle::record::Removal::Done;
        if gone && let Err(error) = host_kernel::tree::remove(self.dir.root()) {
            tracing::warn!(pod = self.name(), %error, "pod directory not removed");
        }
        tracing::info!(pod = self.name(), gone, "pod ended");
    }

    /// Updates the address of a pod on the host network, which has the node's address.
    fn follow_address(&mut self) {
        let spec = self.pod.spec.as_ref();
        let is_ready = self.record.sandbox == pod_lifecycle::record::Sandbox::Ready;
        if is_ready && spec.is_some_and(pod_lifecycle::spec::uses_host_network) {
            self.record.pod_ips = vec![self.context.node.config.node_ip().to_string()];
        }
    }

    fn name(&self) -> String {
        pod_lifecycle::spec::display_name(&self.pod)
    }
}

/// Sends a message to the worker. If the worker has ended, the message is dropped.
async fn tell(worker: &mpsc::Sender<Message>, message: Message) {
    if worker.send(message).await.is_err() {
        tracing::debug!("the pod's worker is gone");
    }
}

async fn sleep_until(clock: Clock, due: Option<Instant>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}
