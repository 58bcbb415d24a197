//! TLS: the server's side of the handshake, with optional client certificates.
//!
//! As upstream, the handshake accepts any client certificate whose key the client has; its
//! signature is verified afterwards. A client with a stale certificate therefore gets a 401 with an
//! explanation, and not a broken connection.

use std::sync::{Arc, PoisonError, RwLock};

use outbound_http::tls::BundleError;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

/// Certificates and keys, each as PEM text.
#[derive(Clone)]
pub struct TlsMaterial {
    /// The server's certificate, followed by the intermediate certificates.
    pub certificate_pem: String,
    pub key_pem: String,
    /// The certificate authorities that sign client certificates.
    pub client_ca_pem: String,
}

impl std::fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

/// The error of setting up TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text is invalid.
    #[error("read the {what} as PEM")]
    Pem {
        /// The name of the invalid text.
        what: &'static str,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The certificates or the key cannot be parsed.
    #[error("read certificates as PEM")]
    Bundle(#[from] BundleError),
    /// rustls refuses the certificate or the key.
    #[error("set up TLS")]
    Rustls(#[from] rustls::Error),
    #[error("use the client CA")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
}

/// The TLS settings of the listener, and the verifier of client certificates for the identity layer.
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) clients: Arc<dyn ClientCertVerifier>,
    current: Arc<CurrentCertificate>,
}

impl Tls {
    pub(crate) fn new(material: &TlsMaterial) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&material.client_ca_pem, "client CA")? {
            roots.add(certificate)?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()?;
        let identity = identity(&material.certificate_pem, &material.key_pem)?;
        let certificate = Arc::new(CurrentCertificate(RwLock::new(identity)));
        let lenient = AnyCertificate {
            provider: provider.clone(),
            trusted: clients.clone(),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(lenient))
            .with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            clients,
            current: certificate,
        })
    }

    /// Replaces the certificate for new connections.
    pub(crate) fn show(&self, certificate_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let identity = identity(certificate_pem, key_pem)?;
        *self
            .current
            .0
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
    }
}

/// The certificate that the server presents to new connections.
#[derive(Debug)]
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.clone())
    }
}

fn identity(certificate_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(certificate_pem, "server certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|source| TlsError::Pem {
            what: "server key",
            source,
        })?;
    let provider = ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider)?))
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::Pem { what, source })
}

/// Accepts any client certificate in the handshake. The client must still prove that it has the private key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
    trusted: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trusted.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // The identity layer verifies the signature of the certificate later, with `Tls::clients`.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
