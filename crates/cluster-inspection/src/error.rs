use std::error::Error;

use diagnosis::connection::NoAnswer;

/// The reason why there is no result, in words for the user.
#[derive(Debug, thiserror::Error)]
pub enum InspectionError {
    /// A kubeconfig cannot be used.
    #[error("{step}")]
    Kubeconfig {
        /// The failed step, with the path of the file.
        step: String,
        /// Of the disk, of the decoder, or of the transport.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The message has the paths at which a kubeconfig may be.
    #[error("{0}")]
    NoKubeconfig(String),
    /// The server refuses or does not respond. The message has the address of the server and the remedy.
    #[error("{0}")]
    Server(String),
    /// The message has the names of objects that exist.
    #[error("{0}")]
    NotFound(String),
    /// A connection leads to no server.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
}

impl InspectionError {
    /// Adds the failed step to an error about a kubeconfig.
    pub(crate) fn at<E: Error + Send + Sync + 'static>(
        step: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let step = step.into();
        move |error| Self::Kubeconfig {
            step,
            source: Box::new(error),
        }
    }
}
