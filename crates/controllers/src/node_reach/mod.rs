//! The condition `mainstay.dev/KubeletReachable` of nodes on other machines: the route by which this server
//! reaches their kubelet API.

use std::fmt::{self, Debug};
use std::sync::Arc;

use controller_framework::{Cache, Controller, ObjectChange, Queue, ReconcileResult, object_key};
use controller_planners::node_lifecycle::reach::{KubeletPath, condition};
use futures::future::BoxFuture;
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::guarded_writes;
use kube_api_client::{Api, Patch, PatchParams};
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::api_error::{ApiError, failed};

/// Connects to the node of that name; `None` for a node that needs no connection.
type Trial = dyn Fn(String) -> BoxFuture<'static, Option<KubeletPath>> + Send + Sync;

/// The connections of a server to nodes of other machines.
#[derive(Clone)]
pub struct NodeReach(Arc<Trial>);

impl NodeReach {
    /// Connections through a function.
    pub fn of(
        trial: impl Fn(String) -> BoxFuture<'static, Option<KubeletPath>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(trial))
    }
}

impl Debug for NodeReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeReach")
    }
}

struct Reachability {
    api: Api<Node>,
    nodes: Cache<Node>,
    reach: NodeReach,
    shutdown: CancellationToken,
}

pub(crate) async fn run(context: Context) {
    let Some(reach) = context.config.node_reach.clone() else {
        return context.shutdown.cancelled().await;
    };
    let controller = Reachability {
        api: Api::all(context.client.clone()),
        nodes: context.caches.nodes.clone(),
        reach,
        shutdown: context.shutdown.clone(),
    };
    context.run("node_reachability", controller).await;
}

impl Controller for Reachability {
    type Key = ObjectKey;
    type Error = ApiError;

    /// The number is high, because a node that is off occupies a worker until the connection attempt times out.
    const WORKERS: usize = 16;

    async fn wait_synced(&self) -> bool {
        self.nodes.wait_synced().await
    }

    /// Queues nodes that are new or have a new address. The other nodes are checked periodically.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut changes = self.nodes.subscribe();
        while let Some(change) = changes.next().await {
            if let ObjectChange::Applied(new, old) = &change
                && old.as_ref().is_none_or(|old| address(old) != address(new))
            {
                queue.add(object_key(&**new));
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, ApiError> {
        if self.nodes.get("", &key.name).is_none() {
            return Ok(ReconcileResult::Done);
        }
        let trial = (self.reach.0)(key.name.to_string());
        // A connection attempt may take half a minute: the shutdown of the controllers does not wait for it.
        let tried = self.shutdown.run_until_cancelled(trial).await;
        let Some(reached) = tried.flatten() else {
            return Ok(ReconcileResult::Done);
        };
        // During the connection attempt the Node may have been changed or deleted.
        let Some(node) = self.nodes.get("", &key.name) else {
            return Ok(ReconcileResult::Done);
        };
        let status = node.status.as_ref();
        let present = status.and_then(|status| status.conditions.as_deref());
        if let Some(condition) = condition(present.unwrap_or_default(), &reached, Timestamp::now())
        {
            let uid = node.metadata.object_uid();
            let uid = uid.map_err(|error| failed("write the condition")(error))?;
            let patch = json!({
                "metadata": { "uid": uid },
                "status": { "conditions": [condition] },
            });
            let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
            let written = self.api.patch_status(&key.name, &params, &patch).await;
            guarded_writes::unless_outrun(written).map_err(failed("write the condition"))?;
        }
        Ok(ReconcileResult::from(Some(reached.again())))
    }
}

/// The parts of a Node object that give the address of its API.
fn address(node: &Node) -> Option<impl PartialEq + '_> {
    let status = node.status.as_ref()?;
    Some((&status.addresses, &status.daemon_endpoints))
}
