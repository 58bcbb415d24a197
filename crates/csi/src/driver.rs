//! A driver's services, as a node calls them.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

use crate::connection::call;
use crate::messages::{
    ExpandRequest, NodeCapabilities, NodeInfo, PluginInfo, PublishRequest, StageRequest,
    VolumeStats, undo,
};
use crate::{CsiError, messages};

/// kubelet's limit of a call that works on a volume.
const VOLUME_CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Limit of a call that only asks.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest name of a driver, and of a node, by the specification.
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
    async fn ask(&self, method: &'static str) -> Result<Bytes, CsiError> {
        call(&self.socket, method, &[], QUESTION_TIMEOUT).await
    }

    async fn work(&self, method: &'static str, message: &[u8]) -> Result<(), CsiError> {
        let answer = call(&self.socket, method, message, VOLUME_CALL_TIMEOUT).await?;
        // Nothing of these answers is needed, but a driver that sends no message may have done no work.
        messages::check(&answer).map_err(|source| CsiError::Malformed { method, source })
    }

    /// Its own name and version.
    ///
    /// # Errors
    /// The driver's.
    pub async fn info(&self) -> Result<PluginInfo, CsiError> {
        let method = "/csi.v1.Identity/GetPluginInfo";
        let answer = self.ask(method).await?;
        let malformed = |source| CsiError::Malformed { method, source };
        let info = messages::PluginInfo::read(&answer).map_err(malformed)?;
        let reason = match info.name.len() {
            0 => "a driver without a name",
            n if n > NAME_BYTES_MAX => "a name of more than 63 bytes",
            _ => return Ok(info),
        };
        let reason = reason.to_owned();
        Err(CsiError::Invalid { method, reason })
    }

    /// The driver's facts about this node.
    ///
    /// # Errors
    /// The driver's; a node without a name.
    pub async fn node_info(&self) -> Result<NodeInfo, CsiError> {
        let method = "/csi.v1.Node/NodeGetInfo";
        let answer = self.ask(method).await?;
        let malformed = |source| CsiError::Malformed { method, source };
        let info = NodeInfo::read(&answer).map_err(malformed)?;
        let reason = match info.node_id.len() {
            0 => "a node without an id",
            n if n > NODE_ID_BYTES_MAX => "an id of the node of more than 256 bytes",
            _ => return Ok(info),
        };
        let reason = reason.to_owned();
        Err(CsiError::Invalid { method, reason })
    }

    /// Its optional calls.
    ///
    /// # Errors
    /// The driver's.
    pub async fn node_capabilities(&self) -> Result<NodeCapabilities, CsiError> {
        let method = "/csi.v1.Node/NodeGetCapabilities";
        let answer = self.ask(method).await?;
        let malformed = |source| CsiError::Malformed { method, source };
        NodeCapabilities::read(&answer).map_err(malformed)
    }

    /// Makes a volume ready on the node. May be repeated.
    ///
    /// # Errors
    /// The driver's.
    pub async fn stage(&self, stage: &StageRequest) -> Result<(), CsiError> {
        self.work("/csi.v1.Node/NodeStageVolume", &stage.write())
            .await
    }

    /// The reverse of [`Driver::stage`]. May be repeated.
    ///
    /// # Errors
    /// The driver's.
    pub async fn unstage(&self, volume_id: &str, staging_path: &str) -> Result<(), CsiError> {
        let message = undo(volume_id, staging_path);
        self.work("/csi.v1.Node/NodeUnstageVolume", &message).await
    }

    /// Mounts a volume for a pod. May be repeated.
    ///
    /// # Errors
    /// The driver's.
    pub async fn publish(&self, publication: &PublishRequest) -> Result<(), CsiError> {
        self.work("/csi.v1.Node/NodePublishVolume", &publication.write())
            .await
    }

    /// The reverse of [`Driver::publish`]. May be repeated.
    ///
    /// # Errors
    /// The driver's.
    pub async fn unpublish(&self, volume_id: &str, target_path: &str) -> Result<(), CsiError> {
        let message = undo(volume_id, target_path);
        self.work("/csi.v1.Node/NodeUnpublishVolume", &message)
            .await
    }

    /// Lets a published volume have the capacity that it has got. May be repeated.
    ///
    /// # Errors
    /// The driver's.
    pub async fn expand(&self, expansion: &ExpandRequest) -> Result<(), CsiError> {
        self.work("/csi.v1.Node/NodeExpandVolume", &expansion.write())
            .await
    }

    /// The usage and the state of a published volume.
    ///
    /// # Errors
    /// The driver's.
    pub async fn stats(
        &self,
        volume_id: &str,
        path: &str,
        staging_path: Option<&str>,
    ) -> Result<VolumeStats, CsiError> {
        let method = "/csi.v1.Node/NodeGetVolumeStats";
        let message = messages::stats_of(volume_id, path, staging_path);
        let answer = call(&self.socket, method, &message, QUESTION_TIMEOUT).await?;
        let malformed = |source| CsiError::Malformed { method, source };
        VolumeStats::read(&answer).map_err(malformed)
    }
}
