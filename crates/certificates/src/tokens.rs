//! Signing and checking service account tokens: JSON Web Tokens with ES256 (RFC 7515, 7518).

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::KeyPair;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};

use crate::{CertificateError, files};

/// Tolerated difference between the clocks of a token's signer and its verifier, as upstream.
const LEEWAY: Duration = Duration::from_secs(60);

/// Longest token that is checked; real ones have about a kilobyte.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The bytes before the point in the DER form of a P-256 public key (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The reason why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not a JSON Web Token, or its claims are invalid.
    #[error("malformed token")]
    Malformed,
    /// It was signed with another key or another algorithm.
    #[error("token is signed by an unknown key")]
    UnknownKey,
    /// The signature does not fit.
    #[error("token signature is invalid")]
    BadSignature,
    /// The token has expired (`exp`).
    #[error("token has expired")]
    Expired,
    /// The token is not valid yet (`nbf`).
    #[error("token is not valid yet")]
    NotYetValid,
}

/// The key that signs tokens.
pub struct TokenSigner {
    key: EcdsaKeyPair,
    key_id: String,
    public_key_pem: String,
    random: SystemRandom,
}

impl TokenSigner {
    /// Opens the key in a file, and makes it if there is none.
    ///
    /// *Errors.* `Damaged` if the file holds no P-256 key; it is never replaced, because that
    /// would void every token.
    pub fn open_or_create(path: &Path) -> Result<Self, CertificateError> {
        let key = match files::read(path)? {
            Some(pem) => KeyPair::from_pem(&pem).ok(),
            None => {
                let key = KeyPair::generate()?;
                files::write(path, &key.serialize_pem())?;
                Some(key)
            }
        };
        let signer = key.as_ref().and_then(Self::from_key);
        signer.ok_or_else(|| CertificateError::Damaged {
            path: path.to_owned(),
            what: "is not a PEM private key for P-256",
        })
    }

    /// A signer with a new key that is not stored, for tests.
    pub fn ephemeral() -> Result<Self, CertificateError> {
        Self::from_key(&KeyPair::generate()?).ok_or(CertificateError::Random)
    }

    fn from_key(pair: &KeyPair) -> Option<Self> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            pair.serialized_der(),
            &random,
        );
        let key = key.ok()?;
        let spki = [&SPKI_PREFIX[..], key.public_key().as_ref()].concat();
        let key_id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &spki));
        Some(Self {
            key,
            key_id,
            public_key_pem: pair.public_key_pem(),
            random,
        })
    }

    /// Signs claims and returns the token.
    ///
    /// *Panics* if the system has no random numbers.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let mut token = format!("{}.{}", encode(&header), encode(claims));
        let signature = self
            .key
            .sign(&self.random, token.as_bytes())
            .expect("the system has random numbers: the key was made with them");
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    /// Verifies signature, expiry and start of validity now, and returns the claims. The caller
    /// checks issuer, audience and bound objects.
    pub fn verify(&self, token: &str) -> Result<Value, TokenError> {
        self.verify_at(token, SystemTime::now())
    }

    /// Checks a token as of another time.
    pub fn verify_at(&self, token: &str, now: SystemTime) -> Result<Value, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = decode_json(header)?;
        // The algorithm is fixed; a token with another one is refused.
        if header["alg"] != "ES256" || header["kid"] != *self.key_id {
            return Err(TokenError::UnknownKey);
        }
        let signature = decode(signature)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::BadSignature)?;
        let claims = decode_json(claims)?;
        check_times(&claims, now)?;
        Ok(claims)
    }

    /// The `kid` in the tokens' headers: as upstream, a digest of the public key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public key in PEM, which verifies the tokens.
    pub fn public_key_pem(&self) -> &str {
        &self.public_key_pem
    }

    /// The public key as a JSON Web Key Set (RFC 7517), for `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        // An uncompressed point: 4, then both coordinates.
        let (x, y) = point[1..].split_at(32);
        json!({ "keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        }] })
    }
}

/// Does not show the private key.
impl fmt::Debug for TokenSigner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenSigner")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed)
}

fn decode_json(part: &str) -> Result<Value, TokenError> {
    let value: Value = serde_json::from_slice(&decode(part)?).map_err(|_| TokenError::Malformed)?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(TokenError::Malformed)
    }
}

fn check_times(claims: &Value, now: SystemTime) -> Result<(), TokenError> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if time_claim(claims, "exp")?.is_some_and(|end| now > end.saturating_add(LEEWAY.as_secs())) {
        return Err(TokenError::Expired);
    }
    for start in ["nbf", "iat"] {
        let start = time_claim(claims, start)?;
        if start.is_some_and(|start| now.saturating_add(LEEWAY.as_secs()) < start) {
            return Err(TokenError::NotYetValid);
        }
    }
    Ok(())
}

/// A time in seconds; `None` if the claim is absent.
fn time_claim(claims: &Value, name: &str) -> Result<Option<u64>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(TokenError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_holds_from_its_start_to_its_end_with_a_minute_of_leeway() {
        let signer = TokenSigner::ephemeral().unwrap();
        let claims = json!({ "sub": "x", "nbf": 1000, "iat": 1000, "exp": 2000 });
        let token = signer.sign(&claims);
        assert_eq!(signer.verify_at(&token, at(1500)), Ok(claims.clone()));
        assert_eq!(signer.verify_at(&token, at(940)), Ok(claims.clone()));
        assert_eq!(
            signer.verify_at(&token, at(939)),
            Err(TokenError::NotYetValid)
        );
        assert_eq!(signer.verify_at(&token, at(2060)), Ok(claims));
        assert_eq!(signer.verify_at(&token, at(2061)), Err(TokenError::Expired));
        assert_eq!(signer.verify(&token), Err(TokenError::Expired));
    }

    #[test]
    fn any_change_to_a_token_is_noticed() {
        let signer = TokenSigner::ephemeral().unwrap();
        let token = signer.sign(&json!({ "sub": "system:serviceaccount:default:a" }));
        signer.verify(&token).unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            // The lowest bits of a part's last letter may be padding; the highest never are.
            changed[at] = if changed[at] == b'A' { b'w' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(signer.verify(&changed).is_err(), "letter {at}");
        }
    }

    #[test]
    fn foreign_and_unsigned_tokens_are_refused() {
        let signer = TokenSigner::ephemeral().unwrap();
        let other = TokenSigner::ephemeral().unwrap();
        let claims = json!({ "sub": "x" });
        assert_eq!(
            signer.verify(&other.sign(&claims)),
            Err(TokenError::UnknownKey)
        );
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let none = format!(
            "{}.{}.",
            part(json!({ "alg": "none", "kid": signer.key_id() })),
            part(claims.clone())
        );
        assert_eq!(signer.verify(&none), Err(TokenError::UnknownKey));
        let unsigned = signer.sign(&claims);
        let unsigned = &unsigned[..=unsigned.rfind('.').unwrap()];
        assert_eq!(signer.verify(unsigned), Err(TokenError::BadSignature));
        for nonsense in ["", ".", "..", "a.b.c", "e30.e30.", "W10.W10.W10"] {
            assert!(signer.verify(nonsense).is_err(), "{nonsense}");
        }
        let odd = signer.sign(&json!({ "exp": "never" }));
        assert_eq!(signer.verify(&odd), Err(TokenError::Malformed));
    }
}
