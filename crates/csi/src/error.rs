//! Errors of drivers, with the meaning that the specification gives to their codes.

use std::path::PathBuf;

use grpc::{Code, RpcError};
use object_model::protobuf::WireError;

/// Whether a driver has left a call without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// The call has failed, and nothing of it goes on.
    Final,
    /// The driver may still be at work, or have done it: only a repetition of the call, or its
    /// reverse, tells.
    Uncertain,
}

/// The error of a call of a driver.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    /// There is no driver at the socket.
    #[error("connect to {}: {source}", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The driver refused, failed, or did not answer.
    #[error("{method}: {source}")]
    Call {
        /// The method.
        method: &'static str,
        /// The failure.
        source: RpcError,
    },
    /// The answer is malformed.
    #[error("{method}: malformed answer: {source}")]
    Malformed {
        /// The method.
        method: &'static str,
        /// The reason.
        source: WireError,
    },
    /// The answer is against the specification.
    #[error("{method}: {reason}")]
    Invalid {
        /// The method.
        method: &'static str,
        /// The broken rule.
        reason: String,
    },
}

impl CsiError {
    /// Whether the call has certainly ended without effect. The codes are those that kubelet takes for
    /// uncertain (`isFinalError` of `pkg/volume/csi`), by the specification's table of errors.
    pub fn finality(&self) -> Finality {
        let Self::Call { source, .. } = self else {
            return match self {
                Self::Unreachable { .. } => Finality::Final,
                _ => Finality::Uncertain,
            };
        };
        match source {
            RpcError::Unreachable(_) => Finality::Final,
            RpcError::Broken(_) | RpcError::TimedOut(_) => Finality::Uncertain,
            RpcError::Status { code, .. } => match *code {
                Code::CANCELLED
                | Code::DEADLINE_EXCEEDED
                | Code::UNAVAILABLE
                | Code::RESOURCE_EXHAUSTED
                | Code::ABORTED => Finality::Uncertain,
                _ => Finality::Final,
            },
        }
    }

    /// Whether the driver says that there is no such volume, so that there is nothing to undo.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { source: RpcError::Status { code, .. }, .. } if *code == Code::NOT_FOUND)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn codes_that_leave_a_call_open_are_uncertain() {
        let of = |code| {
            let message = String::new();
            let source = RpcError::Status { code, message };
            let method = "m";
            CsiError::Call { method, source }.finality()
        };
        for code in [1, 4, 8, 10, 14] {
            assert_eq!(of(Code(code)), Finality::Uncertain, "{code}");
        }
        for code in [2, 3, 5, 6, 7, 9, 11, 12, 13, 15, 16, 99] {
            assert_eq!(of(Code(code)), Finality::Final, "{code}");
        }
        let late = CsiError::Call {
            method: "m",
            source: RpcError::TimedOut(Duration::from_secs(1)),
        };
        assert_eq!(late.finality(), Finality::Uncertain);
    }
}
