//! Credentials for registries.

use crate::digest::Digest;

/// The credentials that a registry requires.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Basic { username: String, password: String },
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// A hash that identifies the credentials without revealing them.
    pub(crate) fn hash(&self) -> String {
        let parts = match self {
            Self::Basic { username, password } => ["basic", username, password],
            Self::Bearer(token) => ["bearer", token, ""],
        };
        let lengths = parts.map(|part| part.len().to_string());
        Digest::sha256(format!("{} {}", lengths.join(" "), parts.concat()).as_bytes()).to_string()
    }
}
