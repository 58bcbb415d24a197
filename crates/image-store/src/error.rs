//! What can go wrong, for whom, and what a person is told.

use std::io;
use std::path::PathBuf;

use crate::reference::InvalidReference;

/// The store's own directory fails.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The directory was written by a version that this one does not know.
    #[error("image store {} is of version {found:?}, this program knows version 1", path.display())]
    Version {
        /// The directory.
        path: PathBuf,
        /// What is written there.
        found: String,
    },
    /// A name that is none.
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
}

impl StoreError {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| StoreError::Io {
            doing,
            path,
            source,
        }
    }
}

/// An image could not be pulled. The messages are for users: they name the image.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The name is none (`InvalidImageName`).
    #[error(transparent)]
    InvalidReference(#[from] InvalidReference),
    /// The registry does not have it.
    #[error("{image}: not found (asked {asked})")]
    NotFound {
        /// The image.
        image: String,
        /// The endpoints that were asked.
        asked: String,
    },
    /// The registry wants other credentials, or any.
    #[error(
        "{image}: pull access denied, repository does not exist or may require authorization: {reason}"
    )]
    Unauthorized {
        /// The image.
        image: String,
        /// What the registry said.
        reason: String,
    },
    /// No registry could be reached.
    #[error("{image}: registry unreachable: {reason}")]
    Unreachable {
        /// The image.
        image: String,
        /// What failed, per endpoint.
        reason: String,
    },
    /// The registry answered something unusable.
    #[error("{image}: {reason}")]
    Registry {
        /// The image.
        image: String,
        /// What it answered.
        reason: String,
    },
    /// The contents are not what their digest promises.
    #[error("{image}: {what} has digest {found}, expected {expected}")]
    DigestMismatch {
        /// The image.
        image: String,
        /// Which part.
        what: String,
        /// What was promised.
        expected: String,
        /// What was got.
        found: String,
    },
    /// It is there, but not for this machine.
    #[error("{image}: no image for platform {wanted}, only for {available}")]
    WrongPlatform {
        /// The image.
        image: String,
        /// This machine.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// A manifest, configuration or layer that cannot be used.
    #[error("{image}: {reason}")]
    BadImage {
        /// The image.
        image: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The node's own disk fails or is full.
    #[error("{image}: store it: {source}")]
    Store {
        /// The image.
        image: String,
        /// What failed.
        #[source]
        source: StoreError,
    },
}

impl PullError {
    /// Whether trying again later may help without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            PullError::Unreachable { .. } | PullError::Store { .. }
        )
    }
}

/// An archive could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file or directory cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It contains no image in a known form.
    #[error("{} is no OCI layout, OCI archive or docker archive: {reason}", path.display())]
    NotAnArchive {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
    /// One of its images is unusable.
    #[error(transparent)]
    Image(#[from] PullError),
    /// The node's own disk fails or is full.
    #[error(transparent)]
    Store(#[from] StoreError),
}
