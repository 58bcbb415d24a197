use cluster_inspection::InspectionError;
use object_model::IncompleteMetadata;

/// The reason why a node is not drained, in words for its user.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The server refuses or does not respond.
    #[error(transparent)]
    Server(#[from] InspectionError),
    #[error("identity of a pod")]
    Identity(#[from] IncompleteMetadata),
    /// The state of the cluster does not allow the request.
    #[error("{0}")]
    Refused(String),
    /// The move ended without the volume on the other node.
    #[error("the volume was not moved: {0}")]
    NotMoved(String),
    /// No node can get volumes.
    #[error("no other node is ready and takes pods")]
    NoDestination,
    /// A volume cannot be moved, so no volume was.
    #[error("nothing was moved; --force moves the volumes that can be moved")]
    NothingMoved,
    /// The number of volumes that cannot be moved, and their node.
    #[error("{0} volumes are left on {1}")]
    VolumesLeft(usize, String),
    /// The pods and the data that would be lost; one sentence for each.
    #[error("nothing was changed, because of what would be lost:\n  {}\n`--force` leaves nevertheless", .0.join("\n  "))]
    Losses(Vec<String>),
}
