//! The certificate authority of the data directory, and the key that signs service account tokens.
//!
//! [`Authority`] creates missing certificates at the first start and renews expiring certificates: the CA, the
//! server's certificate, clients' certificates. [`TokenSigner`] signs and verifies tokens. [`ClientSubject`] parses
//! the user in a client certificate. rustls, and not this crate, verifies certificates. All keys of certificates are
//! ECDSA P-256.

mod authority;
mod files;
mod identity;
mod inspect;
mod joining;
mod names;
mod pem;
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
pub use names::{SubjectAltName, SubjectAltNameError, SubjectAltNames};
pub use shared::{SealError, ServerToken, SharedError, SharedKeys};
pub use signing::{ApprovedRequest, LIFE_MAX, Usage};
pub use subject::{ClientSubject, SubjectError};
pub use tokens::{TokenError, TokenSigner};

/// The error of creating or reading certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or written.
    #[error("{action} {path}", path = .path.display())]
    Io {
        /// The failed operation.
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A file that cannot be replaced without a loss of trust has invalid contents.
    #[error("{path} {what}; restore it from a backup", path = .path.display())]
    Damaged { path: PathBuf, what: &'static str },
    /// A key or a certificate cannot be created.
    #[error("make a certificate")]
    Generate(#[from] rcgen::Error),
    /// The input is not a certificate request.
    #[error("not a certificate request")]
    Request,
    /// The new certificate differs from the approved request, so it is not returned.
    #[error("the certificate differs from what was approved in its {0}")]
    Differs(&'static str),
    /// A certificate from this crate cannot contain this many groups.
    #[error("a client certificate can name at most 2 groups, not {0}")]
    TooManyGroups(usize),
    /// The system provides no random numbers.
    #[error("get random numbers from the system")]
    Random,
}

impl CertificateError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }
}
