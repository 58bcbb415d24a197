use std::error::Error;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use data_directory::left_pods::{self, LeftPod};

type Cause = Box<dyn Error + Send + Sync>;

/// The reason why an instance is not stopped, or its data is not deleted.
#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    #[error("{step}")]
    Step {
        /// The failed step, with the path of the file or the name of the pod.
        step: String,
        source: Cause,
    },
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

/// Adds the failed step to an error of another part.
pub(crate) trait Context<T> {
    fn context(self, step: &str) -> Result<T>;

    fn with_context<S: Display>(self, step: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Cause>> Context<T> for std::result::Result<T, E> {
    fn context(self, step: &str) -> Result<T> {
        self.with_context(|| step)
    }

    fn with_context<S: Display>(self, step: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| RemovalError::Step {
            step: step().to_string(),
            source: error.into(),
        })
    }
}
