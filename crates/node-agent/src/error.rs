//! The error of an agent that cannot start or go on.

/// An agent that cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container runtime does not open.
    #[error("open the container runtime")]
    Runtime(#[source] container_runtime::RuntimeError),
    /// A directory of the agent cannot be made or read.
    #[error("use the directory {}", path.display())]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The node object cannot be written.
    #[error("register node {node}")]
    Register {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        source: Box<api_client::Error>,
    },
}
