//! Fences and deletes leases, and removes pods.

use controller_framework::Cache;
use controller_planners::pod_gc::missing::{LeaseTakeover, Release};
use controller_planners::pod_gc::{PodGcPlan, Removal, RemovalCause};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube_api_client::guarded_writes::{self, Delete, chain};
use kube_api_client::{Api, Client, Patch, PatchParams};
use resource_kinds::namespaces::NODE_LEASES;
use resource_kinds::pod_view::PodView;

use crate::Context;
use crate::node_proof::{FencedLease, fence_lease};

pub(super) struct Executor {
    client: Client,
    pods: Cache<PodView>,
}

impl Executor {
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            pods: context.caches.pods.clone(),
        }
    }

    /// Executes a plan; the next plan contains failed steps again.
    pub async fn execute(&self, plan: &PodGcPlan) {
        for removal in &plan.remove {
            self.remove(removal).await;
        }
        for due in &plan.takeovers {
            let node = &due.node;
            match self.take_over(due).await {
                Ok(true) => {
                    for removal in &due.remove {
                        self.remove(removal).await;
                    }
                }
                // The lease was renewed, so the agent is alive.
                Ok(false) => {}
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(node, error, "the lease of a deleted node was not taken");
                }
            }
        }
        for due in &plan.release {
            let node = &due.node;
            if let Err(error) = self.release(due).await {
                let error = chain(&error);
                tracing::warn!(node, error, "the lease of a deleted node was not deleted");
            }
        }
    }

    async fn has_node(&self, name: &str) -> kube_api_client::Result<bool> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        Ok(nodes.get_metadata_opt(name).await?.is_some())
    }

    async fn take_over(&self, due: &LeaseTakeover) -> kube_api_client::Result<bool> {
        let node = &due.node;
        if self.has_node(node).await? {
            return Ok(false);
        }
        let observed = FencedLease {
            node,
            version: due.version,
            lease: &due.lease,
            unchanged_for: due.unchanged_for,
        };
        let is_fenced = fence_lease(&self.client, &observed, due.epoch).await?;
        if let Some(proof) = &is_fenced {
            tracing::info!(node, proof, "node without an object fenced");
        }
        Ok(is_fenced.is_some())
    }

    async fn release(&self, due: &Release) -> kube_api_client::Result<()> {
        if self.has_node(&due.node).await? {
            return Ok(());
        }
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NODE_LEASES);
        let how = Delete {
            resource_version: Some(due.version),
            ..Delete::default()
        };
        if guarded_writes::delete(&leases, &due.node, how).await? {
            tracing::info!(node = due.node, "lease of a deleted node deleted");
        }
        Ok(())
    }

    async fn remove(&self, removal: &Removal) {
        if let Err(error) = self.try_remove(removal).await {
            let (namespace, name) = (&removal.namespace, &removal.name);
            tracing::warn!(namespace, name, error = chain(&error), "pod not removed");
        }
    }

    /// Marks the pod as Failed, so that it is not reported as running; then deletes the pod.
    async fn try_remove(&self, removal: &Removal) -> kube_api_client::Result<()> {
        if let RemovalCause::NodeMissing { node } = &removal.cause
            && self.has_node(node).await?
        {
            return Ok(());
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &removal.namespace);
        let pod = self.pods.get(&removal.namespace, &removal.name);
        if pod.is_none_or(|pod| !pod.has_ended()) {
            let meta = json!({ "uid": removal.uid });
            let patch = json!({ "metadata": meta, "status": failed_status(&removal.cause) });
            let params = PatchParams::default();
            let patch = Patch::Strategic(patch);
            let written = pods.patch_status(&removal.name, &params, &patch).await;
            if guarded_writes::unless_outrun(written)?.is_none() {
                return Ok(());
            }
        }
        let (namespace, name) = (&removal.namespace, &removal.name);
        tracing::info!(namespace, name, cause = ?removal.cause, "pod removed");
        let how = Delete::of_uid(removal.uid.clone()).at_once();
        guarded_writes::delete(&pods, &removal.name, how)
            .await
            .map(drop)
    }
}

fn failed_status(cause: &RemovalCause) -> Value {
    let message = match cause {
        RemovalCause::NodeMissing { .. } => "PodGC: node no longer exists",
        RemovalCause::OutOfService => "PodGC: node is out-of-service",
        RemovalCause::NeverScheduled => "PodGC: pod was never scheduled",
        RemovalCause::TooManyEnded => "PodGC: too many terminated pods",
    };
    let mut status = json!({ "phase": "Failed" });
    if !matches!(
        cause,
        RemovalCause::NeverScheduled | RemovalCause::TooManyEnded
    ) {
        status["conditions"] = json!([{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": message,
            "lastTransitionTime": Timestamp::from_second(Timestamp::now().as_second()).ok(),
        }]);
    }
    status
}
