//! The pod worker: one task per pod receives events, asks the planner, and starts its actions.
//!
//! Only the worker changes the pod's record. Long work runs in separate tasks that report back by messages;
//! the worker never waits for them, so that a deletion is handled during a pull. The worker stores its
//! state on disk before it waits for the next event, and before it starts work with an effect.

mod context;
mod effects;
mod instance;
mod local_storage;
mod message_handling;
mod pod_sandbox;
mod record_keeping;
mod resources;
mod status_writes;
mod tasks;
mod volume_refresh;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use container_runtime::Sandbox;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use object_model::Uid;
use pod_lifecycle::node::shutdown::NodeStop;
use pod_lifecycle::resources::admission::PodRejection;
use pod_lifecycle::{
    Instant, LifecycleAction, PodConfirmation, PodIdentity, PodInput, PodPlan, PodRecord, plan_pod,
};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::api::environments::StoredEnvironments;
use crate::api::events::PodEvents;
use crate::api::objects::ObjectName;
use crate::api::status_writer;
use crate::clock::Clock;
use crate::limits::{PLANS_IN_A_ROW_MAX, PLANS_PAUSE, WORKER_MESSAGES_MAX};
use crate::paths::PodDir;
use crate::pods::pod_manager::PodView;
use crate::pods::recovery::StoredPod;
use crate::volumes::PreparedVolumes;

use crate::pods::message::Message;

pub use context::WorkerContext;
use local_storage::StorageCheck;
use record_keeping::RecordWrites;
use status_writes::StatusWrites;
use tasks::Tasks;
use volume_refresh::VolumeRefresh;

/// The initial state of a worker.
pub struct WorkerStart {
    pub identity: PodIdentity,
    /// The pod as the API server has it now.
    pub pod: Arc<Pod>,
    pub confirmation: PodConfirmation,
    /// The reason why the node rejects a new pod; `None` if it admits the pod.
    pub rejection: Option<PodRejection>,
    /// The state that a former agent has stored.
    pub stored: StoredPod,
    /// The pod's sandbox; `None` if it does not exist.
    pub sandbox: Option<Sandbox>,
    /// A subscription to the events of the sandbox, from before its state was read.
    pub events: Option<container_runtime::Events>,
    /// UIDs of older pods with this name that the node has not cleaned up.
    pub predecessors: BTreeSet<Uid>,
}

