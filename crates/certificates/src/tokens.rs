//! Signing and verification of service account tokens: JSON Web Tokens with RS256 or ES256 (RFC 7515, 7518).

use std::{
    fmt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use json_tree::{Value, json};
use ring::rand::SystemRandom;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use crate::{
    CertificateError, files,
    token_keys::{TokenKey, generate_pem},
};

/// Allowed difference between the clocks of a token's signer and its verifier (upstream's value).
const LEEWAY: Duration = Duration::from_secs(60);

/// Maximum length of a token; real tokens have about a kilobyte.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// The reason why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not a JSON Web Token, or its claims are invalid.
    #[error("malformed token")]
    Malformed,
    /// The token was signed with another key or another algorithm.
    #[error("token is signed by an unknown key")]
    UnknownKey,
    /// The signature is wrong.
    #[error("token signature is invalid")]
    BadSignature,
    /// The token has expired (`exp`).
    #[error("token has expired")]
    Expired,
    /// The token is not valid yet (`nbf`).
    #[error("token is not valid yet")]
    NotYetValid,
}

/// The keys of tokens. The first key signs, all keys verify.
pub struct TokenSigner {
    first: TokenKey,
    others: Vec<TokenKey>,
    random: SystemRandom,
}

impl TokenSigner {
    /// Opens the keys in a file; creates a file with one key if it does not exist. The first key signs; further keys
    /// verify tokens that were signed before a new first key was added.
    ///
    /// *Errors.* `Damaged` if the file contains no keys or a key that cannot sign. The file is never replaced,
    /// because that would invalidate every token.
    pub fn open_or_create(path: &Path) -> Result<Self, CertificateError> {
        prepare(path)?;
        let pem = files::read(path)?.unwrap_or_default();
        Self::from_pem(&pem).ok_or_else(|| CertificateError::Damaged {
            path: path.to_owned(),
            what: "is not a PEM file of private keys, each RSA with 2048 to 4096 bits or P-256",
        })
    }

    /// A signer with a new key that is not stored, for tests. The key is for ES256, because creating it is fast.
    pub fn ephemeral() -> Result<Self, CertificateError> {
        let key = rcgen::KeyPair::generate()?.serialize_pem();
        Self::from_pem(&key).ok_or(CertificateError::Random)
    }

    fn from_pem(pem: &str) -> Option<Self> {
        let random = SystemRandom::new();
        let mut keys = Vec::new();
        for key in PrivateKeyDer::pem_slice_iter(pem.as_bytes()) {
            keys.push(TokenKey::from_der(&key.ok()?, &random)?);
        }
        let others = keys.split_off(keys.len().min(1));
        Some(Self {
            first: keys.pop()?,
            others,
            random,
        })
    }

    fn keys(&self) -> impl Iterator<Item = &TokenKey> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Signs claims and returns the token.
    ///
    /// *Panics* if the system provides no random numbers.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": self.first.algorithm(), "kid": self.first.id });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let mut token = format!("{}.{}", encode(&header), encode(claims));
        let signature = self
            .first
            .sign(token.as_bytes(), &self.random)
            .expect("the system has random numbers: the key was opened with them");
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    /// Verifies the signature and the validity period at the present time, and returns the claims. The caller checks
    /// issuer, audience and bound objects.
    pub fn verify(&self, token: &str) -> Result<Value, TokenError> {
        self.verify_at(token, SystemTime::now())
    }

    /// Verifies a token at another time.
    pub fn verify_at(&self, token: &str, now: SystemTime) -> Result<Value, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header = decode_json(header)?;
        // Each key has one algorithm; a token with another algorithm is refused.
        let fits = |key: &&TokenKey| header["alg"] == key.algorithm() && header["kid"] == *key.id;
        let key = self.keys().find(fits).ok_or(TokenError::UnknownKey)?;
        if !key.verifies(signed.as_bytes(), &decode(signature)?) {
            return Err(TokenError::BadSignature);
        }
        let claims = decode_json(claims)?;
        check_times(&claims, now)?;
        Ok(claims)
    }

    /// The `kid` in the tokens' headers: as upstream, a digest of the public key.
    pub fn key_id(&self) -> &str {
        &self.first.id
    }

    /// The public key in PEM that verifies new tokens.
    pub fn public_key_pem(&self) -> String {
        self.first.public_pem()
    }

    /// The public keys as a JSON Web Key Set (RFC 7517), for `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.keys().map(TokenKey::jwk).collect();
        json!({ "keys": keys })
    }
}

