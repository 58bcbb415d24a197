//! TLS settings of clients: trust in given roots, in the roots of the machine, or in any server; and the client
//! certificate.

use std::io::{self, Read, Write};
use std::sync::Arc;

use host_kernel::blocking_value;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime, pem,
};
pub use rustls::{ClientConfig, Error};
use rustls::{
    ClientConnection, DigitallySignedStruct, InvalidMessage, RootCertStore, SignatureScheme,
    StreamOwned,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The reason why certificates or a key are refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The PEM text is malformed, or contains no key.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// A certificate is malformed.
    #[error(transparent)]
    Certificate(#[from] Error),
    /// The PEM text contains no certificate.
    #[error("no certificate found")]
    NoCertificate,
    /// The PEM text contains no key.
    #[error("no private key found")]
    NoKey,
}

/// The trusted certificate authorities.
#[derive(Clone, Debug)]
pub struct Roots(RootCertStore);

impl Roots {
    /// No trusted authority, so every server certificate is refused.
    pub fn none() -> Self {
        Self(RootCertStore::empty())
    }

    /// The authorities that the machine trusts. Unreadable certificates are left out.
    pub async fn of_machine() -> Self {
        let mut roots = RootCertStore::empty();
        if let Ok(loaded) = blocking_value(rustls_native_certs::load_native_certs).await {
            roots.add_parsable_certificates(loaded.certs);
        }
        Self(roots)
    }

    /// Adds all certificates in a PEM text.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn with_pem(mut self, pem: &[u8]) -> Result<Self, BundleError> {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            self.0.add(certificate?)?;
        }
        Ok(self)
    }

    /// Whether no authority is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The certificates in a PEM text, at least one.
///
/// # Errors
/// See [`BundleError`].
pub fn chain_of_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain? {
        none if none.is_empty() => Err(BundleError::NoCertificate),
        chain => Ok(chain),
    }
}

/// The private key in a PEM text.
///
/// # Errors
/// See [`BundleError`].
pub fn key_of_pem(pem: &[u8]) -> Result<PrivateKeyDer<'static>, BundleError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => BundleError::NoKey,
        error => error.into(),
    })
}

/// The servers that a client accepts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Servers whose certificate chain ends at one of the roots.
    Roots(Roots),
    /// Any server. Certificates are not verified.
    AnyServer,
}

/// A client certificate, with its chain and its key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// An identity of a certificate chain and its key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// An identity whose certificates and key are read from PEM texts.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn of_pem(certificates: &[u8], key: &[u8]) -> Result<Self, BundleError> {
        Ok(Self::new(chain_of_pem(certificates)?, key_of_pem(key)?))
    }
}

/// The TLS settings of a client with the given trust and, if given, with a client certificate.
///
/// # Errors
/// The key is malformed, or does not belong to the certificate.
pub fn client(trust: Trust, identity: Option<Identity>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots.0),
        Trust::AnyServer => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider))),
    };
    Ok(Arc::new(match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    }))
}

/// TLS settings that accept servers whose certificate chain ends at one of the roots.
///
/// # Errors
/// The crypto provider supports no protocol version, which does not happen.
pub fn trusting(roots: Roots) -> Result<Arc<ClientConfig>, Error> {
    client(Trust::Roots(roots), None)
}

/// TLS settings that accept any server. Certificates are not verified.
///
/// # Errors
/// The errors of [`trusting`].
pub fn insecure() -> Result<Arc<ClientConfig>, Error> {
    client(Trust::AnyServer, None)
}

/// The reason why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's name is neither a host name nor an address.
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    /// The server responds, but not in TLS.
    #[error(transparent)]
    NotTls(io::Error),
    /// The connection ended, or the certificate was refused.
    #[error(transparent)]
    Failed(io::Error),
}

/// Starts TLS over a connection with the named server.
///
/// # Errors
/// See [`TlsError`].
pub async fn handshake<S>(
    stream: S,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(host.to_owned())?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    connected.map_err(|error| {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                TlsError::NotTls(error)
            }
            _ => TlsError::Failed(error),
        }
    })
}

/// TLS over a blocking connection.
pub type BlockingStream<S> = StreamOwned<ClientConnection, S>;

/// Starts TLS over a blocking connection; see [`handshake`]. The handshake happens during the first write or read,
/// which returns its errors.
///
/// # Errors
/// See [`TlsError`].
pub fn over_blocking<S: Read + Write>(
    stream: S,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<BlockingStream<S>, TlsError> {
    let name = ServerName::try_from(host.to_owned())?;
    let connection = ClientConnection::new(config, name);
    let connection = connection.map_err(|error| TlsError::Failed(io::Error::other(error)))?;
    Ok(StreamOwned::new(connection, stream))
}

/// A verifier that accepts every certificate. The server must still prove that it has the certificate's key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
