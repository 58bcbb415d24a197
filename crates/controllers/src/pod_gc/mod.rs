//! The pod garbage collector.

use std::collections::BTreeMap;
use std::time::Duration;

use api_client::{Api, Patch, PatchParams};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use planners::pod_gc::{Cause, Observed, Removal, plan};
use reconcile::ObjectChange;
use reconcile::execute::{self, Delete};
use resource_kinds::node_conditions;
use resource_kinds::pod_view::PodView;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Context;

/// Time between two checks; as kube-controller-manager.
const INTERVAL: Duration = Duration::from_secs(20);

pub(crate) async fn run(context: Context) {
    let caches = &context.caches;
    if !caches.pods.wait_synced().await || !caches.nodes.wait_synced().await {
        return;
    }
    let mut missing_since = BTreeMap::new();
    let mut nodes = caches.nodes.subscribe();
    let mut pods = caches.pods.subscribe();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
            // A changed node may just have been tainted as out of service, or deleted.
            Some(change) = nodes.next() => if !matters(&change) { continue },
            Some(change) = pods.next() => if !is_going_alone(&context, &change) { continue },
        }
        let now = Timestamp::now();
        let observed = Observed {
            pods: caches.pods.list(),
            nodes: caches.nodes.list(),
            missing_since,
        };
        let plan = plan(&observed, now);
        for removal in &plan.remove {
            if let Err(error) = remove(&context, removal).await {
                let (namespace, name) = (&removal.namespace, &removal.name);
                tracing::warn!(namespace, name, error = %error, "pod not removed");
            }
        }
        missing_since = plan.missing_since;
        let until = plan.wake_at.map(|at| at.duration_since(now));
        let until = until.and_then(|until| Duration::try_from(until).ok());
        next = Instant::now() + until.unwrap_or(INTERVAL).min(INTERVAL);
    }
}

fn matters(change: &ObjectChange<Node>) -> bool {
    match change {
        ObjectChange::Applied(new, Some(old)) => {
            let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
            taints(new) != taints(old)
        }
        ObjectChange::Applied(_, None) => false,
        ObjectChange::Deleted(_) => true,
    }
}

/// Whether a pod is newly deleted and has no node that would finish it.
fn is_going_alone(context: &Context, change: &ObjectChange<PodView>) -> bool {
    let ObjectChange::Applied(pod, old) = change else {
        return false;
    };
    let is_new = old.as_ref().is_none_or(|old| !old.is_deleting());
    if !pod.is_deleting() || !is_new {
        return false;
    }
    let node = pod.node.as_deref().unwrap_or_default();
    let node = context.caches.nodes.get("", node);
    node.is_none_or(|node| node_conditions::is_out_of_service(&node))
}

/// Marks the pod as Failed, so that it does not look running; then deletes it.
async fn remove(context: &Context, removal: &Removal) -> api_client::Result<()> {
    if let Cause::NodeGone { node } = &removal.cause {
        let nodes: Api<Node> = Api::all(context.client.clone());
        if nodes.get_metadata_opt(node).await?.is_some() {
            return Ok(());
        }
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &removal.namespace);
    let pod = context.caches.pods.get(&removal.namespace, &removal.name);
    if pod.is_none_or(|pod| !pod.has_ended()) {
        let meta = json!({ "uid": removal.uid });
        let patch = json!({ "metadata": meta, "status": failed_status(&removal.cause) });
        let params = PatchParams::default();
        let patch = Patch::Strategic(patch);
        let written = pods.patch_status(&removal.name, &params, &patch).await;
        if execute::unless_outrun(written)?.is_none() {
            return Ok(());
        }
    }
    let (namespace, name) = (&removal.namespace, &removal.name);
    tracing::info!(namespace, name, cause = ?removal.cause, "pod removed");
    let how = Delete::of_uid(&removal.uid).at_once();
    execute::delete(&pods, &removal.name, how).await.map(drop)
}

fn failed_status(cause: &Cause) -> Value {
    let message = match cause {
        Cause::NodeGone { .. } => "PodGC: node no longer exists",
        Cause::OutOfService => "PodGC: node is out-of-service",
        Cause::NeverScheduled => "PodGC: pod was never scheduled",
        Cause::TooManyEnded => "PodGC: too many terminated pods",
    };
    let mut status = json!({ "phase": "Failed" });
    if !matches!(cause, Cause::NeverScheduled | Cause::TooManyEnded) {
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
