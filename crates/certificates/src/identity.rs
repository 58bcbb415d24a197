use std::fmt;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

use crate::pem;

/// A certificate and the private key that it belongs to.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    certificate_pem: String,
    key_pem: String,
    certificate_der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Identity {
    /// A new certificate with its key.
    pub(crate) fn new(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate_der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        }
    }

    /// A certificate and its key; `None` if the texts are not PEM, or the key does not belong to the certificate.
    pub(crate) fn from_pem(certificate_pem: String, key_pem: String) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
        let key = KeyPair::from_pem(&key_pem).ok()?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        let certified = &parsed.tbs_certificate.subject_pki.subject_public_key.data;
        (**certified == *key.public_key_raw()).then(|| Self {
            certificate_der: certificate.to_vec(),
            key_der: key.serialize_der(),
            certificate_pem,
            key_pem,
        })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key as PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The private key as PEM of SEC1 (`BEGIN EC PRIVATE KEY`), the only form of such a key that fabric8's client in Java
    /// reads. The form of [`key_pem`](Self::key_pem) for a key that this program has not generated.
    pub fn sec1_key_pem(&self) -> String {
        let Some(der) = sec1_of_pkcs8(&self.key_der) else {
            return self.key_pem.clone();
        };
        cov_mark::hit!(findings_2_k4);
        pem::encode("EC PRIVATE KEY", &der)
    }

    /// The end of validity; `None` if the certificate cannot be parsed.
    pub fn ends(&self) -> Option<SystemTime> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.certificate_der).ok()?;
        Some(crate::inspect::ends(&parsed))
    }

    /// The certificate in the type of rustls.
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.certificate_der.clone())
    }

    /// The private key in the type of rustls.
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

/// The DER of PKCS#8 for a key of the curve P-256, before the private number and between this number and the public point.
const PKCS8_START: &[u8] = b"\x30\x81\x87\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
    \x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x6d\x30\x6b\x02\x01\x01\x04\x20";
const PKCS8_MIDDLE: &[u8] = b"\xa1\x44\x03\x42\x00";
/// The DER of SEC1 for the same key, which names the curve.
const SEC1_START: &[u8] = b"\x30\x77\x02\x01\x01\x04\x20";
const SEC1_MIDDLE: &[u8] = b"\xa0\x0a\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\xa1\x44\x03\x42\x00";

/// Bytes of the private number and of the uncompressed public point.
const NUMBER_BYTES: usize = 32;
const POINT_BYTES: usize = 65;

/// The key in SEC1; `None` if the key is not of P-256 or lacks its public point.
fn sec1_of_pkcs8(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (number, rest) = pkcs8
        .strip_prefix(PKCS8_START)?
        .split_at_checked(NUMBER_BYTES)?;
    let point = rest.strip_prefix(PKCS8_MIDDLE)?;
    let is_whole = point.len() == POINT_BYTES;
    is_whole.then(|| [SEC1_START, number, SEC1_MIDDLE, point].concat())
}

/// The output must not contain the private key.
impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::ring::sign::any_ecdsa_type;

    use super::*;

    /// findings-2 K4.
    #[test]
    fn a_key_in_sec1_is_the_key() {
        cov_mark::check!(findings_2_k4);
        let key = KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        let identity = Identity::new(&certificate, &key);
        let text = identity.sec1_key_pem();
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
        assert!(matches!(der, PrivateKeyDer::Sec1(_)), "{text}");
        assert!(text.lines().all(|line| line.len() <= pem::LINE), "{text}");
        let public = |der: &PrivateKeyDer<'_>| {
            let key = any_ecdsa_type(der).unwrap();
            key.public_key().unwrap().to_vec()
        };
        assert_eq!(public(&der), public(&identity.key_der()));
    }
}
