//! Errors of drivers, with the meaning that the specification gives to their codes.

use std::path::PathBuf;

use prost::DecodeError;
use rpc_channel::{Code, RpcError};

/// Whether a driver has left a call without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// The call has failed, and nothing of it continues.
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
        socket: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The driver refused, failed, or did not answer.
    #[error("{method}: {source}")]
    Call {
        method: &'static str,
        /// The failure.
        source: RpcError,
    },
    /// The answer is malformed.
    #[error("{method}: malformed answer: {source}")]
    Malformed {
        method: &'static str,
        /// The reason.
        source: DecodeError,
    },
    /// The answer is against the specification.
    #[error("{method}: {reason}")]
    Invalid {
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

    /// The driver's code.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Call {
                source: RpcError::Status { code, .. },
                ..
            } => Some(*code),
            _ => None,
        }
    }

    /// Whether the driver could not be reached or did not answer in time.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Call { source, .. } => {
                matches!(source, RpcError::Unreachable(_) | RpcError::TimedOut(_))
            }
            Self::Malformed { .. } | Self::Invalid { .. } => false,
        }
    }

    /// Whether the driver says that there is no such volume, so that there is nothing to undo.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NOT_FOUND)
    }

    /// Whether no repetition of an expansion helps: the codes of kubelet's `isInfeasibleError`.
    pub fn is_infeasible(&self) -> bool {
        let infeasible = [Code::INVALID_ARGUMENT, Code::OUT_OF_RANGE, Code::NOT_FOUND];
        self.code().is_some_and(|code| infeasible.contains(&code))
    }

    /// Whether the driver refuses the call because of the volume's state: an expansion, while the volume
    /// is in use.
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
