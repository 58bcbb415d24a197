use container_runtime::spec::ID_MAX;
use thiserror::Error;

/// An error in the pod's specification, as a message for users.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error("user or group {0}: uids and gids must be between 0 and {max}", max = ID_MAX)]
    IdOutOfRange(i64),
    #[error("{risk} (pod: \"{pod}\", container: {container})")]
    MayBeRoot {
        risk: RootRisk,
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

/// The reason why the user of a container may be root.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RootRisk {
    #[error("container's runAsUser breaks non-root policy")]
    RunAsUser,
    #[error(
        "container has runAsNonRoot and image will run as user {0}, which is none: uids must be between 0 and {max}",
        max = ID_MAX
    )]
    ImageUserOutOfRange(u32),
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root"
    )]
    ImageUserNotNumeric(String),
    #[error("container has runAsNonRoot and image will run as root")]
    ImageUser,
}
