//! Credentials for registries.

use crate::digest::Digest;

/// The name and password, or the token, that a registry asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Basic {
        /// Name.
        username: String,
        password: String,
    },
    /// A token.
    Bearer(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// A digest that identifies the credentials and does not reveal them.
    pub(crate) fn hash(&self) -> String {
        let parts = match self {
            Self::Basic { username, password } => ["basic", username, password],
            Self::Bearer(token) => ["bearer", token, ""],
        };
        let lengths = parts.map(|part| part.len().to_string());
        Digest::of(format!("{} {}", lengths.join(" "), parts.concat()).as_bytes()).to_string()
    }
}
