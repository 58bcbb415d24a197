//! Errors of calls to the runtime.

use std::path::PathBuf;

use host_kernel::Interrupted;

use crate::spec::{StartError, StartErrorKind};

pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The request is invalid: nothing has changed, and a retry is useless.
    #[error("invalid {what}: {reason}")]
    Invalid {
        /// The invalid field or argument.
        what: String,
        reason: String,
    },
    /// A living sandbox with this id has another specification.
    #[error("sandbox {id} already exists with a different specification")]
    SandboxExists {
        /// The id of the sandbox.
        id: String,
    },
    /// The sandbox's shim has exited; only `destroy` is possible.
    #[error("sandbox {id} is dead")]
    SandboxDead {
        /// The id of the sandbox.
        id: String,
    },
    /// The sandbox's shim runs but does not respond, because it is stopped or waits for a disk. Only
    /// `destroy`, and `signal` with `SIGKILL`, work without a response.
    #[error("the shim of sandbox {id} does not answer (waited {seconds} s)")]
    ShimSilent {
        /// The id of the sandbox.
        id: String,
        /// The time without a response, in seconds.
        seconds: u64,
    },
    /// The sandbox has no container with this id.
    #[error("no container {container} in sandbox {sandbox}")]
    NoSuchContainer { sandbox: String, container: String },
    /// The state of the container does not allow the call.
    #[error("container {container} is {state}")]
    WrongState {
        container: String,
        /// The present state: `created`, `running` or `exited`.
        state: String,
    },
    /// A container or command could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// An internal error of the shim.
    #[error("{0}")]
    Shim(String),
    /// No range of user ids is free.
    #[error("no range of user ids of the node is free for the pod (hostUsers: false)")]
    NoIds,
    /// The shim process ended before it was ready.
    #[error("start the sandbox's shim: {0}")]
    ShimStart(String),
    /// An operation on a file or a socket has failed.
    #[error("{doing} {}: {cause}", path.display())]
    Io {
        /// The failed operation.
        doing: &'static str,
        /// The path of the operation.
        path: PathBuf,
        /// The cause. The message of the error contains the cause, because events and statuses contain only
        /// the message.
        cause: std::io::Error,
    },
    /// The shim has sent a message that this version cannot decode.
    #[error("talk to the shim of sandbox {id}: {reason}")]
    Protocol {
        /// The id of the sandbox.
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
    /// Whether the command is missing or not executable, so that a retry is useless.
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
