//! TLS settings of clients: trust in given roots, in those of the machine, or in any server; and the
//! client's own certificate.

use std::io::{self, Read, Write};
use std::sync::Arc;

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

/// Why certificates or a key are refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The PEM text is malformed, or has no key.
    #[error(transparent)]
    Pem(#[from] pem::Error),
    /// A certificate is malformed.
    #[error(transparent)]
    Certificate(#[from] Error),
    /// The PEM text of certificates has none.
    #[error("no certificate found")]
    NoCertificate,
    /// The PEM text of a key has none.
    #[error("no private key found")]
    NoKey,
}

/// The certificates of authorities that are trusted.
#[derive(Clone, Debug)]
pub struct Roots(RootCertStore);

impl Roots {
    /// No trusted authority: every server certificate is refused.
    pub fn none() -> Self {
        Self(RootCertStore::empty())
    }

    /// The certificates that this machine trusts. Those that cannot be read are left out.
    pub async fn of_machine() -> Self {
        let load = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
        let mut roots = RootCertStore::empty();
        if let Ok(loaded) = load.await {
            roots.add_parsable_certificates(loaded.certs);
        }
        Self(roots)
    }

    /// Adds all certificates of a PEM text.
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

/// The certificates of a PEM text, of which there is at least one.
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

/// The key of a PEM text.
///
/// # Errors
/// See [`BundleError`].
pub fn key_of_pem(pem: &[u8]) -> Result<PrivateKeyDer<'static>, BundleError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        pem::Error::NoItemsFound => BundleError::NoKey,
        other => other.into(),
    })
}

/// The servers that a client accepts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those whose certificate leads to one of the roots.
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
    /// A certificate with its chain, and its key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// Reads the certificates and the key from PEM texts.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn of_pem(certificates: &[u8], key: &[u8]) -> Result<Self, BundleError> {
        Ok(Self::new(chain_of_pem(certificates)?, key_of_pem(key)?))
    }
}

/// Settings of a client that trusts servers as given, and that shows its certificate if it has one.
///
/// # Errors
/// The key is malformed, or is not that of the certificate.
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

/// Settings that accept servers whose certificate leads to one of the roots.
///
/// # Errors
/// The cryptography in use has no protocol version, which does not happen.
pub fn trusting(roots: Roots) -> Result<Arc<ClientConfig>, Error> {
    client(Trust::Roots(roots), None)
}

/// Settings that accept any server. Certificates are not verified.
///
/// # Errors
/// As of [`trusting`].
pub fn insecure() -> Result<Arc<ClientConfig>, Error> {
    client(Trust::AnyServer, None)
}

/// Why there is no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's name is neither a host name nor an address.
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    /// The server answers, but not in TLS.
    #[error(transparent)]
    NotTls(io::Error),
    /// The connection ended, or the certificate is not accepted.
    #[error(transparent)]
    Failed(io::Error),
}

/// Speaks TLS over a connection with the server of that name.
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

/// TLS over a connection that blocks.
pub type BlockingStream<S> = StreamOwned<ClientConnection, S>;

/// As [`handshake`], over a connection that blocks. The first write or read waits for the server's
/// part, and has its errors.
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

/// A verifier that accepts every certificate. The server has to own its key.
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
