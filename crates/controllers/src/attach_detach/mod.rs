//! The controller that attaches volumes of CSI drivers to nodes.

mod execute;
mod observe;

use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, Index, ObjectChange, Queue, ReconcileResult, object_key};
use controller_planners::attach_detach::{AttachDetachAction, needs_proof, plan};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube_api_client::Api;
use object_model::{IncompleteMetadata, ObjectKey};
use resource_kinds::pod_view::PodView;

use crate::Context;
use crate::node_proof::proof;
use crate::volume_binding::claim_of;
use execute::{CLAIMED_AT, Executor};
use observe::Observed;

/// The interval of the checks for a proof: the proof that a node is lost causes no event for this controller.
const PROOF_INTERVAL: Duration = Duration::from_secs(2);

/// The delay after a conflict. A heartbeat of the node, which changes nothing here, may cause a conflict with a write.
const OUTRUN_RETRY: Duration = Duration::from_millis(100);

/// The reason why the plan for a node was not executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server refused the request or did not respond.
    #[error("write or look up an attachment")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a Node or an attachment")]
    Identity(#[from] IncompleteMetadata),
}

struct AttachDetach {
    context: Context,
    attachments: Cache<VolumeAttachment>,
    drivers: Cache<CSIDriver>,
    pods_by_node: Index<PodView>,
    executor: Executor,
}

pub(crate) async fn run(context: Context) {
    let pods = &context.caches.pods;
    let controller = AttachDetach {
        attachments: context.cache(),
        drivers: context.cache(),
        pods_by_node: pods.index(|pod| pod.node.iter().map(|node| node.to_string()).collect()),
        executor: Executor::new(
            context.client.clone(),
            context.recorder("attachdetach-controller"),
        ),
        context: context.clone(),
    };
    context.run("attachdetach", controller).await;
}

impl controller_framework::Controller for AttachDetach {
    type Key = String;
    type Error = Error;

    /// One node at a time, so that a volume for one node is not attached to two nodes.
    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        let caches = &self.context.caches;
        self.attachments.wait_synced().await
            && self.drivers.wait_synced().await
            && caches.pods.wait_synced().await
            && caches.nodes.wait_synced().await
            && caches.claims.wait_synced().await
            && caches.volumes.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<String>) {
        let caches = &self.context.caches;
        let mut pods = caches.pods.subscribe_to(PodView::has_claims);
        let mut nodes = caches.nodes.subscribe();
        let mut claims = caches.claims.subscribe();
        let mut volumes = caches.volumes.subscribe();
        let mut attachments = self.attachments.subscribe();
        let mut drivers = self.drivers.subscribe();
        loop {
            tokio::select! {
                Some(change) = pods.next() => {
                    let pod = change.object();
                    if let Some(node) = pod.node.as_ref().filter(|_| !pod.claims.is_empty()) {
                        queue.add(node.to_string());
                    }
                }
                Some(change) = nodes.next() => if concerns(&change) {
                    if let ObjectChange::Deleted(deleted) = &change {
                        self.executor.forget(&deleted.metadata);
                    }
                    queue.add(object_key(&**change.object()).name.to_string());
                },
                Some(change) = claims.next() => {
                    for node in self.nodes_of_claim(&object_key(&**change.object())) {
                        queue.add(node);
                    }
                }
                Some(change) = volumes.next() => {
                    for node in self.nodes_of(change.object()) {
                        queue.add(node);
                    }
                }
                Some(change) = attachments.next() => {
                    if let ObjectChange::Deleted(deleted) = &change {
                        self.executor.forget(&deleted.metadata);
                    }
                    let spec = &change.object().spec;
                    queue.add(spec.node_name.clone());
                    // Other nodes wait until the volume is free.
                    let volume = spec.source.persistent_volume_name.as_ref();
                    let volume = volume.and_then(|name| caches.volumes.get("", name));
                    for node in volume.iter().flat_map(|volume| self.nodes_of(volume)) {
                        queue.add(node);
                    }
                }
                Some(_) = drivers.next() => {
                    for node in caches.nodes.list() {
                        queue.add(object_key(&*node).name.to_string());
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &String) -> Result<ReconcileResult, Error> {
        let mut observed = self.observe(key)?;
        let mut waits = false;
        let mut actions = self.decide(&mut observed, &mut waits).await?;
        if actions
            .iter()
            .any(|one| matches!(one, AttachDetachAction::Detach { .. }))
        {
            // The cached Node may be older than this controller's last write to the Node.
            let nodes: Api<Node> = Api::all(self.executor.client().clone());
            let node = nodes.get_opt(key).await?.map(Arc::new);
            observed.with_node(node, &self.executor.written())?;
            actions = self.decide(&mut observed, &mut waits).await?;
        }
        let is_outrun = self.executor.execute(&observed, actions).await?;
        let again = is_outrun.then_some(OUTRUN_RETRY);
        Ok(again.or(waits.then_some(PROOF_INTERVAL)).into())
    }
}

impl AttachDetach {
    /// The steps for a node, with the proof if the steps depend on it; `waits` is true if the steps need a proof that
    /// does not exist.
    async fn decide(
        &self,
        observed: &mut Observed,
        waits: &mut bool,
    ) -> Result<Vec<AttachDetachAction>, Error> {
        observed.view.proof = None;
        *waits = needs_proof(&observed.view);
        if *waits {
            let (client, node) = (self.executor.client(), observed.node.as_deref());
            observed.view.proof = proof(client, &observed.view.name, node).await?;
            *waits = observed.view.proof.is_none();
        }
        Ok(plan(&observed.view))
    }

    /// The nodes of the pods that use the volume of a driver.
    fn nodes_of(&self, volume: &PersistentVolume) -> Vec<String> {
        let spec = volume.spec.as_ref();
        if spec.is_none_or(|spec| spec.csi.is_none()) {
            return Vec::new();
        }
        let claim = claim_of(volume);
        claim.map_or_else(Vec::new, |claim| self.nodes_of_claim(&claim))
    }

    fn nodes_of_claim(&self, claim: &ObjectKey) -> Vec<String> {
        let pods = self.context.caches.pods.list_in(&claim.namespace);
        let users = pods
            .iter()
            .filter(|pod| pod.claims.iter().any(|used| *used.name == *claim.name));
        users
            .filter_map(|pod| pod.node.as_ref().map(|node| node.to_string()))
            .collect()
    }
}

/// Whether a change of a Node is about volumes, taints, a write of this controller, or the Node as a whole.
fn concerns(change: &ObjectChange<Node>) -> bool {
    match change {
        ObjectChange::Applied(new, Some(old)) => {
            let volumes = |node: &Node| {
                let status = node.status.as_ref();
                let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
                status.map(|status| {
                    let attached = status.volumes_attached.clone();
                    (status.volumes_in_use.clone(), attached, taints)
                })
            };
            let claimed_at = |node: &Node| {
                let annotations = node.metadata.annotations.as_ref();
                annotations.and_then(|all| all.get(CLAIMED_AT).cloned())
            };
            volumes(new) != volumes(old) || claimed_at(new) != claimed_at(old)
        }
        ObjectChange::Applied(_, None) | ObjectChange::Deleted(_) => true,
    }
}
