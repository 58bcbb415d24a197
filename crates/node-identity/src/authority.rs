//! The certificate of the authority, which is recognised by the hash of its key.

use std::sync::Arc;
use std::time::Duration;

use certificates::KeyHash;
use http::Uri;
use outbound_http::tls::{self, ClientConfig, Roots, TlsError, Trust};
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::error::Error;
use crate::keys;

/// A server that does not respond within this time counts as unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The default port of a URL.
const HTTPS: u16 = 443;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The certificate (PEM) of the authority with this hash, which a server sends in its TLS handshake. No
/// data is sent to the server before the hash is correct and the server's certificate is verified with the
/// authority.
///
/// # Errors
/// See [`Error`]: the server does not respond, has another authority, or the clocks differ.
pub async fn find_authority(server: &Uri, hash: KeyHash) -> Result<String, Error> {
    let unreachable = |source: BoxError| Error::Unreachable {
        server: server.to_string(),
        source,
    };
    let any = tls::insecure().map_err(|error| Error::Connection(Box::new(error)))?;
    let connection = handshake(server, any).await.map_err(unreachable)?;
    let chain = connection
        .get_ref()
        .1
        .peer_certificates()
        .unwrap_or_default();
    let mut certificates = chain.iter();
    let of_token =
        certificates.find(|certificate| KeyHash::of_certificate(certificate) == Some(hash));
    let authority = of_token.ok_or_else(|| Error::OtherAuthority {
        server: server.to_string(),
    })?;
    let pem = keys::pem(authority);
    drop(connection);
    let roots = Roots::none().with_pem(pem.as_bytes());
    let roots = roots.map_err(|error| Error::Connection(Box::new(error)))?;
    let trusting = tls::client(Trust::Roots(roots), None);
    let trusting = trusting.map_err(|error| Error::Connection(Box::new(error)))?;
    match handshake(server, trusting).await {
        Ok(_) => Ok(pem),
        Err(error) => Err(match refusal(error.as_ref()) {
            Some(CertificateError::Expired | CertificateError::NotValidYet) => clock(server),
            Some(
                CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYetContext { .. },
            ) => clock(server),
            Some(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                Error::OtherAuthority {
                    server: server.to_string(),
                }
            }
            _ => unreachable(error),
        }),
    }
}

fn clock(server: &Uri) -> Error {
    Error::Clock {
        server: server.to_string(),
        now: jiff::Timestamp::now().to_string(),
    }
}

async fn handshake(
    server: &Uri,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, BoxError> {
    let host = server.host().ok_or("the URL has no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = server.port_u16().unwrap_or(HTTPS);
    let connected = async {
        let stream = outbound_http::connect((host, port), CONNECT_LIMIT).await?;
        Ok(tls::handshake(stream, host, config).await?)
    };
    let connected = tokio::time::timeout(CONNECT_LIMIT, connected).await;
    connected.map_err(|_| "it does not answer in time")?
}

/// The reason why a certificate was rejected.
fn refusal(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<CertificateError> {
    let TlsError::Failed(failed) = error.downcast_ref()? else {
        return None;
    };
    match failed.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(why) => Some(why.clone()),
        _ => None,
    }
}
