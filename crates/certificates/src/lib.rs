//! The data directory's own certificate authority, and the key that signs service account tokens.
//!
//! [`Authority`] creates missing certificates at the first start and renews expiring ones: the CA,
//! the server's certificate, clients' certificates. [`TokenSigner`] signs and verifies tokens.
//! [`ClientSubject`] reads the user of a client certificate. rustls verifies certificates, not this
//! crate. All keys are ECDSA P-256.

mod authority;
mod files;
mod identity;
mod inspect;
mod joining;
mod names;
mod shared;
mod signing;
mod subject;
mod token_keys;
mod tokens;

use std::path::PathBuf;

pub use authority::Authority;
pub use identity::Identity;
pub use inspect::{end_of_pem, validity_of_pem};
pub use joining::{KeyHash, random_text};
pub use names::{SubjectAltName, SubjectAltNames};
pub use shared::{SealError, ServerToken, SharedError, SharedKeys};
pub use signing::{ApprovedRequest, LIFE_MAX, Usage};
pub use subject::{ClientSubject, SubjectError};
pub use tokens::{TokenError, TokenSigner};

/// The error of creating or reading certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read or written.
    #[error("{action} {path}", path = .path.display())]
    Io {
        /// The failed operation.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// A file that cannot be replaced without breaking trust has invalid contents.
    #[error("{path} {what}; restore it from a backup", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The error.
        what: &'static str,
    },
    /// A key or a certificate could not be made.
    #[error("make a certificate")]
    Generate(#[from] rcgen::Error),
    /// The input is not a certificate request.
    #[error("not a certificate request")]
    Request,
    /// The new certificate differs from the approved request, so it is not returned.
    #[error("the certificate differs from what was approved in its {0}")]
    Differs(&'static str),
    /// More groups than a certificate made here can carry.
    #[error("a client certificate can name at most 2 groups, not {0}")]
    TooManyGroups(usize),
    /// The system gave no random numbers.
    #[error("get random numbers from the system")]
    Random,
}

impl CertificateError {
    /// Whether there is no room on the disk.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }
}
