//! The errors of the provisioner.

use object_model::IncompleteMetadata;
use volume_storage::StorageError;

/// The error of creating or removing a volume.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionerError {
    /// The claim requests a feature that volumes of its class do not have.
    #[error("{0}")]
    Unsupported(String),
    /// The source of the volume is unavailable now.
    #[error("{0}")]
    Source(String),
    /// The disk, or the server of an export.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The API server refused or did not respond.
    #[error("write a volume or claim")]
    Api(#[from] kube_api_client::Error),
    #[error("identity of a volume, a claim or a snapshot")]
    Identity(#[from] IncompleteMetadata),
}
