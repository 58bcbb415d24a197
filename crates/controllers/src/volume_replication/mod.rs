//! The controller of volumes with a replica on another node (docs/storage.md).

mod calls;
mod claim;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use controller_framework::{Queue, ReconcileResult, Recorder, object_key};
use controller_planners::volume_move::{NodePresence, uses};
use controller_planners::volume_replication::{
    Observed, ReplicationAnswers, ReplicationStep, Users, plan,
};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube_api_client::Api;
use kube_api_client::guarded_writes::{Delete, chain, delete, existing_object};
use resource_kinds::annotations::VOLUME_REPLICATION;
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;
use resource_kinds::storage::volume_move::affinity_to;
use resource_kinds::storage::volume_replication::{ReplicationStage, VolumeReplication};

use crate::Context;
use crate::node_proof::proof;
use crate::node_volumes::{
    ClaimName, claim_of, pods_in_namespace_of, presence, read_node, write_record,
};
use crate::volume_move::{Error, Nodes};

/// Time until something that replication waits for is checked again.
const WAIT: Duration = Duration::from_secs(1);

/// Time for which a node that refused a copy, because it had too few free bytes, is not chosen again.
const REFUSED_FOR: Duration = Duration::from_secs(600);

struct VolumeReplications {
    context: Context,
    recorder: Recorder,
    nodes: Nodes,
    refusals: Refusals,
}

/// The nodes that refused a copy of a volume, with the time. A new leader begins with an empty list, and tries these
/// nodes again.
#[derive(Debug, Default)]
struct Refusals(Mutex<BTreeMap<(String, String), Instant>>);

impl Refusals {
    fn all(&self) -> MutexGuard<'_, BTreeMap<(String, String), Instant>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, at| at.elapsed() < REFUSED_FOR);
        all
    }

    fn note(&self, volume: &str, node: &str) {
        let key = (volume.to_owned(), node.to_owned());
        self.all().insert(key, Instant::now());
    }

    fn has(&self, volume: &str, node: &str) -> bool {
        self.all()
            .contains_key(&(volume.to_owned(), node.to_owned()))
    }
}

pub(crate) async fn run(context: Context) {
    let controller = VolumeReplications {
        nodes: Nodes::new(context.client.clone()),
        refusals: Refusals::default(),
        recorder: context.recorder("volume-replication"),
        context: context.clone(),
    };
    context.run("volume_replication", controller).await;
}

impl controller_framework::Controller for VolumeReplications {
    type Key = String;
    type Error = Error;

