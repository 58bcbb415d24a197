//! Errors of calls.

use std::time::Duration;

/// The code of a status that is not "OK".
/// (<https://grpc.io/docs/guides/status-codes/>)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    pub const CANCELLED: Self = Self(1);
    pub const UNKNOWN: Self = Self(2);
    pub const INVALID_ARGUMENT: Self = Self(3);
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    pub const NOT_FOUND: Self = Self(5);
    pub const ALREADY_EXISTS: Self = Self(6);
    pub const PERMISSION_DENIED: Self = Self(7);
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    pub const FAILED_PRECONDITION: Self = Self(9);
    pub const ABORTED: Self = Self(10);
    pub const OUT_OF_RANGE: Self = Self(11);
    pub const UNIMPLEMENTED: Self = Self(12);
    pub const INTERNAL: Self = Self(13);
    pub const UNAVAILABLE: Self = Self(14);
    pub const UNAUTHENTICATED: Self = Self(16);
}

/// An error with its causes, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// The error of a call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RpcError {
    /// No endpoint could be reached, so no request was sent.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke, or the response violates the protocol.
    #[error("{0}")]
    Broken(String),
    /// The bytes of the response are not a message of its type.
    #[error("malformed answer: {0}")]
    Malformed(prost::DecodeError),
    /// There was no response in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The server refused the call, or failed.
    #[error("{message} (code {})", .code.0)]
    Status {
        code: Code,
        /// The message of the server.
        message: String,
    },
}

impl RpcError {
    /// The error of a broken connection, or of a response that violates the protocol.
    pub fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}
