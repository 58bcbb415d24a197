//! Errors of the preparation of volumes, in the form for events and statuses.

/// The reason why a volume is not available now.
#[derive(Debug, thiserror::Error)]
#[error("{} failed for volume \"{volume}\" : {}", error.operation(), error.message)]
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
    pub(super) message: String,
}

impl VolumeSetupError {
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

impl From<String> for VolumeSetupError {
    fn from(message: String) -> Self {
        Self {
            block: false,
            message,
        }
    }
}
