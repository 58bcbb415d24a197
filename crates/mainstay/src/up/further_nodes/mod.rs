//! The further nodes of `up --nodes`: each is a process in a separate network namespace, with a data
//! directory below that of the cluster.

mod process;
mod resolver;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args as _, Command};
use command_output::output::{print_line, warn};
use data_directory::{FURTHER_NODES, NAMESPACES};
use host_kernel::durable_file::{self, Durability};
use host_kernel::{block_in_place, blocking_value};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube_api_client::{Api, Client};
use node_agent::OnShutdown;
use pod_network::{NodeSwitch, SwitchedNode};
use resource_kinds::node_conditions;
use tokio::time::Instant;

use super::settings::{Settings, UpArguments};
use crate::node_parts;
use crate::token::Token;
use process::{NodeProcess, NodeStart};

/// Lifetime of the token with which the nodes join at their first start.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_mins(30);
/// Timeout of the wait for the nodes; the cluster then continues without the missing nodes.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// The time after which a message says that the program waits for nodes.
const SILENCE: Duration = Duration::from_secs(10);
/// The interval between two checks of the nodes.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The name of a node: the host's name, with the number of the node on the machine.
pub fn name(host: &str, number: usize) -> String {
    format!("{host}-{number}")
}

/// The inputs of the further nodes on this machine.
pub struct NodeInputs<'a> {
    pub settings: &'a Settings,
    /// The id of the instance; names in the kernel contain it.
    pub instance_id: &'a str,
    /// The virtual switch that connects the nodes.
    pub switch: &'a NodeSwitch,
    /// The URL of the API server on the switch.
    pub server: String,
    /// The certificate of the cluster's authority, in PEM.
    pub ca_pem: &'a str,
}

/// The running processes of the nodes.
#[derive(Default)]
pub struct FurtherNodes {
    processes: Vec<NodeProcess>,
    instance_id: String,
    namespaces: PathBuf,
}

impl FurtherNodes {
    /// Starts the nodes, and waits until they are ready.
    ///
    /// # Errors
    /// The API or the disk fails, or there is no thread for a node.
    pub async fn start(inputs: NodeInputs<'_>, client: &Client) -> Result<Self> {
        let nodes = inputs.switch.nodes();
        let directory = inputs.settings.data_dir.join(FURTHER_NODES);
        let token_file = directory.join("token");
        let joining = block_in_place(|| joining(&inputs, &directory));
        if !joining.is_empty() {
            let token = token(inputs.ca_pem, client).await?;
            block_in_place(|| write_token(&token_file, &token))?;
        }
        let processes: Result<Vec<NodeProcess>> = block_in_place(|| {
            let starts = prepare(&inputs, &directory, &joining, &token_file)?;
            starts.into_iter().map(NodeProcess::launch).collect()
        });
        let further = Self {
            processes: processes?,
            instance_id: inputs.instance_id.to_owned(),
            namespaces: inputs.settings.data_dir.join(NAMESPACES),
        };
        if wait_ready(nodes, client, &directory).await? && !joining.is_empty() {
            let removed = block_in_place(|| fs::remove_file(&token_file));
            removed.with_context(|| format!("remove {}", token_file.display()))?;
        }
        Ok(further)
    }

    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Stops the nodes with their pods, or leaves the pods running.
    ///
    /// # Errors
    /// The switch cannot be removed.
    pub async fn stop(self, pods: OnShutdown) -> Result<()> {
        if self.processes.is_empty() {
            return Ok(());
        }
        for process in &self.processes {
            process.stop(pods);
        }
        let processes = self.processes;
        let wait = move || processes.into_iter().for_each(NodeProcess::wait);
        blocking_value(wait).await.context("wait for the nodes")?;
        match pods {
            OnShutdown::LeavePods => Ok(()),
            OnShutdown::StopPods => NodeSwitch::remove(&self.instance_id, &self.namespaces)
                .await
                .context("remove the switch of the nodes"),
        }
    }
}

/// A token for nodes that have not joined yet.
async fn token(ca_pem: &str, client: &Client) -> Result<String> {
    let hash = certificates::KeyHash::of_pem(ca_pem).context("read the authority")?;
    let token = Token::new(Some(TOKEN_LIFE), Some("nodes of this machine"))?;
    let created = token.create(client).await;
    created.context("make a token for the nodes")?;
    Ok(token.to_join_with(hash))
}