    /// Volumes that are copied at once.
    const WORKERS: usize = 8;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        caches.volumes.wait_synced().await
            && caches.nodes.wait_synced().await
            && caches.claims.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<String>) {
        let mut volumes = self.context.caches.volumes.subscribe();
        let mut nodes = self.context.caches.nodes.subscribe();
        loop {
            tokio::select! {
                Some(change) = volumes.next() => {
                    let volume = change.object();
                    if VolumeReplication::of(volume).is_some_and(|record| record.stage != ReplicationStage::Ended) {
                        queue.add(object_key(&**volume).name.to_string());
                    }
                }
                // Volumes whose next copy is not due yet check their nodes.
                Some(change) = nodes.next() => {
                    for volume in self.context.caches.volumes.list() {
                        let record = VolumeReplication::of(&volume);
                        if record.is_some_and(|record| concerns(&record, change.object())) {
                            queue.add(object_key(&*volume).name.to_string());
                        }
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, name: &String) -> Result<ReconcileResult, Error> {
        let mut responses = ReplicationAnswers::default();
        let mut planned: Option<VolumeReplication> = None;
        loop {
            // The record is read first, and not from the cache: a proof that was read before the record proves nothing
            // about it.
            let Some((volume, record)) = self.read(name).await? else {
                return Ok(ReconcileResult::Done);
            };
            // The results of calls belong to one record: after a change of the record, they are discarded.
            if planned.as_ref().is_some_and(|planned| *planned != record) {
                responses = ReplicationAnswers::default();
            }
            planned = Some(record.clone());
            match self.step(&volume, &record, &responses).await? {
                ReplicationStep::Rest(milliseconds) => {
                    self.show(&volume, &record).await?;
                    let rest = Duration::from_millis(milliseconds.unsigned_abs());
                    let named = [Some(&*record.primary), record.receiver()];
                    let mut named = named.into_iter().flatten();
                    let is_ready =
                        named.all(|node| self.cached_presence(node) == NodePresence::Ready);
                    let wait = if is_ready { rest } else { rest.min(WAIT) };
                    return Ok(ReconcileResult::RequeueAfter(wait));
                }
                ReplicationStep::Done => return Ok(ReconcileResult::Done),
                ReplicationStep::Wait(reason) => {
                    self.record_reason(&volume, record, reason).await?;
                    return Ok(ReconcileResult::RequeueAfter(WAIT));
                }
                ReplicationStep::Write(next) => {
                    if record.stage == ReplicationStage::Promoted {
                        self.delete_astray(&volume, &record).await?;
                    }
                    self.write(&volume, &record, &next, None).await?;
                    responses = ReplicationAnswers::default();
                }
                ReplicationStep::Relocate(next, path) => {
                    self.write(&volume, &record, &next, Some(&path)).await?;
                    responses = ReplicationAnswers::default();
                }
                ReplicationStep::Call(call) => {
                    let carried = calls::carry_out(self, &volume, &record, call, &mut responses);
                    let carried = tokio::select! {
                        carried = carried => carried,
                        // The loss of a node cancels the call, so that the call does not delay the promotion.
                        lost = self.lost(&record) => Err(Error::Cut(lost)),
                    };
                    // The interval is constant, because the loss of a node at first causes such an error.
                    if let Err(error) = carried {
                        self.record_reason(&volume, record, chain(&error)).await?;
                        return Ok(ReconcileResult::RequeueAfter(WAIT));
                    }
                }
            }
        }
    }
}

impl VolumeReplications {
    /// A volume with its record, read from the API server.
    async fn read(
        &self,
        name: &str,
    ) -> Result<Option<(PersistentVolume, VolumeReplication)>, Error> {
        let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let volume = existing_object(volumes.get(name).await)?;
        Ok(volume.and_then(|volume| {
            let record = VolumeReplication::of(&volume)?;
            Some((volume, record))
        }))
    }

    async fn step(
        &self,
        volume: &PersistentVolume,
        record: &VolumeReplication,
        responses: &ReplicationAnswers,
    ) -> Result<ReplicationStep, Error> {
        let (primary, node) = self.presence(&record.primary).await?;
        let now = Timestamp::now().as_millisecond();
        let mut others = BTreeMap::new();
        let (mut replica, mut is_replica_lost) = (NodePresence::Absent, false);
        for name in record.others() {
            let (state, node) = self.presence(name).await?;
            if record.replica.as_deref() == Some(name) {
                replica = state;
                let since = node.as_ref().and_then(silent_since);
                is_replica_lost = node
                    .as_ref()
                    .is_some_and(node_conditions::is_out_of_service)
                    || controller_planners::volume_replication::is_replica_lost(record, since, now);
            }
            others.insert(name.to_owned(), state);
        }
        let is_proven_dead = match node {
            Some(node) if primary == NodePresence::Silent => {
                let proof = proof(&self.context.client, &record.primary, Some(&node));
                proof.await?.is_some()
            }
            _ => false,
        };
        // The pods after the proof.
        let users = match is_proven_dead {
            true => self.users(volume, record).await?,
            false => Users::default(),
        };
        let candidate = self.candidate(volume, record);
        Ok(plan(&Observed {
            record,
            primary,
            is_proven_dead,
            users,
            replica,
            is_replica_lost,
            others: &others,
            candidate: candidate.as_deref(),
            is_released: is_released(volume),
            now,
            responses,
        }))
    }

    async fn presence(&self, name: &str) -> Result<(NodePresence, Option<Node>), Error> {
        let node = read_node(&self.context.client, name).await?;
        Ok((presence(node.as_ref()), node))
    }

    fn cached_presence(&self, name: &str) -> NodePresence {
        presence(self.context.caches.nodes.get("", name).as_deref())
    }

    async fn users(
        &self,
        volume: &PersistentVolume,
        record: &VolumeReplication,
    ) -> Result<Users, Error> {
        let Some(ClaimName { name: claim, .. }) = claim_of(volume) else {
            return Ok(Users::default());
        };
        let pods = pods_in_namespace_of(&self.context.client, volume).await?;
        let names = |pod: &PodView| pod.claims.iter().any(|used| *used.name == *claim);
        Ok(Users {
            on_primary: pods
                .iter()
                .any(|pod| uses(pod, claim) && pod.node.as_deref() == Some(&record.primary)),
            waiting: pods
                .iter()
                .any(|pod| names(pod) && pod.node.is_none() && !pod.has_ended()),
        })
    }

    /// Deletes pods of controllers that were bound to another node than the new primary, because they would wait on
    /// that node.
    async fn delete_astray(
        &self,
        volume: &PersistentVolume,
        record: &VolumeReplication,
    ) -> Result<(), Error> {
        let Some(ClaimName {
            namespace,
            name: claim,
        }) = claim_of(volume)
        else {
            return Ok(());
        };
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        for pod in pods_in_namespace_of(&self.context.client, volume).await? {
            let is_astray = uses(&pod, claim) && pod.node.as_deref() != Some(&record.primary);
            if is_astray && pod.controller.is_some() && !pod.is_deleting() {
                delete(&api, &pod.name, Delete::of_uid(pod.uid)).await?;
            }
        }
        Ok(())
    }

    /// The node for new copies: of the nodes that accept pods and have not refused a copy recently, the node with the
    /// fewest copies.
    fn candidate(&self, volume: &PersistentVolume, record: &VolumeReplication) -> Option<String> {
        let of = object_key(volume).name;
        let caches = &self.context.caches;
        let nodes = caches.nodes.list();
        let names = nodes
            .iter()
            .filter(|node| takes_copies(node))
            .filter_map(|node| node.metadata.name.clone());
        let volumes = caches.volumes.list();
        let replicas: Vec<String> = volumes
            .iter()
            .filter_map(|volume| VolumeReplication::of(volume))
            .filter_map(|record| record.receiver().map(str::to_owned))
            .collect();
        let has_part = [Some(&record.primary), record.replica.as_ref()];
        let others =
            names.filter(|name| !has_part.contains(&Some(name)) && !self.refusals.has(&of, name));
        others.min_by_key(|name| {
            let count = replicas.iter().filter(|replica| *replica == name).count();
            (count, name.clone())
        })
    }

    /// Returns when a node of the volume is not ready any more.
    async fn lost(&self, record: &VolumeReplication) -> String {
        let nodes = [Some(&*record.primary), record.receiver()];
        let named: Vec<&str> = nodes.into_iter().flatten().collect();
        let were_ready: Vec<bool> = named
            .iter()
            .map(|node| self.cached_presence(node) == NodePresence::Ready)
            .collect();
        loop {
            tokio::time::sleep(WAIT).await;
            for (node, was_ready) in named.iter().zip(&were_ready) {
                if *was_ready && self.cached_presence(node) != NodePresence::Ready {
                    return format!("node {node:?} is not ready");
                }
            }
        }
    }

    /// Whether the cached record still describes this copy in progress.
    fn is_current(&self, name: &str, record: &VolumeReplication) -> bool {
        let volume = self.context.caches.volumes.get("", name);
        let now = volume.and_then(|volume| VolumeReplication::of(&volume));
        // The cache may have an older record.
        now.is_some_and(|now| now.epoch <= record.epoch && now.stage == record.stage)
    }

    /// Writes the reason why replication waits into the record.
    async fn record_reason(
        &self,
        volume: &PersistentVolume,
        record: VolumeReplication,
        reason: String,
    ) -> Result<(), Error> {
        if record.message.as_ref() == Some(&reason) {
            return self.show(volume, &record).await;
        }
        let next = VolumeReplication {
            message: Some(reason),
            ..record.clone()
        };
        self.write(volume, &record, &next, None).await
    }

    /// Replaces the record, if the volume was not changed since it was read. With a path, the write also assigns the
    /// volume to the primary of the record.
    async fn write(
        &self,
        volume: &PersistentVolume,
        before: &VolumeReplication,
        next: &VolumeReplication,
        path: Option<&str>,
    ) -> Result<(), Error> {
        let spec = path.map(|path| {
            json!({
                "nodeAffinity": affinity_to(&next.primary),
                "local": {"path": path},
            })
        });
        let text = next.to_text();
        let client = &self.context.client;
        if write_record(client, volume, VOLUME_REPLICATION, &text, spec).await? {
            if before.stage != next.stage {
                let name = volume.metadata.name.as_deref();
                tracing::info!(volume = name, epoch = next.epoch, stage = ?next.stage, "replication");
            }
            self.report(volume, before, next);
            self.show(volume, next).await?;
        }
        Ok(())
    }
}

/// Whether the state of a node changes the next step: a node of the volume is lost, or a node that had copies has
/// returned.
fn concerns(record: &VolumeReplication, node: &Node) -> bool {
    let Some(name) = &node.metadata.name else {
        return false;
    };
    match node_conditions::is_ready(node) {
        true => record.former.contains(name),
        false => *name == record.primary || record.receiver() == Some(name),
    }
}

/// The time since which a node is not ready, in milliseconds since 1970.
fn silent_since(node: &Node) -> Option<i64> {
    let ready = node_conditions::ready(node)?;
    let since = ready.last_transition_time.as_ref()?.0.as_millisecond();
    (ready.status != "True").then_some(since)
}

/// Whether a node may get copies: it is ready and takes pods.
fn takes_copies(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let mut taints = spec
        .into_iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let is_cordoned = spec.and_then(|spec| spec.unschedulable) == Some(true);
    let refuses = taints.any(|taint| taint.effect != "PreferNoSchedule");
    node_conditions::is_ready(node) && !is_cordoned && !refuses
}

/// Whether the claim was deleted, and the volume is deleted with it.
fn is_released(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let status = volume.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let is_going = volume.metadata.deletion_timestamp.is_some() && phase != Some("Bound");
    policy == Some("Delete") && (matches!(phase, Some("Released" | "Failed")) || is_going)
}
