//! Errors of a pull.

use std::time::Duration;

use crate::disk_space::{Bytes, OutOfSpace};
use crate::reference::InvalidReference;
use crate::store::StoreError;

/// The error of a pull. The text is for users, in a pod's events.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is malformed.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The registry has no such image.
    #[error("{reference}: not found at {host}")]
    NotFound {
        /// Full name of the image.
        reference: String,
        /// The registry.
        host: String,
    },
    /// The registry requires other credentials, or allows no anonymous access.
    #[error("{reference}: pull access denied at {host}: it may not exist, or needs a login")]
    Unauthorized {
        /// Full name of the image.
        reference: String,
        /// The registry.
        host: String,
    },
    /// The registry cannot be reached, or does not answer as a registry.
    #[error("{reference}: {host} cannot be reached: {reason}")]
    Unreachable {
        /// Full name of the image.
        reference: String,
        /// The registry.
        host: String,
        reason: String,
    },
    /// The address is one of the node itself, without a registry.
    #[error("{reference}: {host} {reason}")]
    NoRegistry {
        /// Full name of the image.
        reference: String,
        /// The address.
        host: String,
        /// The missing property.
        reason: String,
    },
    /// The address is not allowed for pulls.
    #[error(
        "{reference}: {host} is an address that pulls may not reach unless registries.yaml names it"
    )]
    OutOfReach {
        /// Full name of the image.
        reference: String,
        /// The address.
        host: String,
    },
    /// The registry is too slow.
    #[error(
        "{reference}: {host} is too slow: {} in {} seconds, where {} are the least",
        Bytes(*.bytes), .window.as_secs(), Bytes(*.bytes_min)
    )]
    TooSlow {
        /// Full name of the image.
        reference: String,
        /// The registry.
        host: String,
        /// The received bytes.
        bytes: u64,
        /// In that time.
        window: Duration,
        /// The required bytes.
        bytes_min: u64,
    },
    /// The data does not match its digest.
    #[error("{reference}: {host} sent data that does not match its digest {expected}")]
    DigestMismatch {
        /// Full name of the image.
        reference: String,
        /// The registry.
        host: String,
        /// The requested digest.
        expected: String,
    },
    /// The image is for other machines.
    #[error("{reference}: no image for linux/{wanted}, only for {found}")]
    WrongPlatform {
        /// Full name of the image.
        reference: String,
        /// This machine's architecture.
        wanted: String,
        /// The available platforms.
        found: String,
    },
    /// The registry's data makes no image.
    #[error("{reference}: {reason}")]
    Malformed {
        /// Full name of the image.
        reference: String,
        /// The error.
        reason: String,
    },
    /// The image cannot be stored.
    #[error("{reference}: {source}")]
    Store {
        /// Full name of the image.
        reference: String,
        /// The cause.
        #[source]
        source: StoreError,
    },
}

impl PullError {
    /// The missing disk space, if that is the cause.
    pub fn no_room(&self) -> Option<&OutOfSpace> {
        match self {
            Self::Store { source, .. } => source.no_room(),
            _ => None,
        }
    }
}
