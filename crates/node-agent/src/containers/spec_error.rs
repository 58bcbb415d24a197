use container_runtime::spec::ID_MAX;
use thiserror::Error;

/// An error in the pod's specification, as a message for users.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error("user or group {0}: uids and gids must be between 0 and {max}", max = ID_MAX)]
    IdOutOfRange(i64),
    #[error("{reason} (pod: \"{pod}\", container: {container})")]
    MayBeRoot {
        reason: String,
        /// `name_namespace(uid)`.
        pod: String,
        container: String,
    },
    #[error("localhostProfile {0} is not below the node's profiles")]
    ProfileOutside(String),
    #[error("volume \"{0}\" is not mounted")]
    VolumeNotMounted(String),
    #[error("subPathExpr {0:?} names unknown variables")]
    UnknownVariables(String),
    #[error("subPath of volume \"{0}\" leads out of it")]
    SubPathOutside(String),
    #[error("error DevicePath `{0}` must be an absolute path")]
    RelativeDevicePath(String),
    #[error("cannot find volume {volume:?} to pass into container {container:?}")]
    DeviceNotFound { volume: String, container: String },
}
