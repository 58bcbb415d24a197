//! `mainstay node --leave`: drains the node, deletes its object, and forgets the membership.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use certificates::KeyHash;
use command_output::output::print_line;
use data_directory::process;
use host_kernel::block_in_place;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::Api;
use kube_api_client::guarded_writes::{Delete, delete, existing_object};
use node_drain::PodDrain;
use node_membership::{Membership, MembershipStore, forget_network};
use resource_kinds::MetadataIdentity;

use crate::settings::{DataDirectory, ServerArguments};
use crate::token;

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
    let membership = block_in_place(|| stored_membership(data))?;
    let name = membership.node_name.as_str();
    let server = ServerArguments {
        kubeconfig: arguments.kubeconfig.clone(),
        data: DataDirectory::default(),
    };
    let server = server.find().await.context("leaving needs an administrator's kubeconfig, which `mainstay kubeconfig` prints on the server")?;
    let authority = token::authority(&server).await?;
    ensure!(
        KeyHash::of_pem(&membership.ca_pem) == Some(authority),
        "the kubeconfig is for {}, which is not the cluster of the node {name}",
        server.url()
    );
    let nodes: Api<Node> = Api::all(server.client.clone());
    let node = existing_object(nodes.get(name).await).map_err(|error| server.explain(error))?;
    if let Some(node) = &node {
        let drain = PodDrain {
            node: name,
            data,
            force: arguments.force,
            timeout: Duration::from_secs(arguments.timeout.into()),
        };
        drain.run(&server).await?;
        block_in_place(|| stop_agent(data))?;
        let uid = node
            .metadata
            .object_uid()
            .map_err(kube_api_client::Error::from);
        let deleted = match uid {
            Ok(uid) => delete(&nodes, name, Delete::of_uid(uid)).await,
            Err(error) => Err(error),
        };
        deleted.map_err(|error| server.explain(error))?;
        print_line(&format!("node {name} deleted"));
    } else {
        print_line(&format!("node {name} is deleted already"));
        block_in_place(|| stop_agent(data))?;
    }
    block_in_place(|| forget(data))?;
    let displayed = data.display();
    print_line(&format!(
        "mainstay: {name} has left the cluster. `mainstay node` with --server and --token joins again; \
         `mainstay down --all --data-dir {displayed}` deletes what is left in {displayed}"
    ));
    Ok(())
}

/// Reads the stored membership. Fails while an agent runs, because the agent has the lock of the data
/// directory.
fn stored_membership(data: &Path) -> Result<Membership> {
    let stored = Membership::read(&data.join("node"))?;
    stored.with_context(|| format!("no machine has joined a cluster with {}", data.display()))
}

/// Stops the agent and the remaining pods, which are those of DaemonSets.
fn stop_agent(data: &Path) -> Result<()> {
    match process::serving(data) {
        Some(agent) => Ok(instance_removal::stop(agent, data)?),
        None => Ok(()),
    }
}

/// Deletes the membership and the reserved ranges of pods from the data directory.
fn forget(data: &Path) -> Result<()> {
    data_directory::make(data)?;
    MembershipStore::open(data)?.forget()?;
    Ok(forget_network(data)?)
}
