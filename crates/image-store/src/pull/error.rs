//! Errors of a pull.

use std::time::Duration;

use crate::reference::InvalidReference;
use crate::room::{Bytes, NoRoom};
use crate::store::StoreError;

/// Why an image was not pulled. The text goes to users, in a pod's events.
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
        /// The registry that was asked.
        host: String,
    },
    /// The registry wants other credentials, or shows strangers nothing.
    #[error("{reference}: pull access denied at {host}: it may not exist, or needs a login")]
    Unauthorized {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
    },
    /// The registry cannot be reached, or does not answer as one should.
    #[error("{reference}: {host} cannot be reached: {reason}")]
    Unreachable {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
        /// What went wrong.
        reason: String,
    },
    /// The address is one of the node itself, and what is there is no registry, or nothing is.
    #[error("{reference}: {host} {reason}")]
    NoRegistry {
        /// Full name of the image.
        reference: String,
        /// The address.
        host: String,
        /// What it is not.
        reason: String,
    },
    /// The address is one that pulls may not reach.
    #[error(
        "{reference}: {host} is an address that pulls may not reach unless registries.yaml names it"
    )]
    OutOfReach {
        /// Full name of the image.
        reference: String,
        /// The address.
        host: String,
    },
    /// The registry sends next to nothing.
    #[error(
        "{reference}: {host} is too slow: {} in {} seconds, where {} are the least",
        Bytes(*.bytes), .window.as_secs(), Bytes(*.bytes_min)
    )]
    TooSlow {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
        /// What came.
        bytes: u64,
        /// In that time.
        window: Duration,
        /// What should have come.
        bytes_min: u64,
    },
    /// What the registry sent is not what the digest says.
    #[error("{reference}: {host} sent data that does not match its digest {expected}")]
    DigestMismatch {
        /// Full name of the image.
        reference: String,
        /// The registry that was asked.
        host: String,
        /// The digest that was asked for.
        expected: String,
    },
    /// The image is for other machines.
    #[error("{reference}: no image for linux/{wanted}, only for {found}")]
    WrongPlatform {
        /// Full name of the image.
        reference: String,
        /// This machine's architecture.
        wanted: String,
        /// What there is.
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
    /// The image cannot be kept.
    #[error("{reference}: {source}")]
    Store {
        /// Full name of the image.
        reference: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl PullError {
    /// What the disk had no room for, if that was it.
    pub fn no_room(&self) -> Option<&NoRoom> {
        match self {
            Self::Store { source, .. } => source.no_room(),
            _ => None,
        }
    }
}
