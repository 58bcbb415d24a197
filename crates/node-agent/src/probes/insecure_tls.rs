//! TLS without verification of certificates, for probes (as in kubelet).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, InvalidMessage, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The error of a connection.
#[derive(Debug)]
pub enum NoTls {
    /// The server does not speak TLS.
    NotSpoken,
    /// Any other error, for the user.
    Failed(String),
}

/// Connects by TLS without verifying the server.
pub async fn connect(stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, NoTls> {
    let config = config().map_err(|error| NoTls::Failed(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| NoTls::Failed(error.to_string()))?;
    let connected = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    connected.map_err(|error| {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match cause {
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => NoTls::NotSpoken,
            _ => NoTls::Failed(format!("tls: {error}")),
        }
    })
}

fn config() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

    #[tokio::test]
    async fn a_server_that_nobody_vouches_for_is_heard() {
        // statefulset.md 12.5
        let temp = tempfile::tempdir().unwrap();
        let authority = certificates::Authority::open_or_create(temp.path()).unwrap();
        let names = certificates::SubjectAltNames::api_server("somebody.else", []);
        let identity = authority.server(&names).unwrap();
        let chain = CertificateDer::pem_slice_iter(identity.certificate_pem().as_bytes());
        let chain: Vec<_> = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            acceptor
                .accept(stream)
                .await
                .unwrap()
                .write_all(b"x")
                .await
                .unwrap();
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let mut tls = connect(stream, "127.0.0.1").await.unwrap();
        assert_eq!(tls.read_u8().await.unwrap(), b'x');
        server.await.unwrap();
    }
}
