//! The errors of calls.

use std::error::Error as StdError;
use std::fmt::Display;

use http::StatusCode;
use object_model::Status;
use object_model::dialling::SpecialAddress;
use thiserror::Error;

/// The reason why a server that a user configured gave no response.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    #[error("Post {url:?}: {reason}")]
    Post { url: String, reason: Box<Self> },
    #[error("context deadline exceeded")]
    Timeout,
    #[error("{url:?}: {error}")]
    Url {
        url: String,
        error: http::uri::InvalidUri,
    },
    /// The Service has no address.
    #[error("{}", .0.message)]
    Service(Status),
    #[error("{host}: {address} addresses are not called")]
    SpecialAddress {
        host: String,
        address: SpecialAddress,
    },
    #[error("{0}")]
    Trust(String),
    #[error("caBundle: {0}")]
    Bundle(String),
    /// The connection, the handshake or the exchange failed.
    #[error("{0}")]
    Exchange(String),
    #[error("the server answered {0}")]
    Refused(StatusCode),
}

impl CallError {
    /// The status code with which the server refused the request.
    pub(crate) fn refusal(&self) -> Option<StatusCode> {
        match self {
            Self::Post { reason, .. } => reason.refusal(),
            Self::Refused(code) => Some(*code),
            _ => None,
        }
    }

    pub(crate) fn exchange(error: impl Display) -> Self {
        Self::Exchange(error.to_string())
    }

    /// The error of a pool, whose own text does not contain its causes.
    pub(super) fn exchange_failed(error: &outbound_http::Error) -> Self {
        let mut cause: &dyn StdError = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        Self::exchange(cause)
    }
}
