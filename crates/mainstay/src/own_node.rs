//! The node in the process of the API server, in a cluster with several nodes.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use control_plane::cluster_ranges::ClusterRanges;
use control_plane::{LocalNode, Server};
use image_store::ImageStore;
use node_agent::NewNode;
use service_proxy::SwitchLink;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::node_parts::member::{Member, RunningMember, pod_range};
use crate::node_parts::{Clients, MachineSettings, RESOLV_CONF};

/// The inputs of the node.
pub struct OwnNode<'a> {
    /// The data directory of the instance.
    pub data_dir: &'a Path,
    /// The id of the instance, which its names in the kernel contain.
    pub instance_id: &'a str,
    /// The settings of the machine.
    pub machine: &'a MachineSettings,
    /// The ranges of the cluster.
    pub cluster: ClusterRanges,
    /// The node's address, with its later changes.
    pub node_ip: watch::Receiver<IpAddr>,
    /// The image store of the node.
    pub images: ImageStore,
    /// The switch of further nodes on this machine.
    pub switch: Option<SwitchLink>,
    /// The name of the node, and the way of the API server to it.
    pub local: &'a LocalNode,
}

impl OwnNode<'_> {
    /// Registers the node, starts its parts, and lets the API server reach it.
    ///
    /// # Errors
    /// The cluster has no range for its pods, or a part does not start.
    pub async fn start(self, server: &Server, failed: &CancellationToken) -> Result<RunningMember> {
        let name = self.local.name();
        let clients = Clients::in_process(name, |user, groups| server.client(user, groups));
        let node = NewNode {
            name: name.to_owned(),
            ..NewNode::default()
        };
        let registered = node.register(&clients.agent).await;
        let registered = registered.context("register the node of this machine")?;
        let pods = pod_range(&registered, &self.cluster)?;
        let member = Member {
            data_dir: self.data_dir,
            instance_id: self.instance_id,
            machine: self.machine,
            node,
            cluster: self.cluster,
            node_ip: self.node_ip,
            kubelet_api: None,
            images: self.images,
            switch: self.switch,
            resolv_conf: RESOLV_CONF.into(),
        };
        let health = server.health();
        let member = member.start(pods, clients, &health, failed).await?;
        self.local.set(member.parts.service.clone());
        Ok(member)
    }
}
