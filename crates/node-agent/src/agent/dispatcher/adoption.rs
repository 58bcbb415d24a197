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
use object_model::{ObjectKey, Uid};
use pod_lifecycle::{PodConfirmation, PodIdentity};
use tokio_util::sync::CancellationToken;

use super::{CachedPod, Dispatcher};
use crate::containers::instance;
use crate::paths::PodDir;
use crate::pods::adoption::{self, RecoveredPod};
use crate::pods::message::Message;
use crate::pods::recovery::RecordedPod;
use crate::worker::WorkerStart;

/// A pod of a former agent that has no worker yet.
pub struct AdoptablePod {
    /// The object and the record that the former agent stored.
    pub recorded: RecordedPod,
    pub sandbox: Option<Sandbox>,
}

/// The circumstances of an adoption.
pub struct Adoption {
    /// The newest object of the pod.
    pub pod: Arc<Pod>,
    pub confirmation: PodConfirmation,
    /// UIDs of older pods with the pod's name that the node has not cleaned up.
    pub predecessors: BTreeSet<Uid>,
}

/// The pods of a former agent, by UID: the pods with a record on disk, and the pods with only a sandbox.
pub fn adoptable_pods(
    mut recorded: BTreeMap<Uid, RecordedPod>,
    sandboxes: Vec<Sandbox>,
) -> BTreeMap<Uid, AdoptablePod> {
    let mut adoptable = BTreeMap::new();
    for sandbox in sandboxes {
        let unrecorded = match RecordedPod::of_sandbox(&sandbox) {
            Ok(unrecorded) => unrecorded,
            Err(error) => {
                tracing::error!(%error, "a sandbox is not adopted");
                continue;
            }
        };
        let uid = unrecorded.identity.uid.clone();
        let recorded = recorded.remove(&uid).unwrap_or(unrecorded);
        let sandbox = Some(sandbox);
        adoptable.insert(uid, AdoptablePod { recorded, sandbox });
    }
    let without_sandbox = recorded.into_iter().map(|(uid, recorded)| {
        let sandbox = None;
        (uid, AdoptablePod { recorded, sandbox })
    });
    adoptable.extend(without_sandbox);
    adoptable
}

/// Sort key: the creation time, then the UID.
fn age(pod: &CachedPod) -> (Option<Timestamp>, Uid) {
    let created = pod.pod.metadata.creation_timestamp.as_ref();
    (created.map(|time| time.0), pod.identity.uid.clone())
}

/// The UIDs of older pods with the name of `pod`. The pod waits until they have ended on this node.
fn older_namesakes(pod: &CachedPod, pods: &[CachedPod]) -> BTreeSet<Uid> {
    let namesakes = pods
        .iter()
        .filter(|candidate| candidate.identity.key == pod.identity.key);
    let older = namesakes.filter(|candidate| age(candidate) < age(pod));
    older
        .map(|candidate| candidate.identity.uid.clone())
        .collect()
}

impl Dispatcher {
    /// Adopts the pods of a former agent while no API server responds: the pods whose objects are on the
    /// disk and whose sandbox was created. The remaining pods stay in `adoptable`.
    pub(super) async fn adopt_alone(&mut self, adoptable: &mut BTreeMap<Uid, AdoptablePod>) {
        let has_begun = |pod: &AdoptablePod| {
            pod.recorded.pod.spec.is_some() && (pod.recorded.has_record || pod.sandbox.is_some())
        };
        let (alone, waiting): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(adoptable)
            .into_iter()
            .partition(|(_, pod)| has_begun(pod));
        *adoptable = waiting;
        let recorded = alone.values().map(|adoptable| CachedPod {
            identity: adoptable.recorded.identity.clone(),
            pod: adoptable.recorded.pod.clone(),
        });
        let pods: Vec<CachedPod> = recorded.collect();
        tracing::warn!(
            pods = pods.len(),
            "no API server answers: pods continue from the state on disk"
        );
        for (pod, adoptable) in pods.iter().zip(alone.into_values()) {
            let adoption = Adoption {
                pod: pod.pod.clone(),
                confirmation: PodConfirmation::Unconfirmed,
                predecessors: older_namesakes(pod, &pods),
            };
            self.adopt(adoption, adoptable).await;
        }
    }