/// Creates the file of the keys with one RS256 key, if it does not exist. This usually takes a tenth of a second, and
/// rarely a second.
pub(crate) fn prepare(path: &Path) -> Result<(), CertificateError> {
    match files::read(path)? {
        Some(_) => Ok(()),
        None => files::write(path, &generate_pem()?),
    }
}

/// The output must not contain the private key.
impl fmt::Debug for TokenSigner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenSigner")
            .field("key_id", &self.first.id)
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

/// A time claim in seconds; `None` if the claim is absent.
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

    /// One signer for each algorithm.
    fn signers() -> [TokenSigner; 2] {
        let rsa = TokenSigner::from_pem(&generate_pem().unwrap()).unwrap();
        [rsa, TokenSigner::ephemeral().unwrap()]
    }

    // findings-2 C37
    #[test]
    fn a_new_cluster_signs_with_rs256_and_an_older_one_keeps_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service-accounts.key");
        let algorithms = |signer: &TokenSigner| -> Vec<String> {
            let keys = signer.jwks()["keys"].as_array().unwrap().clone();
            keys.iter()
                .map(|key| {
                    format!(
                        "{} {}",
                        key["kty"].as_str().unwrap(),
                        key["alg"].as_str().unwrap()
                    )
                })
                .collect()
        };
        let new = TokenSigner::open_or_create(&path).unwrap();
        assert_eq!(algorithms(&new), ["RSA RS256"]);
        let token = new.sign(&json!({ "sub": "x" }));
        let again = TokenSigner::open_or_create(&path).unwrap();
        assert_eq!(again.key_id(), new.key_id());
        again.verify(&token).unwrap();

        let old = rcgen::KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(&path, &old).unwrap();
        let former = TokenSigner::open_or_create(&path).unwrap();
        assert_eq!(algorithms(&former), ["EC ES256"]);
        let token = former.sign(&json!({ "sub": "x" }));
        // An administrator has added another key in front.
        std::fs::write(&path, format!("{}{old}", generate_pem().unwrap())).unwrap();
        let changed = TokenSigner::open_or_create(&path).unwrap();
        assert_eq!(algorithms(&changed), ["RSA RS256", "EC ES256"]);
        changed.verify(&token).unwrap();
        let token = changed.sign(&json!({ "sub": "x" }));
        changed.verify(&token).unwrap();
        assert_eq!(former.verify(&token), Err(TokenError::UnknownKey));
    }

    /// findings-2 C37: another implementation verifies the signature, with the key in the form for clients.
    #[test]
    fn a_token_is_verified_by_the_published_key() {
        use ring::signature::{
            ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
            UnparsedPublicKey,
        };
        for signer in signers() {
            let token = signer.sign(&json!({ "sub": "x" }));
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let (header, _) = signed.split_once('.').unwrap();
            let header = decode_json(header).unwrap();
            let signature = decode(signature).unwrap();
            let key = signer.jwks()["keys"][0].clone();
            assert_eq!((&header["alg"], &header["kid"]), (&key["alg"], &key["kid"]));
            let part = |name: &str| decode(key[name].as_str().unwrap()).unwrap();
            let verified = match key["alg"].as_str().unwrap() {
                "RS256" => {
                    let (n, e) = (part("n"), part("e"));
                    assert_eq!((n.len(), &*e), (256, &[1, 0, 1][..]));
                    let key = RsaPublicKeyComponents { n, e };
                    key.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &signature)
                }
                _ => {
                    let point = [&[4][..], &part("x"), &part("y")].concat();
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                        .verify(signed.as_bytes(), &signature)
                }
            };
            verified.unwrap();
        }
    }

    #[test]
    fn a_token_holds_from_its_start_to_its_end_with_a_minute_of_leeway() {
        let [signer, _] = signers();
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
        for signer in signers() {
            let token = signer.sign(&json!({ "sub": "system:serviceaccount:default:a" }));
            signer.verify(&token).unwrap();
            for at in 0..token.len() {
                let mut changed = token.clone().into_bytes();
                // The lowest bits of a part's last letter may be padding; the highest bits never are.
                changed[at] = if changed[at] == b'A' { b'w' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                assert!(signer.verify(&changed).is_err(), "letter {at}");
            }
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
        // The public key must not be usable as the secret of another algorithm.
        let [rsa, _] = signers();
        for alg in ["HS256", "ES256", "PS256"] {
            let header = part(json!({ "alg": alg, "kid": rsa.key_id() }));
            let token = format!("{header}.{}.{}", part(claims.clone()), "A".repeat(43));
            assert_eq!(rsa.verify(&token), Err(TokenError::UnknownKey), "{alg}");
        }
        let odd = signer.sign(&json!({ "exp": "never" }));
        assert_eq!(signer.verify(&odd), Err(TokenError::Malformed));
    }
}