/// The data directory of a further node; `index` counts from 0.
fn data_of(directory: &Path, index: usize) -> PathBuf {
    directory.join((index + 2).to_string())
}

/// The names of the nodes without a membership, which have to join.
fn joining(inputs: &NodeInputs<'_>, directory: &Path) -> BTreeSet<String> {
    let now = Timestamp::now();
    let nodes = inputs.switch.nodes().iter().enumerate();
    nodes
        .filter(|(index, _)| !node_membership::has_joined(&data_of(directory, *index), now))
        .map(|(_, node)| node.name.clone())
        .collect()
}

fn write_token(file: &Path, token: &str) -> Result<()> {
    data_directory::make_private(file.parent().unwrap_or(file))?;
    durable_file::replace(file, token.as_bytes(), 0o600, Durability::PageCache)
        .with_context(|| format!("write {}", file.display()))
}

/// Makes the directories and files of the nodes.
fn prepare(
    inputs: &NodeInputs<'_>,
    directory: &Path,
    joining: &BTreeSet<String>,
    token_file: &Path,
) -> Result<Vec<NodeStart>> {
    let resolv_conf = resolver::for_namespaces();
    // The running program, even if its file has been replaced.
    let program = PathBuf::from("/proc/self/exe");
    let flags = machine_flags(inputs.settings);
    let mut starts = Vec::new();
    data_directory::make_private(directory)?;
    for (index, node) in inputs.switch.nodes().iter().enumerate() {
        let data = data_of(directory, index);
        data_directory::make_private(&data)?;
        let mut arguments = vec![OsString::from("node")];
        for (flag, value) in [
            ("--data-dir", data.clone().into_os_string()),
            ("--server", inputs.server.clone().into()),
            ("--node-name", node.name.clone().into()),
            ("--node-ip", node.address.to_string().into()),
            ("--resolv-conf", resolv_conf.as_os_str().to_owned()),
            ("--on-stop", "leave-pods".into()),
            ("--parent", std::process::id().to_string().into()),
        ] {
            arguments.extend([flag.into(), value]);
        }
        arguments.extend(flags.iter().cloned());
        starts.push(NodeStart {
            name: node.name.clone(),
            namespace: node.namespace.clone(),
            program: program.clone(),
            arguments,
            token_file: joining.contains(&node.name).then(|| token_file.to_owned()),
            log: data.join("log"),
        });
    }
    Ok(starts)
}

/// The settings of pods and of the machine, as flags.
fn machine_flags(settings: &Settings) -> Vec<OsString> {
    // The first argument of the program is `up`.
    let line = UpArguments::augment_args(Command::new("up"));
    let line = line.try_get_matches_from(std::env::args_os().skip(1)).ok();
    let mut flags = line
        .as_ref()
        .map(node_parts::passed_flags)
        .unwrap_or_default();
    let mut add = |flag: &str, path: &Path| {
        flags.extend([flag.into(), path.as_os_str().to_owned()]);
    };
    if let Some(config) = &settings.config {
        add("--config", config);
    }
    let (registries, is_named) = &settings.machine.registries;
    if !is_named && registries.exists() {
        add("--registries", registries);
    }
    flags
}

/// Waits until the nodes are ready, before manifests are applied: the scheduler then spreads the pods over
/// all nodes. Returns whether all nodes are ready.
async fn wait_ready(nodes: &[SwitchedNode], client: &Client, directory: &Path) -> Result<bool> {
    let objects: Api<Node> = Api::all(client.clone());
    let started = Instant::now();
    let mut is_reported = false;
    for node in nodes {
        loop {
            let object = objects.get_opt(&node.name).await;
            if object
                .context("list the nodes")?
                .is_some_and(|node| node_conditions::is_ready(&node))
            {
                break;
            }
            if started.elapsed() > READY_TIMEOUT {
                warn(&format!(
                    "mainstay: node {} is not ready after {READY_TIMEOUT:?}; the logs of the nodes are \
                     {}/*/log",
                    node.name,
                    directory.display()
                ));
                return Ok(false);
            }
            if started.elapsed() > SILENCE && !is_reported {
                is_reported = true;
                print_line(&format!(
                    "mainstay: waiting for node {}; the logs of the nodes are {}/*/log",
                    node.name,
                    directory.display()
                ));
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }
    Ok(true)
}