    /// Compares the pods of a former agent with the API: the adopted pods and the pods in `adoptable`. Adopts
    /// the pods in `adoptable`, terminates pods that are deleted in the API, and starts new pods.
    pub(super) async fn settle(
        &mut self,
        pods: &Cache<Pod>,
        mut adoptable: BTreeMap<Uid, AdoptablePod>,
    ) {
        let cached = pods.list().into_iter().filter_map(CachedPod::read);
        let current: BTreeMap<Uid, CachedPod> =
            cached.map(|pod| (pod.identity.uid.clone(), pod)).collect();
        // A pod of the API without a record is new: the node may reject it.
        adoptable.retain(|uid, pod| {
            pod.recorded.has_record || pod.sandbox.is_some() || !current.contains_key(uid)
        });
        let workers = self.workers.iter();
        let adopted: Vec<PodIdentity> = workers
            .flat_map(|(key, workers)| {
                workers.keys().map(move |uid| PodIdentity {
                    key: key.clone(),
                    uid: uid.clone(),
                })
            })
            .collect();
        let mut former: BTreeMap<ObjectKey, BTreeSet<Uid>> = BTreeMap::new();
        let not_adopted = adoptable.values().map(|pod| &pod.recorded.identity);
        for PodIdentity { key, uid } in not_adopted.chain(&adopted) {
            if !current.contains_key(uid) {
                former.entry(key.clone()).or_default().insert(uid.clone());
            }
        }
        let removed = adopted.iter().filter(|pod| !current.contains_key(&pod.uid));
        for identity in removed {
            if let Some(view) = self.context.pods.get(identity) {
                self.send(identity, Message::Removed(view.pod.clone()))
                    .await;
            }
        }
        let predecessors = |key: &ObjectKey| former.get(key).cloned().unwrap_or_default();
        for (uid, adoptable) in adoptable {
            let adoption = match current.get(&uid) {
                Some(pod) => Adoption {
                    pod: pod.pod.clone(),
                    confirmation: PodConfirmation::Bound,
                    predecessors: predecessors(&pod.identity.key),
                },
                None => Adoption {
                    pod: adoptable.recorded.pod.clone(),
                    confirmation: PodConfirmation::Removed,
                    predecessors: BTreeSet::new(),
                },
            };
            self.adopt(adoption, adoptable).await;
        }
        let adopted: BTreeSet<Uid> = adopted.into_iter().map(|pod| pod.uid).collect();
        let mut current: Vec<_> = current.into_values().collect();
        current.sort_by_key(age);
        for pod in current {
            if self.worker(&pod.identity).is_none() {
                let predecessors = predecessors(&pod.identity.key);
                self.begin_new(pod, predecessors).await;
            } else if adopted.contains(&pod.identity.uid) {
                self.send(&pod.identity, Message::Pod(pod.pod)).await;
            }
        }
    }

    pub(super) async fn adopt(
        &mut self,
        adoption: Adoption,
        AdoptablePod { recorded, sandbox }: AdoptablePod,
    ) {
        let Adoption {
            pod,
            confirmation,
            predecessors,
        } = adoption;
        let identity = recorded.identity;
        let dir = PodDir::new(&self.context.node.config.data_dir, &identity);
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
            match adoption::reconnect(sandbox).await {
                Ok((current, stream)) => (state, events) = (Some(current), stream),
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
        let recovered = RecoveredPod {
            identity: &identity,
            pod: &pod,
            dir: &dir,
            image_id: &image_id,
            now,
        };
        let stored =
            block_in_place(|| adoption::adopt(recorded.stored, &recovered, state.as_ref()));
        tracing::info!(
            pod = %identity,
            ?confirmation,
            running = stored.record.anything_runs(),
            "pod of a former agent"
        );
        self.begin(WorkerStart {
            identity,
            pod,
            confirmation,
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
        adoptable: BTreeMap<Uid, AdoptablePod>,
        shutdown: &CancellationToken,
    ) -> bool {
        let mut synced = self.synced();
        let mut address = self.context.node.config.node_ip.clone();
        address.mark_unchanged();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return false,
                Some(result) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.worker_ended(result, pods).await;
                }
                Ok(()) = address.changed() => self.address_changed().await,
                is_synced = &mut synced => {
                    if is_synced {
                        tracing::info!("an API server answers: the pods are compared with it");
                        self.settle(pods, adoptable).await;
                    }
                    return is_synced;
                }
            }
        }
    }
}
