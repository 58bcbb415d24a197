//! Errors between the node agent and its sandboxes.

use std::path::PathBuf;

use host_kernel::Interrupted;

use crate::spec::{StartError, StartErrorKind};

/// Result of the runtime's calls.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// An error of the container runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The request itself is invalid: nothing was changed, and a retry is useless.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The field or argument.
        what: String,
        reason: String,
    },
    /// A live sandbox of that id exists with another specification.
    #[error("sandbox {id} already exists with a different specification")]
    SandboxExists {
        /// The sandbox.
        id: String,
    },
    /// The sandbox's shim has ended; only `destroy` is possible.
    #[error("sandbox {id} is dead")]
    SandboxDead {
        /// The sandbox.
        id: String,
    },
    /// The sandbox's shim runs but does not respond: it is stopped, or waits for a disk. Only `destroy`, and
    /// `signal` with `SIGKILL`, work without it.
    #[error("the shim of sandbox {id} does not answer (waited {seconds} s)")]
    ShimSilent {
        /// The sandbox.
        id: String,
        /// The time waited for a response, in seconds.
        seconds: u64,
    },
    /// No such container in the sandbox.
    #[error("no container {container} in sandbox {sandbox}")]
    NoSuchContainer { sandbox: String, container: String },
    /// The container is not in the state that the call needs.
    #[error("container {container} is {state}")]
    WrongState {
        container: String,
        /// Its state: `created`, `running`, `exited`.
        state: String,
    },
    /// A container or command could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An error of the shim itself.
    #[error("{0}")]
    Shim(String),
    /// No range of user ids is free.
    #[error("no range of user ids of the node is free for the pod (hostUsers: false)")]
    NoIds,
    /// The shim process ended before it was ready.
    #[error("start the sandbox's shim: {0}")]
    ShimStart(String),
    /// A file or socket of the runtime.
    #[error("{doing} {}: {cause}", path.display())]
    Io {
        /// The failed operation.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// The cause, which the message has: events and statuses show the message alone.
        cause: std::io::Error,
    },
    /// The shim sent a message that this version cannot decode.
    #[error("talk to the shim of sandbox {id}: {reason}")]
    Protocol {
        /// The sandbox.
        id: String,
        /// The deviation from the protocol.
        reason: String,
    },
}

impl From<Interrupted> for RuntimeError {
    fn from(error: Interrupted) -> Self {
        Self::Shim(format!("clean-up did not end: {error}"))
    }
}

impl RuntimeError {
    /// Whether the command itself is missing or not executable, so that a retry is useless.
    pub fn is_bad_command(&self) -> bool {
        matches!(
            self,
            RuntimeError::Start(StartError {
                kind: StartErrorKind::CommandNotFound | StartErrorKind::CommandNotExecutable,
                ..
            })
        )
    }

    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> RuntimeError {
        let path = path.into();
        move |cause| RuntimeError::Io { doing, path, cause }
    }
}
