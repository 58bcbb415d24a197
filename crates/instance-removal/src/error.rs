use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use command_output::failed_step::FailedStep;
use data_directory::left_pods::{self, LeftPod};

type Cause = Box<dyn Error + Send + Sync>;

/// The reason why an instance is not stopped, or its data is not deleted.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    #[error(transparent)]
    Step(#[from] FailedStep),
    #[error(
        "process {pid} has not stopped after {waited:?}; {} left: {}",
        left_pods::counted(.pods.len()), left_pods::listed(.pods)
    )]
    NotStopped {
        pid: i32,
        waited: Duration,
        pods: Vec<LeftPod>,
    },
    #[error(
        "{} is a mount point inside the data to be deleted; unmount it first",
        .0.display()
    )]
    Mounted(PathBuf),
    #[error(transparent)]
    Network(#[from] pod_network::Error),
    /// The marker of the data directory cannot be written.
    #[error(transparent)]
    Marker(Cause),
}

pub(crate) type Result<T> = std::result::Result<T, RemovalError>;
