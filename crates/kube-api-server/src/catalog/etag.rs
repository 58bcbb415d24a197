//! The entity tag of a document about the API.

use sha2::{Digest, Sha256};

/// The `ETag` of a document: its SHA-256 in upper-case hexadecimal digits, quoted.
pub(super) fn etag(document: &[u8]) -> String {
    let digest = Sha256::digest(document);
    let digits: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("\"{digits}\"")
}
