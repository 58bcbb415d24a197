//! Errors of the preparation of volumes, in the form for events and statuses.

use std::io;
use std::path::PathBuf;

use host_kernel::Interrupted;
use object_model::IncompleteMetadata;

use super::block::DeviceError;
use super::empty_dir::EmptyDirError;
use super::host_path::HostPathError;
use super::local_device::LocalDeviceError;
use super::nfs::NfsVolumeError;
use super::one_pod::OnePodError;
use super::payload::PayloadError;
use super::rbd::RbdVolumeError;
use crate::api::object_error::ApiObjectError;
use crate::csi_volumes::CsiVolumeError;

/// The reason why a volume is not available now.
#[derive(Debug, thiserror::Error)]
#[error("{} failed for volume \"{volume}\" : {}", error.operation(), error.cause)]
pub struct VolumeError {
    /// The volume's name in the pod's specification.
    pub volume: String,
    pub error: VolumeSetupError,
}

/// The error of preparing a volume.
#[derive(Debug)]
pub struct VolumeSetupError {
    /// Whether the volume is a block device.
    pub(super) block: bool,
    pub(super) cause: VolumeSetupCause,
}

impl VolumeSetupError {
    /// The error of a block volume.
    pub(super) fn of_block(cause: impl Into<VolumeSetupCause>) -> Self {
        Self {
            block: true,
            cause: cause.into(),
        }
    }

    fn operation(&self) -> &'static str {
        match self.block {
            true => "MapVolume.MapBlockVolume",
            false => "MountVolume.SetUp",
        }
    }

    /// The reason for the pod's event.
    pub fn reason(&self) -> &'static str {
        match self.block {
            true => "FailedMapVolume",
            false => "FailedMount",
        }
    }
}

impl<E: Into<VolumeSetupCause>> From<E> for VolumeSetupError {
    fn from(cause: E) -> Self {
        Self {
            block: false,
            cause: cause.into(),
        }
    }
}

/// The failed step of a preparation.
#[derive(Debug, thiserror::Error)]
pub enum VolumeSetupCause {
    /// The API server has rejected a request, or did not respond.
    #[error(transparent)]
    Api(#[from] ApiObjectError),
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
    #[error("this type of volume is not supported on this node")]
    Unsupported,
    /// Another node is the primary node of the replicated volume.
    #[error("{0}")]
    NotPrimary(String),
    /// A container mounts a block volume, or uses a file system as a device.
    #[error(transparent)]
    Mode(#[from] VolumeModeMismatch),
    #[error("{reason}: {message}")]
    Image {
        reason: &'static str,
        message: String,
    },
    #[error("attach {}: {source}", image.display())]
    Attach { image: PathBuf, source: io::Error },
    #[error("path \"{}\" does not exist", .0.display())]
    PathNotFound(PathBuf),
    #[error("apply fsGroup: {0}")]
    FsGroup(io::Error),
    #[error("read the project id of {}: {source}", path.display())]
    ProjectId { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    EmptyDir(#[from] EmptyDirError),
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    #[error(transparent)]
    Nfs(#[from] NfsVolumeError),
    #[error(transparent)]
    Rbd(#[from] RbdVolumeError),
    #[error(transparent)]
    LocalDevice(#[from] LocalDeviceError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    OnePod(#[from] OnePodError),
    #[error(transparent)]
    Csi(#[from] CsiVolumeError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The use of a volume does not match its `volumeMode`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeModeMismatch {
    #[error("volume {0} has volumeMode Block, but is specified in volumeMounts")]
    MountOfBlock(String),
    #[error("volume {0} has volumeMode Filesystem, but is specified in volumeDevices")]
    DeviceOfFilesystem(String),
}
