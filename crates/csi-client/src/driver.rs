//! The calls of a node to the services of a driver.

use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use rpc_channel::Method;
use service_protocols::csi_v1::{
    GetPluginInfoRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest,
    NodeGetVolumeStatsRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, identity,
    node,
};

use crate::CsiError;
use crate::connection::call;
use crate::messages::{
    ExpandRequest, NodeCapabilities, NodeInfo, PluginInfo, PublishRequest, StageRequest,
    VolumeStats,
};

/// Time limit of a call that changes a volume; kubelet's value.
const VOLUME_CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Time limit of a call that changes nothing.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum length of the names of drivers and nodes, from the specification.
const NAME_BYTES_MAX: usize = 63;
const NODE_ID_BYTES_MAX: usize = 256;

/// A driver on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The driver's name, for instance `hostpath.csi.k8s.io`.
    pub name: String,
    /// The path of its Unix socket.
    pub socket: PathBuf,
}

impl Driver {
    async fn ask<Q: Message, A: Message + Default>(
        &self,
        method: Method<Q, A>,
        request: &Q,
    ) -> Result<A, CsiError> {
        call(&self.socket, method, request, QUESTION_TIMEOUT).await
    }

    /// The response is not used, but it must be a valid message: a driver that sends another text may have done nothing.
    async fn work<Q: Message, A: Message + Default>(
        &self,
        method: Method<Q, A>,
        request: &Q,
    ) -> Result<(), CsiError> {
        let response = call(&self.socket, method, request, VOLUME_CALL_TIMEOUT);
        response.await.map(drop)
    }

    /// The name and the version of the driver.
    pub async fn info(&self) -> Result<PluginInfo, CsiError> {
        let method = identity::GET_PLUGIN_INFO;
        let info = self.ask(method, &GetPluginInfoRequest {}).await?;
        let info = PluginInfo::from(info);
        let reason = match info.name.len() {
            0 => "a driver without a name",
            n if n > NAME_BYTES_MAX => "a name of more than 63 bytes",
            _ => return Ok(info),
        };
        let (method, reason) = (method.path(), reason.to_owned());
        Err(CsiError::Invalid { method, reason })
    }

    /// The id and the topology of this node at the driver.
    ///
    /// # Errors
    /// The call fails, or the response has no id of the node.
    pub async fn node_info(&self) -> Result<NodeInfo, CsiError> {
        let method = node::NODE_GET_INFO;
        let info = self.ask(method, &NodeGetInfoRequest {}).await?;
        let info = NodeInfo::from(info);
        let reason = match info.node_id.len() {
            0 => "a node without an id",
            n if n > NODE_ID_BYTES_MAX => "an id of the node of more than 256 bytes",
            _ => return Ok(info),
        };
        let (method, reason) = (method.path(), reason.to_owned());
        Err(CsiError::Invalid { method, reason })
    }

    /// The optional calls that the driver supports.
    pub async fn node_capabilities(&self) -> Result<NodeCapabilities, CsiError> {
        let request = NodeGetCapabilitiesRequest {};
        let capabilities = self.ask(node::NODE_GET_CAPABILITIES, &request);
        capabilities.await.map(Into::into)
    }

    /// Prepares a volume on the node, for all pods. May be repeated.
    pub async fn stage(&self, stage: &StageRequest) -> Result<(), CsiError> {
        self.work(node::NODE_STAGE_VOLUME, &stage.into()).await
    }

    /// The reverse of [`Driver::stage`]. May be repeated.
    pub async fn unstage(&self, volume_id: &str, staging_path: &str) -> Result<(), CsiError> {
        let request = NodeUnstageVolumeRequest {
            volume_id: volume_id.to_owned(),
            staging_target_path: staging_path.to_owned(),
        };
        self.work(node::NODE_UNSTAGE_VOLUME, &request).await
    }

    /// Mounts a volume for a pod. May be repeated.
    pub async fn publish(&self, publication: &PublishRequest) -> Result<(), CsiError> {
        self.work(node::NODE_PUBLISH_VOLUME, &publication.into())
            .await
    }

    /// The reverse of [`Driver::publish`]. May be repeated.
    pub async fn unpublish(&self, volume_id: &str, target_path: &str) -> Result<(), CsiError> {
        let request = NodeUnpublishVolumeRequest {
            volume_id: volume_id.to_owned(),
            target_path: target_path.to_owned(),
        };
        self.work(node::NODE_UNPUBLISH_VOLUME, &request).await
    }

    /// Grows the file system of a published volume to the volume's new capacity. May be repeated.
    pub async fn expand(&self, expansion: &ExpandRequest) -> Result<(), CsiError> {
        self.work(node::NODE_EXPAND_VOLUME, &expansion.into()).await
    }

    /// The usage and the condition of a published volume.
    pub async fn stats(
        &self,
        volume_id: &str,
        path: &str,
        staging_path: Option<&str>,
    ) -> Result<VolumeStats, CsiError> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: volume_id.to_owned(),
            volume_path: path.to_owned(),
            staging_target_path: staging_path.unwrap_or_default().to_owned(),
        };
        let stats = self.ask(node::NODE_GET_VOLUME_STATS, &request);
        stats.await.map(Into::into)
    }
}
