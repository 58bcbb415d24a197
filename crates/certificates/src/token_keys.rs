//! A key of service account tokens: RSA for RS256, or P-256 for ES256.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use json_tree::{Value, json};
use rand::rngs::SysRng;
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
        RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
    },
};
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use rustls::pki_types::PrivateKeyDer;

use crate::{CertificateError, pem};

/// The size of new keys, as in kubeadm.
const RSA_BITS: usize = 2048;

/// The bytes in front of the point in the DER form of a P-256 public key (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The algorithm `rsaEncryption` in DER (RFC 3279).
const RSA_ALGORITHM: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

/// A key with its key id.
pub(crate) struct TokenKey {
    pair: Pair,
    /// The `kid`: as upstream, a digest of the public key in DER.
    pub id: String,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    P256(Box<EcdsaKeyPair>),
}

/// A new key for RS256, in PEM.
pub(crate) fn generate_pem() -> Result<String, CertificateError> {
    // The crate `rsa` only creates the key; `ring`, which signs, cannot create RSA keys.
    let key = rsa::PrivateKey::new(&mut SysRng, RSA_BITS).map_err(|_| CertificateError::Random)?;
    let pem = key.to_pkcs8_pem(LineEnding::LF);
    Ok(pem.map_err(|_| CertificateError::Random)?.to_string())
}

impl TokenKey {
    /// The key in DER; `None` if it has another type or size.
    pub fn from_der(der: &PrivateKeyDer<'_>, random: &SystemRandom) -> Option<Self> {
        let pair = match der {
            PrivateKeyDer::Pkcs1(der) => {
                Pair::Rsa(Box::new(RsaKeyPair::from_der(der.secret_pkcs1_der()).ok()?))
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                match RsaKeyPair::from_pkcs8(der) {
                    Ok(pair) => Pair::Rsa(Box::new(pair)),
                    Err(_) => {
                        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
                        let pair = EcdsaKeyPair::from_pkcs8(algorithm, der, random).ok()?;
                        Pair::P256(Box::new(pair))
                    }
                }
            }
            _ => return None,
        };
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &pair.public_der()));
        Some(Self { pair, id })
    }

    /// The name of the algorithm in token headers.
    pub fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
        }
    }

    /// The signature of a text; `None` if the system has no random numbers.
    pub fn sign(&self, text: &[u8], random: &SystemRandom) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, random, text, &mut signature)
                    .ok()?;
                Some(signature)
            }
            Pair::P256(pair) => Some(pair.sign(random, text).ok()?.as_ref().to_vec()),
        }
    }

    /// Whether this key created the signature of a text.
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.pair {
            Pair::Rsa(pair) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref())
                    .verify(text, signature)
            }
            Pair::P256(pair) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key())
                .verify(text, signature),
        };
        verified.is_ok()
    }

    /// The public key in PEM.
    pub fn public_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.pair.public_der())
    }

    /// The public key as a JSON Web Key (RFC 7518).
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Rsa(pair) => {
                let PublicKeyComponents { n, e } =
                    PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({
                    "use": "sig",
                    "kty": "RSA",
                    "kid": self.id,
                    "alg": self.algorithm(),
                    "n": text(&n),
                    "e": text(&e),
                })
            }
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                // An uncompressed point: the byte 4, then both coordinates.
                let (x, y) = point[1..].split_at(32);
                json!({
                    "use": "sig",
                    "kty": "EC",
                    "kid": self.id,
                    "crv": "P-256",
                    "alg": self.algorithm(),
                    "x": text(x),
                    "y": text(y),
                })
            }
        }
    }
}

impl Pair {
    /// The public key as SubjectPublicKeyInfo in DER (RFC 5280).
    fn public_der(&self) -> Vec<u8> {
        match self {
            Self::P256(pair) => [&P256_PREFIX[..], pair.public_key().as_ref()].concat(),
            Self::Rsa(pair) => {
                // A bit string starts with the number of unused bits in its last byte.
                let bits = [&[0], pair.public().as_ref()].concat();
                let key = der_value(0x03, &bits);
                der_value(0x30, &[&RSA_ALGORITHM[..], &key].concat())
            }
        }
    }
}

/// A value in DER, with its tag and its length.
fn der_value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let digits: Vec<u8> = length
        .iter()
        .copied()
        .skip_while(|byte| *byte == 0)
        .collect();
    let mut value = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => value.push(short),
        // The length has at most eight bytes.
        _ => {
            value.push(0x80 | digits.len() as u8);
            value.extend(digits);
        }
    }
    value.extend(content);
    value
}

#[cfg(test)]
mod tests {
    use rsa::pkcs1::EncodeRsaPrivateKey as _;
    use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    fn key(pem: &str) -> Option<TokenKey> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        TokenKey::from_der(&der, &SystemRandom::new())
    }

    // findings-2 C37
    #[test]
    fn the_public_key_has_the_form_that_other_programs_write() {
        let pem = generate_pem().unwrap();
        let other = rsa::PrivateKey::from_pkcs8_pem(&pem).unwrap();
        let token_key = key(&pem).unwrap();
        let public = other.to_public_key().to_public_key_pem(LineEnding::LF);
        assert_eq!(token_key.public_pem(), public.unwrap());
        // The format of older versions of `openssl genrsa`, and of kubeadm's `sa.key`.
        let older = other.to_pkcs1_pem(LineEnding::LF).unwrap();
        assert_eq!(key(&older).unwrap().id, token_key.id);
        let p256 = rcgen::KeyPair::generate().unwrap();
        let public = p256.public_key_pem().replace('\r', "");
        assert_eq!(key(&p256.serialize_pem()).unwrap().public_pem(), public);
    }

    #[test]
    fn keys_of_other_types_sign_nothing() {
        for other in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let other = rcgen::KeyPair::generate_for(other).unwrap();
            assert!(key(&other.serialize_pem()).is_none());
        }
    }
}
