//! Executes the fence of silent nodes: fences their leases, and deletes pods that may fail over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use controller_framework::{Cache, EventType, Recorder};
use controller_planners::node_lifecycle::fate::{ClaimVolume, PodFate, StayReason, fate};
use controller_planners::node_lifecycle::fence::{FenceDecision, NodeLease, Renewals, decide};
use controller_planners::node_lifecycle::silence::LeaseState;
use jiff::SignedDuration;
use json_tree::json;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{Api, Client, Patch, PatchParams, ResourceExt};
use object_model::IncompleteMetadata;
use resource_kinds::MetadataIdentity;
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::pod_view::PodView;

use super::disruption_target;
use super::execute::reference;
use crate::Context;
use crate::api_error::{ApiError, failed};
use crate::node_proof::{FencedLease, fence_lease};

pub(super) struct Fence {
    client: Client,
    recorder: Recorder,
    sets: Cache<StatefulSet>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    renewals: Mutex<Renewals>,
}

/// The pods of a node, divided by the effect of its fence on them.
struct Divided {
    replaced: Vec<Arc<PodView>>,
    /// Pods that are deleted later, without the data of some claims.
    replaced_without_claims: Vec<ReplacedWithoutClaims>,
    /// Pods that stay, although a user may expect that they are deleted.
    stay: Vec<(Arc<PodView>, StayReason)>,
}

struct ReplacedWithoutClaims {
    pod: Arc<PodView>,
    claims: Vec<String>,
    after: SignedDuration,
}

impl Divided {
    fn replaces_none(&self) -> bool {
        self.replaced.is_empty() && self.replaced_without_claims.is_empty()
    }

    /// The time until the next pod is deleted, on a node that has been fenced for `fenced_for`.
    fn next(&self, fenced_for: SignedDuration) -> Option<SignedDuration> {
        let waits = self
            .replaced_without_claims
            .iter()
            .map(|one| one.after - fenced_for);
        waits.filter(|left| left.is_positive()).min()
    }
}

impl Fence {
    pub fn new(context: &Context, recorder: Recorder) -> Self {
        let caches = &context.caches;
        Self {
            client: context.client.clone(),
            recorder,
            sets: caches.stateful_sets.clone(),
            claims: caches.claims.clone(),
            volumes: caches.volumes.clone(),
            renewals: Mutex::default(),
        }
    }

    pub async fn wait_synced(&self) -> bool {
        self.sets.wait_synced().await
            && self.claims.wait_synced().await
            && self.volumes.wait_synced().await
    }

    pub fn renewals(&self) -> MutexGuard<'_, Renewals> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Executes the next step for a node; returns the time until the next check.
    ///
    /// The caller has read the pods before the lease. A pod that the node may start in a new epoch was bound after this
    /// controller read the fenced lease, so such a pod is not among them.
    pub async fn check(
        &self,
        node: &Node,
        lease: &Lease,
        pods: &[Arc<PodView>],
        others_ready: bool,
        now: SignedDuration,
    ) -> Result<Option<SignedDuration>, ApiError> {
        let name = node.name_any();
        let incomplete = |error: IncompleteMetadata| failed("read lease")(error);
        let state = LeaseState::of(lease).map_err(incomplete)?;
        let version = lease.metadata.object_version().map_err(incomplete)?;
        let lease = NodeLease::from(lease);
        let unchanged_for = self.renewals().unchanged_for(&name, &state, now);
        let divided = self.divide(pods);
        let has_candidates = others_ready && !(divided.replaces_none() && divided.stay.is_empty());
        match decide(&lease, unchanged_for, has_candidates) {
            FenceDecision::Nothing => return Ok(None),
            FenceDecision::Wait(left) => return Ok(Some(left)),
            FenceDecision::Fence { .. } if divided.replaces_none() => {
                self.report_pods_that_stay(&format!("lost node {name}"), &divided.stay);
                return Ok(None);
            }
            FenceDecision::Fence { epoch } => {
                let observed = FencedLease {
                    node: &name,
                    version,
                    lease: &lease,
                    unchanged_for,
                };
                let written = fence_lease(&self.client, &observed, epoch).await;
                // The lease was renewed in the meantime; the change of the lease starts the count again.
                let Some(proof) = written.map_err(failed("take lease"))? else {
                    return Ok(None);
                };
                self.report_fence(node, &proof);
                self.report_pods_that_stay(&format!("fenced node {name}"), &divided.stay);
                for pod in &divided.replaced {
                    self.delete(&name, pod).await?;
                }
                return Ok(divided.next(SignedDuration::ZERO));
            }
            FenceDecision::Delete if divided.replaces_none() => return Ok(None),
            FenceDecision::Delete => {
                let read = self.leases().get_opt(&name).await;
                let read = read.map_err(failed("read lease"))?;
                if !read.is_some_and(|lease| NodeLease::from(&lease).fenced) {
                    return Ok(None);
                }
            }
        }
        for pod in &divided.replaced {
            self.delete(&name, pod).await?;
        }
        let due = |one: &&ReplacedWithoutClaims| one.after <= unchanged_for;
        for lost in divided.replaced_without_claims.iter().filter(due) {
            self.abandon_claims(&name, lost).await?;
            self.delete(&name, &lost.pod).await?;
        }
        Ok(divided.next(unchanged_for))
    }

