//! The adoption of the pods of a former agent: with the objects of the API, or from the disk alone while no
//! API server responds.
//!
//! A pod that is adopted from the disk alone keeps its sandbox: its containers run, are probed, and are
//! restarted as its restart policy says. The agent creates no new sandbox for the pod before the API
//! confirms the pod. A pod without a sandbox does not run here and may run on another node: this machine
//! may have been off, an administrator may have confirmed that the machine was off, and the network may
//! have failed since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use container_runtime::Sandbox;
use controller_framework::Cache;
use host_kernel::block_in_place;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::{Dispatcher, Name, name_of, uid_of};
use crate::containers::instance;
use crate::paths::PodDir;
use crate::pods::message::Message;
use crate::pods::recovery::{self, FoundPod, StoredPod};
use crate::worker::{PodConfirmation, WorkerStart};

/// A pod of a former agent that has no worker yet.
pub struct AdoptablePod {
    /// The object and the record that the former agent stored.
    pub found: FoundPod,
    pub sandbox: Option<Sandbox>,
}

/// The pods of a former agent, by UID: the pods with a record on disk, and the pods with only a sandbox.
pub fn left(
    mut found: BTreeMap<String, FoundPod>,
    sandboxes: Vec<Sandbox>,
) -> BTreeMap<String, AdoptablePod> {
    let mut left = BTreeMap::new();
    for sandbox in sandboxes {
        let uid = sandbox.id().to_owned();
        let of_sandbox = || FoundPod {
            pod: Arc::new(recovery::pod_of_sandbox(&sandbox)),
            stored: StoredPod::default(),
            recorded: false,
        };
        let found = found.remove(&uid).unwrap_or_else(of_sandbox);
        let sandbox = Some(sandbox);
        left.insert(uid, AdoptablePod { found, sandbox });
    }
    let without = found.into_iter().map(|(uid, found)| {
        let sandbox = None;
        (uid, AdoptablePod { found, sandbox })
    });
    left.extend(without);
    left
}

/// Sort key: the creation time, then the UID.
fn age(pod: &Arc<Pod>) -> (Option<Timestamp>, String) {
    let created = pod.metadata.creation_timestamp.as_ref();
    (created.map(|time| time.0), uid_of(pod))
}

/// The UIDs of older pods with the name of `pod`. The pod waits until they have ended on this node.
fn older_of_name(pod: &Arc<Pod>, pods: &[Arc<Pod>]) -> BTreeSet<String> {
    let of_name = pods.iter().filter(|other| name_of(other) == name_of(pod));
    let older = of_name.filter(|other| age(other) < age(pod));
    older.map(|other| uid_of(other)).collect()
}

impl Dispatcher {
    /// Adopts the pods of a former agent while no API server responds: the pods whose objects are on the
    /// disk and whose sandbox was created. The remaining pods stay in `left`.
    pub(super) async fn adopt_alone(&mut self, left: &mut BTreeMap<String, AdoptablePod>) {
        let begun = |one: &AdoptablePod| {
            one.found.pod.spec.is_some() && (one.found.recorded || one.sandbox.is_some())
        };
        let (alone, waiting): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(left)
            .into_iter()
            .partition(|(_, one)| begun(one));
        *left = waiting;
        let pods: Vec<Arc<Pod>> = alone.values().map(|one| one.found.pod.clone()).collect();
        tracing::warn!(
            pods = pods.len(),
            "no API server answers: pods continue from the state on disk"
        );
        for one in alone.into_values() {
            let predecessors = older_of_name(&one.found.pod, &pods);
            let pod = one.found.pod.clone();
            self.adopt(pod, PodConfirmation::Unconfirmed, one, predecessors)
                .await;
        }
    }

