//! Errors of a pull.

use std::time::Duration;

use crate::disk_space::{Bytes, OutOfSpace};
use crate::reference::InvalidReference;
use crate::store::StoreError;

/// The error of a pull, as a message for users in the events of a pod.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The registry has no such image.
    #[error("{reference}: not found at {host}")]
    NotFound { reference: String, host: String },
    /// The registry requires other credentials, or allows no anonymous access.
    #[error("{reference}: pull access denied at {host}: it may not exist, or needs a login")]
    Unauthorized { reference: String, host: String },
    /// The registry cannot be reached, or the server is no registry.
    #[error("{reference}: {host} cannot be reached: {reason}")]
    Unreachable {
        reference: String,
        host: String,
        reason: String,
    },
    /// The address belongs to this node, and has no registry.
    #[error("{reference}: {host} {reason}")]
    NoRegistry {
        reference: String,
        host: String,
        /// The missing property of the server.
        reason: String,
    },
    /// The address is not allowed for pulls.
    #[error(
        "{reference}: {host} is an address that pulls may not reach unless registries.yaml names it"
    )]
    OutOfReach { reference: String, host: String },
    /// The registry is too slow.
    #[error(
        "{reference}: {host} is too slow: {} in {} seconds, where {} are the least",
        Bytes(*.bytes), .window.as_secs(), Bytes(*.bytes_min)
    )]
    TooSlow {
        reference: String,
        host: String,
        /// The received bytes.
        bytes: u64,
        /// The time in which the bytes were received.
        window: Duration,
        /// The required bytes.
        bytes_min: u64,
    },
    /// The data does not match its digest.
    #[error("{reference}: {host} sent data that does not match its digest {expected}")]
    DigestMismatch {
        reference: String,
        host: String,
        /// The requested digest.
        expected: String,
    },
    /// The image is for other machines.
    #[error("{reference}: no image for linux/{architecture}, only for {platforms}")]
    WrongPlatform {
        reference: String,
        architecture: String,
        platforms: String,
    },
    /// The data of the registry is no valid image.
    #[error("{reference}: {reason}")]
    Malformed { reference: String, reason: String },
    /// The image cannot be stored.
    #[error("{reference}: {source}")]
    Store {
        reference: String,
        #[source]
        source: StoreError,
    },
}

impl PullError {
    /// The missing disk space; `None` if the error has another cause.
    pub fn out_of_space(&self) -> Option<&OutOfSpace> {
        match self {
            Self::Store { source, .. } => source.out_of_space(),
            _ => None,
        }
    }
}
