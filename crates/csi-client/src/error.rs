//! Errors of drivers, and the meanings of their codes in the specification.

use std::path::PathBuf;

use prost::DecodeError;
use rpc_channel::{Code, RpcError};

/// Whether a failed call has certainly ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// The call has failed, and the driver does not continue it.
    Final,
    /// The driver may continue the call, or may have completed it. Only a repeated call or the reverse call shows the
    /// result.
    Uncertain,
}

/// The error of a call to a driver.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    /// No driver listens at the socket.
    #[error("connect to {}: {source}", socket.display())]
    Unreachable {
        socket: PathBuf,
        source: std::io::Error,
    },
    /// The driver returned an error, or did not respond.
    #[error("{method}: {source}")]
    Call {
        method: &'static str,
        source: RpcError,
    },
    /// The response cannot be decoded.
    #[error("{method}: malformed answer: {source}")]
    Malformed {
        method: &'static str,
        source: DecodeError,
    },
    /// The response violates the specification.
    #[error("{method}: {reason}")]
    Invalid {
        method: &'static str,
        /// The violated rule.
        reason: String,
    },
}

impl CsiError {
    /// Whether the call has certainly ended without effect. The uncertain codes are those of kubelet (`isFinalError` of
    /// `pkg/volume/csi`), from the specification's table of errors.
    pub fn finality(&self) -> Finality {
        let Self::Call { source, .. } = self else {
            return match self {
                Self::Unreachable { .. } => Finality::Final,
                _ => Finality::Uncertain,
            };
        };
        match source {
            RpcError::Unreachable(_) => Finality::Final,
            RpcError::Broken(_) | RpcError::Malformed(_) | RpcError::TimedOut(_) => {
                Finality::Uncertain
            }
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

    /// The gRPC code of the driver.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Call {
                source: RpcError::Status { code, .. },
                ..
            } => Some(*code),
            _ => None,
        }
    }

    /// Whether the driver could not be reached or did not respond in time.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Call { source, .. } => {
                matches!(source, RpcError::Unreachable(_) | RpcError::TimedOut(_))
            }
            Self::Malformed { .. } | Self::Invalid { .. } => false,
        }
    }

    /// Whether the volume does not exist at the driver, so that a reverse call has no work.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NOT_FOUND)
    }

    /// Whether each further attempt of an expansion would fail. The codes are those of kubelet's `isInfeasibleError`.
    pub fn is_infeasible(&self) -> bool {
        let infeasible = [Code::INVALID_ARGUMENT, Code::OUT_OF_RANGE, Code::NOT_FOUND];
        self.code().is_some_and(|code| infeasible.contains(&code))
    }

    /// Whether the driver rejects the call because of the volume's state, for instance an expansion of a volume in use.
    pub fn is_of_state(&self) -> bool {
        self.code() == Some(Code::FAILED_PRECONDITION)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn expansions_that_cannot_succeed_are_known_by_their_codes() {
        let of = |code| {
            let message = String::new();
            let source = RpcError::Status { code, message };
            let error = CsiError::Call {
                method: "m",
                source,
            };
            (error.is_infeasible(), error.is_of_state())
        };
        for code in [3, 5, 11] {
            assert_eq!(of(Code(code)), (true, false), "{code}");
        }
        assert_eq!(of(Code(9)), (false, true));
        for code in [1, 2, 4, 8, 10, 13, 14] {
            assert_eq!(of(Code(code)), (false, false), "{code}");
        }
    }

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
