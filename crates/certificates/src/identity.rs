use std::fmt;
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};

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

/// The output must not contain the private key.
impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}
