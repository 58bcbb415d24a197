use std::sync::{Arc, Mutex};

use container_runtime::Runtime;
use kube_api_client::Client;
use tokio_util::sync::CancellationToken;

use crate::api::objects::ApiObjects;
use crate::csi_volumes::CsiVolumes;
use crate::devices::NodeDevices;
use crate::images::Puller;
use crate::machine::disk_figures::DiskFigures;
use crate::machine::pressure::Monitor;
use crate::node_context::NodeContext;
use crate::pods::pod_manager::PodManager;
use crate::probes::counts::ProbeCounts;

/// The parts of the agent that all pod workers share.
pub struct WorkerContext {
    pub node: Arc<NodeContext>,
    pub client: Client,
    pub runtime: Runtime,
    /// The API objects that pods refer to.
    pub api_objects: Arc<ApiObjects>,
    /// Pulls the images of containers.
    pub images: Arc<Puller>,
    pub csi: Arc<CsiVolumes>,
    /// The devices of plugins and of claims.
    pub devices: NodeDevices,
    pub pods: Arc<PodManager>,
    pub monitor: Arc<Monitor>,
    pub disk: Arc<DiskFigures>,
    pub probes: Arc<ProbeCounts>,
    /// Locked during an allocation, so that only one pod at a time gets new resources.
    pub allocation: Mutex<()>,
    /// Read-locked while a sandbox that stops with the node's Lease is created.
    pub lease_gate: Arc<tokio::sync::RwLock<()>>,
    /// Stops all workers at once. The pods continue to run.
    pub abandon: CancellationToken,
}
