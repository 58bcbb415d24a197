//! Encryption with the server token: AES-256-GCM with a key that PBKDF2-HMAC-SHA256 derives.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use super::SharedKeys;
use crate::{CertificateError, random_text};

/// The number of rounds of PBKDF2-HMAC-SHA256 that OWASP's password storage page recommends, because a token that a
/// user chose may be weak.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).expect("not zero");
/// Maximum number of rounds. An attacker who can write the stored text must not cause more work.
const ROUNDS_MAX: NonZeroU32 = NonZeroU32::new(10_000_000).expect("not zero");
/// The length of a generated token, which has 165 bits.
const LENGTH: usize = 32;
/// Minimum length of a token.
const LENGTH_MIN: usize = 16;
const SALT_BYTES: usize = 16;
const FORMAT: u32 = 1;

/// The secret that the servers of a cluster share.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerToken(String);

/// The output must not contain the secret.
impl fmt::Debug for ServerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerToken").finish_non_exhaustive()
    }
}

/// The reason why a text cannot be encrypted or decrypted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The token is too short.
    #[error("a server token has at least {LENGTH_MIN} characters on one line")]
    Token,
    /// The keys are encrypted with another token, or were modified.
    #[error("the keys of this cluster are encrypted under another server token")]
    WrongToken,
    /// The text is damaged, or was written by a newer version.
    #[error("the keys of this cluster in the store are {0}")]
    Unreadable(&'static str),
    /// The system provides no random numbers.
    #[error("get random numbers from the system")]
    Random,
}

/// The encrypted keys, as JSON. Bytes are in base64.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sealed {
    format: u32,
    rounds: NonZeroU32,
    salt: String,
    nonce: String,
    sealed: String,
}

impl ServerToken {
    /// A token from the kernel's random numbers.
    pub fn generate() -> Result<Self, CertificateError> {
        random_text(LENGTH).map(Self)
    }

    /// The token in a file; white space around it is ignored.
    ///
    /// # Errors
    /// The token is too short, or the text has several lines.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let text = text.trim();
        if text.chars().count() < LENGTH_MIN || text.contains(char::is_control) {
            return Err(SealError::Token);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text for the file.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Encrypts keys.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn seal(&self, keys: &SharedKeys) -> Result<Vec<u8>, SealError> {
        let mut salt = [0; SALT_BYTES];
        let mut nonce = [0; NONCE_LEN];
        let random = SystemRandom::new();
        for bytes in [&mut salt[..], &mut nonce[..]] {
            random.fill(bytes).map_err(|_| SealError::Random)?;
        }
        let mut text = serde_json::to_vec(keys).map_err(|_| SealError::Unreadable("no JSON"))?;
        // The salt gives each text its own key, so a nonce is never used twice with one key.
        let key = self.key(&salt, ROUNDS)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), purpose(), &mut text)
            .map_err(|_| SealError::Unreadable("too long"))?;
        let sealed = Sealed {
            format: FORMAT,
            rounds: ROUNDS,
            salt: BASE64.encode(salt),
            nonce: BASE64.encode(nonce),
            sealed: BASE64.encode(text),
        };
        serde_json::to_vec(&sealed).map_err(|_| SealError::Unreadable("no JSON"))
    }

    /// Decrypts keys.
    ///
    /// # Errors
    /// `WrongToken`; `Unreadable` for another format.
    pub fn open(&self, text: &[u8]) -> Result<SharedKeys, SealError> {
        let damaged = SealError::Unreadable("damaged");
        let Ok(sealed) = serde_json::from_slice::<Sealed>(text) else {
            return Err(damaged);
        };
        if sealed.format != FORMAT || sealed.rounds > ROUNDS_MAX {
            return Err(SealError::Unreadable("of a newer version of mainstay"));
        }
        let decode = |text: &str| BASE64.decode(text).ok();
        let (salt, nonce) = (decode(&sealed.salt), decode(&sealed.nonce));
        let nonce = nonce.and_then(|nonce| Nonce::try_assume_unique_for_key(&nonce).ok());
        let (Some(salt), Some(nonce), Some(mut bytes)) = (salt, nonce, decode(&sealed.sealed))
        else {
            return Err(damaged);
        };
        let key = self.key(&salt, sealed.rounds)?;
        let opened = key.open_in_place(nonce, purpose(), &mut bytes);
        let opened = opened.map_err(|_| SealError::WrongToken)?;
        serde_json::from_slice(opened).map_err(|_| damaged)
    }

    fn key(&self, salt: &[u8], rounds: NonZeroU32) -> Result<LessSafeKey, SealError> {
        let mut bytes = [0; 32];
        pbkdf2::derive(
            PBKDF2_HMAC_SHA256,
            rounds,
            salt,
            self.0.as_bytes(),
            &mut bytes,
        );
        let key = UnboundKey::new(&AES_256_GCM, &bytes);
        key.map(LessSafeKey::new)
            .map_err(|_| SealError::Unreadable("damaged"))
    }
}

/// Additional data of the encryption, so that a text for another purpose cannot be decrypted.
fn purpose() -> Aad<&'static [u8]> {
    Aad::from(b"mainstay cluster keys, format 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_opens() {
        let token = ServerToken::generate().unwrap();
        let keys = SharedKeys::generate().unwrap();
        let sealed = token.seal(&keys).unwrap();
        assert_eq!(token.open(&sealed), Ok(keys.clone()));
        let read = ServerToken::parse(&format!(" {}\n", token.text())).unwrap();
        assert_eq!(read.open(&sealed), Ok(keys.clone()));
        let other = ServerToken::generate().unwrap();
        assert_eq!(other.open(&sealed), Err(SealError::WrongToken));
        assert_ne!(token.seal(&keys).unwrap(), sealed, "another salt");
        let printed = String::from_utf8(sealed).unwrap();
        assert!(
            !printed.contains("PRIVATE") && !format!("{token:?}{keys:?}").contains(token.text())
        );
    }

    #[test]
    fn a_changed_text_is_refused() {
        let token = ServerToken::generate().unwrap();
        let sealed = token.seal(&SharedKeys::generate().unwrap()).unwrap();
        let sealed: Sealed = serde_json::from_slice(&sealed).unwrap();
        let text = |sealed: &Sealed| serde_json::to_vec(sealed).unwrap();
        let mut bytes = BASE64.decode(&sealed.sealed).unwrap();
        bytes[7] ^= 1;
        let changed = Sealed {
            sealed: BASE64.encode(bytes),
            ..sealed
        };
        assert_eq!(token.open(&text(&changed)), Err(SealError::WrongToken));
        for (nonce, error) in [("AAAA", "damaged"), ("?", "damaged")] {
            let changed = Sealed {
                nonce: nonce.to_owned(),
                ..serde_json::from_slice(&text(&changed)).unwrap()
            };
            assert_eq!(
                token.open(&text(&changed)),
                Err(SealError::Unreadable(error))
            );
        }
        let long = Sealed {
            rounds: NonZeroU32::MAX,
            ..changed
        };
        let refused = token.open(&text(&long)).unwrap_err().to_string();
        assert!(refused.contains("newer version"), "{refused}");
        assert_eq!(token.open(b"{}"), Err(SealError::Unreadable("damaged")));
    }

    #[test]
    fn a_short_token_is_refused() {
        for text in ["", "short", "0123456789abcde", "0123456789\nabcdefgh"] {
            assert_eq!(ServerToken::parse(text), Err(SealError::Token), "{text}");
        }
        ServerToken::parse("0123456789abcdef").unwrap();
    }
}
