//! The pods of a node that is drained.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cluster_inspection::Server;
use command_output::output::print_line;
use data_directory::process;
use host_kernel::block_in_place;
use json_tree::json;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use kube_api_client::guarded_writes::{self, Delete, message};
use kube_api_client::{Api, ListParams, Patch, PatchParams};
use object_model::Uid;
use resource_kinds::MetadataIdentity;
use tokio::time::Instant;

use crate::error::DrainError;
use crate::losses;

/// Interval between two checks of the pods.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The eviction of all pods of this machine's node, except the pods of DaemonSets and mirror pods.
#[derive(Clone, Copy, Debug)]
pub struct PodDrain<'a> {
    /// The name of the node.
    pub node: &'a str,
    /// The data directory of the agent of the node, which stops the pods.
    pub data: &'a Path,
    /// Whether pods that no controller replaces, and data on this machine, may be lost.
    pub force: bool,
    /// Maximum time until the pods have ended.
    pub timeout: Duration,
}

impl PodDrain<'_> {
    /// Cordons the node, and evicts its pods until no pod is left.
    ///
    /// # Errors
    /// Something would be lost, pods stay, no agent runs, or the server refuses.
    pub async fn run(self, server: &Server) -> Result<(), DrainError> {
        let name = self.node;
        let explain = |error| server.explain(error);
        let pods: Api<Pod> = Api::all(server.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let listed = pods.list(&of_node).await.map_err(explain)?.items;
        let volumes: Api<PersistentVolume> = Api::all(server.client.clone());
        let volumes = volumes
            .list(&ListParams::default())
            .await
            .map_err(explain)?;
        let losses = losses::losses(name, &losses::evicted(&listed), &volumes.items);
        if !losses.is_empty() && !self.force {
            return Err(DrainError::Losses(losses));
        }
        cordon(server, name).await?;
        let deadline = Instant::now() + self.timeout;
        let mut evictions = Evictions::default();
        loop {
            let listed = pods.list(&of_node).await.map_err(explain)?.items;
            let remaining = losses::evicted(&listed);
            evictions.evict_all(server, &remaining).await?;
            if remaining.is_empty() {
                return Ok(());
            }
            if block_in_place(|| process::serving(self.data)).is_none() {
                return Err(DrainError::Refused(format!(
                    "no node agent runs on {}, which would end the pods {}: start `mainstay node`, and leave then",
                    self.data.display(),
                    names(&remaining)
                )));
            }
            if Instant::now() >= deadline {
                return Err(DrainError::Refused(format!(
                    "these pods are still on the node: {}. It stays cordoned: leave again, or take it back with \
                     `kubectl uncordon {name}`",
                    names(&remaining)
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Marks a node as unschedulable.
///
/// # Errors
/// The server refused, or does not respond.
pub async fn cordon(server: &Server, name: &str) -> Result<(), DrainError> {
    let nodes: Api<Node> = Api::all(server.client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    let cordoned = nodes.patch(name, &PatchParams::default(), &cordon).await;
    cordoned.map_err(|error| server.explain(error))?;
    print_line(&format!("node {name} cordoned"));
    Ok(())
}

fn names(pods: &[&Pod]) -> String {
    let names: Vec<String> = pods
        .iter()
        .map(|pod| losses::qualified_name(&pod.metadata))
        .collect();
    names.join(", ")
}

/// The progress of a drain, by the uids of pods.
#[derive(Default)]
struct Evictions {
    evicted: BTreeSet<Uid>,
    /// The last refusal of each pod that waits.
    waits: BTreeSet<(Uid, String)>,
}

impl Evictions {
    /// Evicts the pods that are not evicted yet. A disruption budget may refuse for a while.
    async fn evict_all(&mut self, server: &Server, remaining: &[&Pod]) -> Result<(), DrainError> {
        for pod in remaining {
            let uid = pod.metadata.object_uid()?;
            if self.evicted.contains(&uid) {
                continue;
            }
            let name = losses::qualified_name(&pod.metadata);
            let pod = pod.metadata.object_key()?;
            let pods: Api<Pod> = Api::namespaced(server.client.clone(), &pod.namespace);
            match guarded_writes::evict(
                &pods,
                &pod.name,
                Delete::of_uid(uid.clone()),
                BTreeMap::new(),
            )
            .await
            {
                Ok(true) => {
                    self.evicted.insert(uid);
                    print_line(&format!("pod {name} evicted"));
                }
                Err(error) if error.code() == Some(429) => {
                    let reason = message(&error);
                    if self.waits.insert((uid, reason.clone())) {
                        print_line(&format!("pod {name} waits: {reason}"));
                    }
                }
                // The pod was deleted, or another pod has its name.
                Ok(false) => {}
                Err(error) => return Err(server.explain(error).into()),
            }
        }
        Ok(())
    }
}
