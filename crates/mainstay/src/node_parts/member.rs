//! A node of a cluster with several nodes: its pods' range comes from its Node object.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use control_plane::cluster_ranges::ClusterRanges;
use host_kernel::{block_in_place, blocking};
use image_store::ImageStore;
use node_agent::{KubeletApi, NewNode, OnShutdown};
use pod_network::{Cidr, EncryptionOptions, PodNetwork, RequestedRanges};
use process_telemetry::Health;
use service_proxy::SwitchLink;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::network::{self, tear_down};
use super::{Clients, MachineSettings, NodeParts, Settings};

/// The inputs of a node.
pub struct Member<'a> {
    pub data_dir: &'a Path,
    /// The id of the instance; names in the kernel contain it.
    pub instance_id: &'a str,
    pub machine: &'a MachineSettings,
    /// The Node object that is created if the cluster has none with its name.
    pub node: NewNode,
    pub cluster: ClusterRanges,
    /// The address of the node; the agent publishes its changes.
    pub node_ip: watch::Receiver<IpAddr>,
    /// The kubelet API on the network.
    pub kubelet_api: Option<KubeletApi>,
    pub images: ImageStore,
    /// The switch that connects the further nodes on this machine.
    pub switch: Option<SwitchLink>,
    /// The file with name servers for names outside of the cluster.
    pub resolv_conf: PathBuf,
}

/// A node of this process whose parts run.
pub struct RunningMember {
    pub parts: NodeParts,
    network: Arc<PodNetwork>,
}

impl Member<'_> {
    /// Starts the parts of a node that is registered, with this range for its pods.
    ///
    /// # Errors
    /// The range is in use on this machine, or a part does not start.
    pub async fn start(
        self,
        pods: Cidr,
        clients: Clients,
        health: &Health,
        failed: &CancellationToken,
    ) -> Result<RunningMember> {
        let images = self.images;
        let for_builtin = images.clone();
        let builtin = blocking(move || builtin_images::put(&for_builtin));
        let requested_ranges = RequestedRanges {
            pod: pods,
            service: self.cluster.services,
            pod_fixed: true,
            service_fixed: true,
        };
        let encrypts = self.machine.pods.encrypts();
        let encryption = encrypts.then(|| EncryptionOptions::new(self.cluster.pods));
        let ranges = network::reserve(self.data_dir, self.instance_id, &requested_ranges).await?;
        let network = network::open(self.data_dir, self.instance_id, &ranges, encryption).await?;
        builtin.await.context("make the built-in images")?;
        let settings = Settings {
            data_dir: self.data_dir,
            instance_id: self.instance_id,
            node_name: self.node.name,
            ranges,
            cluster_range: self.cluster.pods,
            network: Arc::clone(&network),
            node_ip: self.node_ip,
            images,
            registries: block_in_place(|| self.machine.read_registries())?,
            pods: self.machine.pods.clone(),
            shutdown_order: self.machine.shutdown_order.clone(),
            labels: self.node.labels,
            taints: self.node.taints,
            kubelet_api: self.kubelet_api,
            switch: self.switch,
            resolv_conf: self.resolv_conf,
        };
        match NodeParts::start(settings, clients, health, failed).await {
            Ok(parts) => Ok(RunningMember { parts, network }),
            Err(error) => {
                tear_down(&network, self.data_dir).await;
                Err(error)
            }
        }
    }
}

impl RunningMember {
    pub fn of(parts: NodeParts, network: Arc<PodNetwork>) -> Self {
        Self { parts, network }
    }

    /// Stops the pods, or leaves them running, and then the parts.
    ///
    /// # Errors
    /// The network cannot be taken down.
    pub async fn stop(self, pods: OnShutdown) -> Result<()> {
        self.parts.stop(pods).await;
        let closed = self.network.close(pods == OnShutdown::StopPods).await;
        closed.context("take down the pods' network")
    }
}