    /// Compares the pods of a former agent with the API: the adopted pods and the pods in `left`. Adopts
    /// the pods in `left`, terminates pods that are deleted in the API, and starts new pods.
    pub(super) async fn settle(
        &mut self,
        pods: &Cache<Pod>,
        mut left: BTreeMap<String, AdoptablePod>,
    ) {
        let current: BTreeMap<String, Arc<Pod>> = pods
            .list()
            .into_iter()
            .map(|pod| (uid_of(&pod), pod))
            .collect();
        // A pod of the API without a record is new: the node may reject it.
        left.retain(|uid, one| {
            one.found.recorded || one.sandbox.is_some() || !current.contains_key(uid)
        });
        let taken: Vec<(Name, String)> = self
            .workers
            .iter()
            .flat_map(|(name, of_name)| of_name.keys().map(|uid| (name.clone(), uid.clone())))
            .collect();
        let mut former: BTreeMap<Name, BTreeSet<String>> = BTreeMap::new();
        let of_left = left.iter().map(|(uid, one)| (name_of(&one.found.pod), uid));
        let of_taken = taken.iter().map(|(name, uid)| (name.clone(), uid));
        for (name, uid) in of_left.chain(of_taken) {
            if !current.contains_key(uid) {
                former.entry(name).or_default().insert(uid.clone());
            }
        }
        for (name, uid) in &taken {
            let removed = self
                .view_of(name, uid)
                .filter(|_| !current.contains_key(uid));
            if let Some(pod) = removed {
                self.send(&pod.clone(), Message::Removed(pod)).await;
            }
        }
        for (uid, one) in left {
            let (pod, standing, predecessors) = match current.get(&uid) {
                Some(pod) => {
                    let predecessors = former.get(&name_of(pod)).cloned();
                    (
                        pod.clone(),
                        PodConfirmation::Bound,
                        predecessors.unwrap_or_default(),
                    )
                }
                None => (
                    one.found.pod.clone(),
                    PodConfirmation::Removed,
                    BTreeSet::new(),
                ),
            };
            self.adopt(pod, standing, one, predecessors).await;
        }
        let taken: BTreeSet<String> = taken.into_iter().map(|(_, uid)| uid).collect();
        let mut current: Vec<_> = current.into_values().collect();
        current.sort_by_key(age);
        for pod in current {
            let workers = self.workers.get(&name_of(&pod));
            if !workers.is_some_and(|workers| workers.contains_key(&uid_of(&pod))) {
                let predecessors = former.get(&name_of(&pod)).cloned().unwrap_or_default();
                self.begin_new(pod, predecessors).await;
            } else if taken.contains(&uid_of(&pod)) {
                self.send(&pod.clone(), Message::Pod(pod)).await;
            }
        }
    }

    pub(super) async fn adopt(
        &mut self,
        pod: Arc<Pod>,
        standing: PodConfirmation,
        left: AdoptablePod,
        predecessors: BTreeSet<String>,
    ) {
        let (stored, sandbox) = (left.found.stored, left.sandbox);
        let dir = PodDir::of(&self.context.node.config.data_dir, &pod);
        let mut events = None;
        let mut state = None;
        if let Some(sandbox) = &sandbox {
            let ports = pod.spec.as_ref().map(service_routing::host_ports);
            let network = &self.context.node.config.network;
            if let Err(error) = network
                .publish(sandbox.id(), ports.unwrap_or_default())
                .await
            {
                tracing::error!(sandbox = sandbox.id(), %error, "host ports of a pod not stored");
            }
            match recovery::reconnect(sandbox).await {
                Ok((seen, stream)) => (state, events) = (Some(seen), stream),
                Err(error) => {
                    tracing::warn!(sandbox = sandbox.id(), %error, "sandbox does not answer");
                }
            }
        }
        let images = &self.context.node.config.images;
        let image_id = |name: &str| {
            Some(instance::image_id(
                &block_in_place(|| images.get(name)).ok()??,
            ))
        };
        let now = self.context.node.clock.now();
        let stored = recovery::adopt(stored, &pod, &dir, state.as_ref(), &image_id, now);
        tracing::info!(
            pod = pod_lifecycle::spec::display_name(&pod),
            ?standing,
            running = stored.record.anything_runs(),
            "pod of a former agent"
        );
        self.begin(WorkerStart {
            pod,
            standing,
            rejection: None,
            stored,
            sandbox,
            events,
            predecessors,
        });
    }

    /// Runs the workers of pods that were adopted without an API server. When an API server responds,
    /// settles all pods with the objects of the API. Returns `false` if the agent shuts down first.
    pub(super) async fn follow_alone(
        &mut self,
        pods: &Cache<Pod>,
        left: BTreeMap<String, AdoptablePod>,
        shutdown: &CancellationToken,
    ) -> bool {
        let mut synced = self.synced();
        let mut address = self.context.node.config.node_ip.clone();
        address.mark_unchanged();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return false,
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.worker_ended(ended, pods).await;
                }
                Ok(()) = address.changed() => self.address_changed().await,
                is_synced = &mut synced => {
                    if is_synced {
                        tracing::info!("an API server answers: the pods are compared with it");
                        self.settle(pods, left).await;
                    }
                    return is_synced;
                }
            }
        }
    }
}
