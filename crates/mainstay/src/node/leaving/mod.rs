//! `mainstay node --leave`: drains the node, deletes its object, and forgets the membership.

mod plan;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use api_client::guarded_writes::{Delete, delete, found, message};
use api_client::{Api, ListParams, Patch, PatchParams, PostParams, ResourceExt};
use certificates::KeyHash;
use console::output::say;
use data_directory::process;
use host_kernel::block_in_place;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use tokio::time::Instant;

use super::forget_network;
use super::membership::{Membership, MembershipStore};
use crate::settings::{DataDirectory, ServerArguments};
use crate::why::Server;
use crate::{down, token};

/// Interval between two checks of the pods.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `mainstay node --leave`.
#[derive(clap::Args, Debug)]
pub struct LeaveArguments {
    /// Evict the pods of this node, stop its agent, delete its Node object and forget the membership. Needs
    /// an administrator's kubeconfig: a node may not delete itself
    #[arg(long, conflicts_with = "detach")]
    pub leave: bool,
    /// Kubeconfig of an administrator, for --leave [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", requires = "leave")]
    kubeconfig: Option<PathBuf>,
    /// Leave although pods that nothing replaces or data on this machine are lost
    #[arg(long, requires = "leave")]
    force: bool,
    /// Longest wait for the pods to end, in seconds
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "leave",
        default_value_t = 600
    )]
    timeout: u32,
}

/// Leaves the cluster.
///
/// # Errors
/// The machine has not joined, something would be lost, pods stay, or the server refuses.
pub async fn run(arguments: &LeaveArguments, data: &Path) -> Result<()> {
    let membership = block_in_place(|| membership(data))?;
    let name = membership.node_name.as_str();
    let server = Server::find(&ServerArguments {
        kubeconfig: arguments.kubeconfig.clone(),
        data: DataDirectory::default(),
    })
    .await
    .context("leaving needs an administrator's kubeconfig, which `mainstay kubeconfig` prints on the server")?;
    let authority = token::authority(&server).await?;
    ensure!(
        KeyHash::of_pem(&membership.ca_pem) == Some(authority),
        "the kubeconfig is for {}, which is not the cluster of the node {name}",
        server.url()
    );
    let nodes: Api<Node> = Api::all(server.client.clone());
    let node = found(nodes.get(name).await).map_err(|error| server.explain(error))?;
    if let Some(node) = &node {
        drain(arguments, &server, name, data).await?;
        block_in_place(|| stop_agent(data))?;
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let deleted = delete(&nodes, name, Delete::of_uid(uid)).await;
        deleted.map_err(|error| server.explain(error))?;
        say(&format!("node {name} deleted"));
    } else {
        say(&format!("node {name} is deleted already"));
        block_in_place(|| stop_agent(data))?;
    }
    block_in_place(|| forget(data))?;
    let shown = data.display();
    say(&format!(
        "mainstay: {name} has left the cluster. `mainstay node` with --server and --token joins again; \
         `mainstay down --all --data-dir {shown}` deletes what is left in {shown}"
    ));
    Ok(())
}

/// The stored membership. A running agent has the lock of its place.
fn membership(data: &Path) -> Result<Membership> {
    let stored = Membership::read(&data.join("node"))?;
    stored.with_context(|| format!("no machine has joined a cluster with {}", data.display()))
}

async fn drain(arguments: &LeaveArguments, server: &Server, name: &str, data: &Path) -> Result<()> {
    let explain = |error| server.explain(error);
    let pods: Api<Pod> = Api::all(server.client.clone());
    let of_node = ListParams::default().fields(&format!("spec.nodeName={name}"));
    let listed = pods.list(&of_node).await.map_err(explain)?.items;
    let volumes: Api<PersistentVolume> = Api::all(server.client.clone());
    let volumes = volumes
        .list(&ListParams::default())
        .await
        .map_err(explain)?;
    let losses = plan::losses(name, &plan::evicted(&listed), &volumes.items);
    ensure!(
        losses.is_empty() || arguments.force,
        "nothing was changed, because of what would be lost:\n  {}\n`--force` leaves nevertheless",
        losses.join("\n  ")
    );
    cordon(server, name).await?;
    let deadline = Instant::now() + Duration::from_secs(arguments.timeout.into());
    let mut drain = Drain::default();
    loop {
        let listed = pods.list(&of_node).await.map_err(explain)?.items;
        let left = plan::evicted(&listed);
        drain.look(server, &left).await?;
        if left.is_empty() {
            return Ok(());
        }
        if block_in_place(|| process::serving(data)).is_none() {
            bail!(
                "no node agent runs on {}, which would end the pods {}: start `mainstay node`, and leave then",
                data.display(),
                names(&left)
            );
        }
        ensure!(
            Instant::now() < deadline,
            "these pods are still on the node: {}. It stays cordoned: leave again, or take it back with \
             `kubectl uncordon {name}`",
            names(&left)
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets no more pods be scheduled to a node.
///
/// # Errors
/// The server refused, or does not answer.
pub async fn cordon(server: &Server, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(server.client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    let cordoned = nodes.patch(name, &PatchParams::default(), &cordon).await;
    cordoned.map_err(|error| server.explain(error))?;
    say(&format!("node {name} cordoned"));
    Ok(())
}

fn names(pods: &[&Pod]) -> String {
    let names: Vec<String> = pods.iter().map(|pod| plan::shown(&pod.metadata)).collect();
    names.join(", ")
}

/// The progress of a drain, by the uids of pods.
#[derive(Default)]
struct Drain {
    evicted: BTreeSet<String>,
    /// The last refusal of each pod that waits.
    waits: BTreeSet<(String, String)>,
}

impl Drain {
    /// Evicts the pods that are not evicted yet. A disruption budget may refuse for a while.
    async fn look(&mut self, server: &Server, left: &[&Pod]) -> Result<()> {
        for pod in left {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if self.evicted.contains(&uid) {
                continue;
            }
            let shown = plan::shown(&pod.metadata);
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            match evict(server, namespace, &pod.name_any(), &uid).await {
                Ok(_) => {
                    self.evicted.insert(uid);
                    say(&format!("pod {shown} evicted"));
                }
                Err(error) if error.code() == Some(429) => {
                    let why = message(&error);
                    if self.waits.insert((uid, why.clone())) {
                        say(&format!("pod {shown} waits: {why}"));
                    }
                }
                // It is gone, or another one has its name.
                Err(error) if matches!(error.code(), Some(404 | 409)) => {}
                Err(error) => return Err(server.explain(error)),
            }
        }
        Ok(())
    }
}

/// Evicts a pod, if it is still this one.
pub async fn evict(
    server: &Server,
    namespace: &str,
    name: &str,
    uid: &str,
) -> api_client::Result<Value> {
    let pods: Api<Pod> = Api::namespaced(server.client.clone(), namespace);
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                ..Preconditions::default()
            }),
            ..DeleteOptions::default()
        }),
    };
    let params = PostParams::default();
    pods.create_subresource("eviction", name, &params, &eviction)
        .await
}

/// Stops the agent with the pods that are left, which are those of DaemonSets.
fn stop_agent(data: &Path) -> Result<()> {
    match process::serving(data) {
        Some(agent) => down::stop(agent, data),
        None => Ok(()),
    }
}

/// Forgets the membership and the addresses of pods.
fn forget(data: &Path) -> Result<()> {
    data_directory::make(data)?;
    MembershipStore::open(data)?.forget()?;
    forget_network(data)
}
