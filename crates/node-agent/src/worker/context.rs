//! The parts of the agent that the workers of pods share.

use std::sync::{Arc, Mutex};

use api_client::Client;
use container_runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::api::objects::ApiObjects;
use crate::csi_volumes::CsiVolumes;
use crate::images::Puller;
use crate::machine::disk_figures::DiskFigures;
use crate::machine::pressure::Monitor;
use crate::node_context::NodeContext;
use crate::pods::pod_manager::PodManager;
use crate::probes::counts::ProbeCounts;

/// The parts of the agent that the workers of pods share.
pub struct WorkerContext {
    /// The settings and properties of the node.
    pub node: Arc<NodeContext>,
    /// The client of the API server.
    pub client: Client,
    /// The container runtime of the node.
    pub runtime: Runtime,
    /// The API objects that pods refer to.
    pub api_objects: Arc<ApiObjects>,
    /// Pulls the images of containers.
    pub images: Arc<Puller>,
    /// The volumes of CSI drivers.
    pub csi: Arc<CsiVolumes>,
    /// The current view of all pods.
    pub pods: Arc<PodManager>,
    /// The monitor of the node's memory and disks.
    pub monitor: Arc<Monitor>,
    /// The disk usage of pods.
    pub disk: Arc<DiskFigures>,
    /// Counts of probe results by container.
    pub probes: Arc<ProbeCounts>,
    /// Held during an allocation: one pod at a time gets new resources.
    pub allocation: Mutex<()>,
    /// Held to read while a sandbox that ends with the node's lease is made.
    pub lease_gate: Arc<tokio::sync::RwLock<()>>,
    /// Ends all workers at once, without stopping the pods.
    pub abandon: CancellationToken,
}
