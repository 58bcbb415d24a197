//! Errors of the volumes of CSI drivers. The texts are in events and statuses.

use std::io;
use std::path::PathBuf;

use csi_client::CsiError;
use host_kernel::Interrupted;
use nix::errno::Errno;
use object_model::{IncompleteMetadata, ObjectKey};

use super::records::RecordError;
use crate::api::object_error::{ApiObjectError, RequestError};

/// The reason why a volume is not published, released or expanded now.
#[derive(Debug, thiserror::Error)]
pub enum CsiVolumeError {
    /// The text is kubelet's.
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NotRegistered(String),
    /// The CSIDriver object does not permit the volume's life cycle.
    #[error("volume mode {mode:?} not supported by driver {driver} (only supports {supported:?})")]
    LifeCycle {
        mode: &'static str,
        driver: String,
        supported: Vec<String>,
    },
    /// The text is kubelet's.
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    InUse,
    #[error("volume {volume} is not attached to this node: {message}")]
    NotAttached {
        volume: String,
        /// The error of the attacher.
        message: String,
    },
    #[error("timed out waiting for volume {0} to be attached to this node")]
    AttachTimeout(String),
    #[error("secret \"{0}\" not found")]
    SecretNotFound(ObjectKey),
    #[error("secret \"{secret}\": {key} is no text")]
    SecretNotText { secret: ObjectKey, key: String },
    /// The API server has rejected a request, or did not respond.
    #[error(transparent)]
    Api(#[from] ApiObjectError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
    #[error("MountDevice failed: {0}")]
    Stage(CsiError),
    #[error(transparent)]
    Publish(CsiError),
    #[error("UnmountVolume.TearDown failed: {0}")]
    Unpublish(ReverseCallError),
    #[error("UnmountDevice failed: {0}")]
    Unstage(ReverseCallError),
    #[error(transparent)]
    Unmount(#[from] UnmountError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("read the records of volumes: {0}")]
    Records(io::Error),
    #[error("read {}: {source}", path.display())]
    Pods { path: PathBuf, source: io::Error },
    #[error("make the drivers' directory: {0}")]
    KubeletDir(io::Error),
    #[error("make {}: {source}", path.display())]
    CreateDir { path: PathBuf, source: io::Error },
    #[error("the driver has published the volume, and there is no device at {}", .0.display())]
    NoDevice(PathBuf),
    /// The text of the event about the failed expansion.
    #[error("{0}")]
    Expand(String),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The failure of a call that reverts another call.
#[derive(Debug, thiserror::Error)]
pub enum ReverseCallError {
    #[error(transparent)]
    Driver(CsiError),
    /// The driver does not know the volume, and the node cannot unmount it.
    #[error(transparent)]
    Unmount(#[from] UnmountError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

#[derive(Debug, thiserror::Error)]
#[error("unmount {}: {errno}", path.display())]
pub struct UnmountError {
    pub path: PathBuf,
    pub errno: Errno,
}
