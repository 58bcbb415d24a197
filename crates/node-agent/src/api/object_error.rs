//! Errors of requests about the objects that pods refer to. The texts are in events and statuses.

use kube_api_client::guarded_writes;
use object_model::{IncompleteMetadata, ObjectKey};

use super::is_away;
use crate::limits::ENVIRONMENT_BYTES_MAX;

/// The failure of one request to the API server.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The text is the message of the server, if the server has rejected the request.
    #[error("{}", guarded_writes::message(.0))]
    Api(kube_api_client::Error),
    #[error("the API server did not answer in time")]
    TimedOut,
}

impl RequestError {
    /// Whether the API server did not respond, or is not ready.
    fn is_away(&self) -> bool {
        match self {
            Self::Api(error) => is_away(error),
            Self::TimedOut => true,
        }
    }
}

/// The reason why an object that a pod refers to is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ApiObjectError {
    #[error("get {kind} \"{name}\": {error}")]
    Get {
        /// In lower case.
        kind: &'static str,
        name: String,
        error: RequestError,
    },
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// In lower case.
        kind: &'static str,
        name: String,
    },
    /// The text is kubelet's.
    #[error("failed to get RuntimeClass {name}: {error}")]
    GetRuntimeClass { name: String, error: RequestError },
    /// The text is kubelet's.
    #[error("runtimeclass.node.k8s.io {0:?} not found")]
    RuntimeClassNotFound(String),
    #[error("PVC {0} is not bound")]
    ClaimNotBound(ObjectKey),
    #[error("persistentvolume \"{0}\" belongs to another claim")]
    VolumeOfAnotherClaim(String),
    #[error("write the status of PVC {claim}: {error}")]
    WriteClaimStatus {
        claim: ObjectKey,
        error: RequestError,
    },
    /// The text is kubelet's.
    #[error("failed to fetch token: {0}")]
    Token(TokenError),
    #[error(
        "the ConfigMaps and Secrets of the environment have more than {} bytes, the most that Linux takes",
        ENVIRONMENT_BYTES_MAX
    )]
    EnvironmentTooLarge,
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
}

impl ApiObjectError {
    /// Whether a read failed because the API server did not respond, or is not ready.
    pub(super) fn is_unavailable_read(&self) -> bool {
        match self {
            Self::Get { error, .. } => error.is_away(),
            _ => false,
        }
    }
}

/// The reason why a pod gets no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(transparent)]
    Metadata(#[from] IncompleteMetadata),
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The response has no status, or no token.
    #[error("empty answer")]
    Empty,
}
