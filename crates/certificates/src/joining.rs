//! The text that a machine needs to join a cluster: a bootstrap token and the hash of the certificate authority's
//! public key.

use std::fmt;

use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::parse_x509_certificate;

use crate::CertificateError;

/// The characters of tokens.
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A random text of lower-case letters and digits.
///
/// *Errors.* `Random` if the system provides no random numbers.
pub fn random_text(length: usize) -> Result<String, CertificateError> {
    let random = SystemRandom::new();
    let mut text = String::with_capacity(length);
    // The largest multiple of the number of letters. Larger bytes are skipped, because they would make some letters
    // more likely.
    let limit = 256 - 256 % LETTERS.len();
    while text.len() < length {
        let mut bytes = [0; 32];
        let filled = random.fill(&mut bytes);
        filled.map_err(|_| CertificateError::Random)?;
        let good = bytes.iter().map(|byte| usize::from(*byte));
        let letters = good.filter(|number| *number < limit);
        let letters = letters.filter_map(|number| LETTERS.get(number % LETTERS.len()));
        let missing = length - text.len();
        text.extend(letters.take(missing).map(|letter| char::from(*letter)));
    }
    Ok(text)
}

/// The SHA-256 of a public key in DER (SubjectPublicKeyInfo), as kubeadm's
/// `--discovery-token-ca-cert-hash`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of the key of a certificate (DER); `None` if it is not a certificate.
    pub fn of_certificate(certificate: &[u8]) -> Option<Self> {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        let hash = digest(&SHA256, parsed.public_key().raw);
        hash.as_ref().try_into().ok().map(Self)
    }

    /// The hash of the key of the first certificate in a PEM text.
    pub fn of_pem(pem: &str) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        Self::of_certificate(&certificate)
    }

    /// Parses 64 hexadecimal digits; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            for digit in pair {
                let value = char::from(*digit).to_digit(16)?;
                *byte = *byte << 4 | u8::try_from(value).ok()?;
            }
        }
        Some(Self(hash))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Authority;

    #[test]
    fn a_random_text_has_its_length_and_letters() {
        let mut letters = std::collections::BTreeSet::new();
        for length in [0, 6, 16, 100] {
            let text = random_text(length).unwrap();
            assert_eq!(text.len(), length);
            assert!(text.bytes().all(|letter| LETTERS.contains(&letter)));
            assert!(letters.insert(text));
        }
        assert_ne!(random_text(16).unwrap(), random_text(16).unwrap());
    }

    #[test]
    fn the_hash_is_that_of_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(dir.path()).unwrap();
        let hash = KeyHash::of_pem(authority.ca_pem()).unwrap();
        let text = hash.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(KeyHash::parse(&text), Some(hash));
        assert_eq!(KeyHash::parse(&text.to_uppercase()), Some(hash));
        for other in [
            "",
            &text[1..],
            &format!("{text}0"),
            &text.replace(&text[..1], "x"),
        ] {
            assert_eq!(KeyHash::parse(other), None, "{other}");
        }
        let another = tempfile::tempdir().unwrap();
        let another = Authority::open_or_create(another.path()).unwrap();
        assert_ne!(KeyHash::of_pem(another.ca_pem()), Some(hash));
        assert_eq!(KeyHash::of_pem("x"), None);
    }
}
