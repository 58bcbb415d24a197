//! The node in the process of the API server, in a cluster with several nodes; and the kubelet API of that
//! node, in every cluster.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use certificates::Authority;
use control_plane::cluster_ranges::ClusterRanges;
use control_plane::{LocalNode, Server};
use image_store::ImageStore;
use node_agent::{KubeletApi, NewNode, ServingCertificate};
use service_proxy::SwitchLink;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::node_parts::member::{Member, RunningMember};
use crate::node_parts::{Clients, MachineSettings, RESOLV_CONF};

/// The age at which a serving certificate is replaced. Short, because the authority in this process issues
/// another at no cost.
const CERTIFICATE_AGE: Duration = Duration::from_secs(24 * 3600);

/// The kubelet API of the node in the process of the API server, on the network as that of other nodes. The
/// certificate is issued again when the node's address changes.
///
/// # Errors
/// The authority issues no certificate.
pub fn kubelet_api(
    server: &Server,
    node_name: &str,
    listen: SocketAddr,
    mut address: watch::Receiver<IpAddr>,
) -> Result<KubeletApi> {
    let authority = Arc::clone(&server.authority);
    let node_name = node_name.to_owned();
    let first = *address.borrow_and_update();
    let first = serving(&authority, &node_name, first)
        .context("make the certificate of the kubelet API")?;
    let (published, certificate) = watch::channel(Some(first));
    // Ends with the agent, which owns the receiver.
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = published.closed() => return,
                Ok(()) = address.changed() => {}
                () = tokio::time::sleep(CERTIFICATE_AGE) => {}
            }
            let now = *address.borrow_and_update();
            match serving(&authority, &node_name, now) {
                Ok(next) => drop(published.send_replace(Some(next))),
                Err(error) => {
                    tracing::error!(
                        "the certificate of the kubelet API is not replaced: {error:#}"
                    );
                }
            }
        }
    });
    Ok(KubeletApi {
        listen,
        client_ca_pem: server.ca_pem.clone(),
        certificate,
        is_needed: false,
    })
}

fn serving(authority: &Authority, node: &str, address: IpAddr) -> Result<ServingCertificate> {
    let issued = authority.node_server(node, address)?;
    Ok(ServingCertificate::of_pem(
        issued.certificate_pem(),
        issued.key_pem(),
    )?)
}

pub struct LocalMember<'a> {
    pub data_dir: &'a Path,
    /// The id of the instance; names in the kernel contain it.
    pub instance_id: &'a str,
    pub machine: &'a MachineSettings,
    pub cluster: ClusterRanges,
    /// The address of the node; the agent publishes its changes.
    pub node_ip: watch::Receiver<IpAddr>,
    pub images: ImageStore,
    /// The switch that connects the further nodes on this machine.
    pub switch: Option<SwitchLink>,
    /// The name of the node, and the in-process connection of the API server to it.
    pub local: &'a LocalNode,
}

impl LocalMember<'_> {
    /// Registers the node, starts its parts, and connects the API server to it.
    ///
    /// # Errors
    /// The cluster has no free range for its pods, or a part does not start.
    pub async fn start(self, server: &Server, failed: &CancellationToken) -> Result<RunningMember> {
        let name = self.local.name();
        let clients = Clients::in_process(name, |user, groups| server.client(user, groups));
        let node = NewNode {
            name: name.to_owned(),
            ..NewNode::default()
        };
        let registered = node.register(&clients.agent).await;
        let registered = registered.context("register the node of this machine")?;
        let pods = node_membership::pod_range(&registered, &self.cluster)?;
        let listen = self.machine.kubelet_address();
        let kubelet_api = kubelet_api(server, name, listen, self.node_ip.clone())?;
        let member = Member {
            data_dir: self.data_dir,
            instance_id: self.instance_id,
            machine: self.machine,
            node,
            cluster: self.cluster,
            node_ip: self.node_ip,
            kubelet_api: Some(kubelet_api),
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