    /// Deletes the claims of a pod whose volumes are local to the fenced node. The claims are removed after their pod.
    async fn abandon_claims(
        &self,
        node: &str,
        lost: &ReplacedWithoutClaims,
    ) -> Result<(), ApiError> {
        let pod = &lost.pod;
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), &pod.namespace);
        let (after, names) = (lost.after.as_secs(), lost.claims.join(", "));
        let text = format!(
            "Node {node} has been fenced for {after}s: the pod is replaced with new, empty claims ({names})"
        );
        tracing::warn!(node, pod = %pod.name, claims = names, "volumes of a lost node are abandoned");
        self.recorder
            .event(pod.reference(), EventType::Warning, "VolumeGivenUp", text);
        for name in &lost.claims {
            let claim = self.claims.get(&pod.namespace, name);
            let Some(claim) = claim else {
                continue;
            };
            let deleted = async {
                let uid = claim.metadata.object_uid()?;
                guarded_writes::delete(&claims, name, Delete::of_uid(uid.clone())).await
            };
            deleted.await.map(drop).map_err(failed("delete claim"))?;
        }
        Ok(())
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NODE_LEASES)
    }

    fn divide(&self, pods: &[Arc<PodView>]) -> Divided {
        let mut divided = Divided {
            replaced: Vec::new(),
            replaced_without_claims: Vec::new(),
            stay: Vec::new(),
        };
        for pod in pods.iter().filter(|pod| pod.ends_with_lease()) {
            let pod = pod.clone();
            match self.fate(&pod) {
                PodFate::Goes => divided.replaced.push(pod),
                PodFate::GoesWithout { claims, after } => {
                    divided.replaced_without_claims.push(ReplacedWithoutClaims {
                        pod,
                        claims,
                        after,
                    });
                }
                PodFate::StayReason(cause) => divided.stay.push((pod, cause)),
            }
        }
        divided
    }

    fn fate(&self, pod: &PodView) -> PodFate {
        let owner = pod.controller.as_ref();
        let owner = owner.filter(|owner| &*owner.kind == "StatefulSet");
        let set = owner.and_then(|owner| {
            let set = self.sets.get(&pod.namespace, &owner.name)?;
            let is_owner = set.metadata.object_uid().is_ok_and(|uid| uid == owner.uid);
            is_owner.then_some(set)
        });
        let volumes: Vec<_> = pod
            .claims
            .iter()
            .map(|claim| self.volume_of(pod, &claim.name))
            .collect();
        fate(pod, set.as_deref(), |claim| {
            let at = pod.claims.iter().position(|one| &*one.name == claim);
            match at.and_then(|at| volumes.get(at)) {
                Some(BoundVolume::Missing) => ClaimVolume::Missing,
                Some(BoundVolume::Unbound) => ClaimVolume::Unbound,
                Some(BoundVolume::Bound(volume)) => ClaimVolume::Bound(volume),
                Some(BoundVolume::Unknown) | None => ClaimVolume::Unknown,
            }
        })
    }

    fn volume_of(&self, pod: &PodView, claim: &str) -> BoundVolume {
        let Some(claim) = self.claims.get(&pod.namespace, claim) else {
            return BoundVolume::Missing;
        };
        let volume = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_deref());
        match volume.filter(|name| !name.is_empty()) {
            None => BoundVolume::Unbound,
            Some(name) => self
                .volumes
                .get("", name)
                .map_or(BoundVolume::Unknown, BoundVolume::Bound),
        }
    }

    fn report_fence(&self, node: &Node, proof: &str) {
        let name = node.name_any();
        tracing::info!(node = name, proof, "node fenced");
        let text =
            format!("Node {name} is fenced, its pods that may fail over are replaced: {proof}");
        self.recorder
            .event(reference(node), EventType::Warning, "NodeFenced", text);
    }

    fn report_pods_that_stay(&self, node: &str, stay: &[(Arc<PodView>, StayReason)]) {
        for (pod, cause) in stay {
            let text = format!("Stays with its {node}: {cause}");
            self.recorder
                .event(pod.reference(), EventType::Warning, "StaysWithNode", text);
        }
    }

    /// Marks the pod as Failed, so that it is not reported as running; then deletes the pod.
    async fn delete(&self, node: &str, pod: &PodView) -> Result<(), ApiError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        if !pod.has_ended() {
            let text = format!("Node {node} is fenced: the pod has ended with its lease");
            let mut status = disruption_target("NodeFenced", &text);
            status["phase"] = json!("Failed");
            let patch = json!({ "metadata": { "uid": pod.uid }, "status": status });
            let params = PatchParams::default();
            let written = pods
                .patch_status(&pod.name, &params, &Patch::Strategic(patch))
                .await;
            if guarded_writes::unless_outrun(written)
                .map_err(failed("mark pod"))?
                .is_none()
            {
                return Ok(());
            }
            self.recorder
                .event(pod.reference(), EventType::Warning, "NodeFenced", text);
        }
        let how = Delete::of_uid(pod.uid.clone()).at_once();
        let deleted = guarded_writes::delete(&pods, &pod.name, how).await;
        deleted.map(drop).map_err(failed("delete pod"))
    }
}

/// The volume of a claim.
enum BoundVolume {
    Missing,
    Unbound,
    Bound(Arc<PersistentVolume>),
    Unknown,
}
