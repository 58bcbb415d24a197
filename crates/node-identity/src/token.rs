//! The token of a new node.

use certificates::KeyHash;
use resource_kinds::bootstrap_token;

use crate::error::Error;

/// A token from `mainstay token create`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub(crate) bearer: String,
    pub(crate) hash: KeyHash,
}

impl JoinToken {
    /// Parses a token `<id>.<secret>.<hash>`.
    ///
    /// # Errors
    /// `Malformed` for any other text.
    pub fn read(text: &str) -> Result<Self, Error> {
        let (bearer, hash) = text.trim().rsplit_once('.').ok_or(Error::Malformed)?;
        bootstrap_token::parse(bearer).ok_or(Error::Malformed)?;
        let hash = KeyHash::parse(hash).ok_or(Error::Malformed)?;
        Ok(Self {
            bearer: bearer.to_owned(),
            hash,
        })
    }
}

/// Prints the token without the secret.
impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}