/// The task that runs one pod.
pub struct Worker {
    context: Arc<WorkerContext>,
    identity: PodIdentity,
    pod: Arc<Pod>,
    confirmation: PodConfirmation,
    node_stops: Option<NodeStop>,
    predecessors: BTreeSet<Uid>,
    dir: PodDir,
    events: PodEvents,
    record: PodRecord,
    record_writes: RecordWrites,
    volumes: PreparedVolumes,
    volume_refresh: VolumeRefresh,
    environments: StoredEnvironments,
    sandbox: Option<Sandbox>,
    /// The status from the last plan.
    status: PodStatus,
    status_writes: StatusWrites,
    /// Failed deletions of the pod's object.
    removal_failures: u32,
    storage_check: StorageCheck,
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
            dir: PodDir::new(&context.node.config.data_dir, &from.identity),
            events: PodEvents::new(&context.node.recorder, &from.pod),
            confirmation: from.confirmation,
            node_stops: None,
            predecessors: from.predecessors,
            record: from.stored.record.clone(),
            volumes: from.stored.volumes.clone(),
            volume_refresh: VolumeRefresh::default(),
            record_writes: RecordWrites::default(),
            environments: StoredEnvironments::default(),
            sandbox: from.sandbox,
            status: status.clone(),
            status_writes: StatusWrites::new(status),
            removal_failures: 0,
            storage_check: StorageCheck::Off,
            early_exits: BTreeMap::new(),
            watches: BTreeMap::new(),
            sender: sender.clone(),
            inbox,
            tasks: Tasks::default(),
            identity: from.identity,
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
        if self.record.volumes == pod_lifecycle::record::Volumes::Ready && !self.is_removed() {
            self.refresh_volumes();
        }
        self.schedule_storage_check();
        loop {
            let plan = self.plan_and_act();
            self.persist();
            self.publish();
            self.write_status();
            if plan.finished && !self.status_writes.is_in_flight() {
                break;
            }
            if !self.wait(plan.next_at).await {
                return;
            }
        }
        host_kernel::block_in_place(|| self.clean_up());
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
                confirmation: self.confirmation,
                predecessor: !self.predecessors.is_empty(),
                node_stops: self.node_stops,
                host_ips: &host_ips,
                node_resources: self.node_resources(),
            };
            let now = self.context.node.clock.now();
            let plan = plan_pod(&input, now);
            self.status.clone_from(&plan.status);
            rounds += 1;
            if plan.actions.is_empty() {
                return plan;
            }
            if rounds > PLANS_IN_A_ROW_MAX {
                tracing::error!(pod = self.name(), actions = ?plan.actions, "plans do not end");
                return paused(plan, now.instant);
            }
            let (work, immediate): (Vec<_>, Vec<_>) = plan
                .actions
                .into_iter()
                .partition(LifecycleAction::begins_work);
            let has_immediate = !immediate.is_empty();
            for action in immediate {
                self.perform(action);
            }
            if !work.is_empty() && !self.begin_work(work) && !has_immediate {
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
            self.status_writes.due(),
            self.refresh_due(),
            self.storage_check.due(),
            self.record_writes.due(),
        ];
        let due = due.into_iter().flatten().min();
        let abandon = self.context.abandon.clone();
        let clock = self.context.node.clock;
        tokio::select! {
            biased;
            () = abandon.cancelled() => return false,
            Some(message) = self.inbox.recv() => self.handle(message),
            Some(result) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                if let Err(error) = result && error.is_panic() {
                    tracing::error!(pod = self.name(), %error, "a task of the pod panicked");
                }
            }
            () = sleep_until(clock, due) => self.handle_timers(),
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.handle(message);
        }
        true
    }

    fn handle_timers(&mut self) {
        let now = self.context.node.clock.instant();
        self.status_writes.end_delay(now);
        self.record_writes.end_delay(now);
        if !self.is_preparing_volumes() && self.volume_refresh.remove_due(now) {
            self.refresh_volumes();
        }
        if self.storage_check.begin_due(now) {
            self.measure_storage();
        }
    }

    /// The time of the next refresh of the volumes; `None` while their files are written.
    fn refresh_due(&self) -> Option<Instant> {
        let due = self.volume_refresh.due();
        due.filter(|_| !self.is_preparing_volumes())
    }

    fn is_preparing_volumes(&self) -> bool {
        self.record.volumes == pod_lifecycle::record::Volumes::Preparing
    }

    fn is_removed(&self) -> bool {
        self.confirmation == PodConfirmation::Removed
    }

    fn publish(&self) {
        self.context.pods.publish(PodView {
            identity: self.identity.clone(),
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
        if self.is_removed() || self.has_claims_of_an_ended_pod() {
            return;
        }
        let Some(patch) = self.status_writes.begin(&self.status) else {
            return;
        };
        let (client, identity) = (self.context.client.clone(), self.identity.clone());
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let result = status_writer::write(&client, &identity, patch).await;
            send(&sender, Message::StatusWritten(result)).await;
        });
    }

    /// Whether the pod has ended, and its claims may still be prepared. The final phase is written later, because
    /// claims of a pod with a final phase may be allocated to pods of other nodes.
    fn has_claims_of_an_ended_pod(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        let claims = spec.and_then(|spec| spec.resource_claims.as_deref());
        let has_ended = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let is_released = self.record.volumes == pod_lifecycle::record::Volumes::None;
        has_ended && !is_released && claims.is_some_and(|claims| !claims.is_empty())
    }

    /// Cleans up after the pod is removed.
    fn clean_up(self) {
        self.context.pods.remove(&self.identity);
        self.context.probes.forget(&self.identity.uid);
        let is_deleted =
            self.is_removed() || self.record.removal == pod_lifecycle::record::Removal::Done;
        if is_deleted && let Err(error) = host_kernel::tree::remove(self.dir.root()) {
            tracing::warn!(pod = self.name(), %error, "pod directory not removed");
        }
        tracing::info!(pod = self.name(), gone = is_deleted, "pod ended");
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
        self.identity.to_string()
    }
}

/// The plan that follows too many plans with actions: without the actions, and with a later attempt.
fn paused(plan: PodPlan, now: Instant) -> PodPlan {
    let next = now + PLANS_PAUSE;
    PodPlan {
        actions: Vec::new(),
        next_at: Some(plan.next_at.map_or(next, |at| at.min(next))),
        ..plan
    }
}

/// Sends a message to the worker. If the worker has ended, the message is dropped.
async fn send(worker: &mpsc::Sender<Message>, message: Message) {
    if worker.send(message).await.is_err() {
        tracing::debug!("the pod's worker has ended");
    }
}

async fn sleep_until(clock: Clock, due: Option<Instant>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_that_do_not_end_are_made_again_after_a_pause() {
        let now = pod_lifecycle::Moment::aligned(jiff::Timestamp::UNIX_EPOCH).instant;
        let endless = PodPlan {
            actions: vec![LifecycleAction::CreateSandbox],
            ..PodPlan::default()
        };
        let plan = paused(endless.clone(), now);
        assert_eq!(
            (plan.actions, plan.next_at),
            (vec![], Some(now + PLANS_PAUSE))
        );
        let sooner = PodPlan {
            next_at: Some(now),
            ..endless
        };
        assert_eq!(paused(sooner, now).next_at, Some(now));
    }
}
