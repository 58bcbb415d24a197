//! A call of a webhook: one HTTPS request.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use admission_rules::{Client, ReviewError, Webhook};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use json_tree::Value;
use object_model::Status;
use object_model::dialling::{SpecialAddress, dialled};
use outbound_http::tls::{self, ClientConfig, Roots};
use thiserror::Error;

use super::responses::{self, ResponseError};
use crate::http::limits::WEBHOOK_RESPONSE_BYTES_MAX;
use crate::http::work;
use crate::objects::service_address::service_address;
use crate::objects::storage::Objects;

/// The reason why a webhook gave no valid response.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    #[error("failed to call webhook: Post {url:?}: {reason}")]
    Post { url: String, reason: Box<Self> },
    #[error("context deadline exceeded")]
    Timeout,
    #[error("{url:?}: {error}")]
    Url {
        url: String,
        error: http::uri::InvalidUri,
    },
    /// The Service of the webhook has no address.
    #[error("{}", .0.message)]
    Service(Status),
    #[error("{host}: {error}")]
    Resolution { host: String, error: io::Error },
    #[error("{host}: {address} addresses are not called")]
    SpecialAddress {
        host: String,
        address: SpecialAddress,
    },
    #[error("{0}: no address")]
    NoAddress(String),
    #[error("{0}")]
    Trust(String),
    #[error("caBundle: {0}")]
    Bundle(String),
    /// The connection, the handshake or the exchange failed.
    #[error("{0}")]
    Exchange(String),
    #[error("the server answered {0}")]
    Refused(StatusCode),
    #[error(transparent)]
    Response(#[from] ResponseError),
    #[error(transparent)]
    Review(#[from] ReviewError),
}

/// The address of a webhook.
struct Endpoint {
    /// The host name that the webhook's certificate must contain.
    host: String,
    port: u16,
    path: String,
    /// The address to connect to, if the host name must not be resolved.
    address: Option<SocketAddr>,
}

/// Calls a webhook; returns its JSON response.
pub(super) async fn send(
    objects: &Objects,
    webhook: &Webhook,
    review: &Value,
) -> Result<Value, CallError> {
    let limit = Duration::from_secs(webhook.timeout_seconds);
    let endpoint = endpoint_of(objects, webhook).await?;
    let url = format!(
        "https://{}:{}{}",
        endpoint.host, endpoint.port, endpoint.path
    );
    let exchange = exchange(&endpoint, webhook, review);
    let result = match tokio::time::timeout(limit, exchange).await {
        Ok(response) => response,
        Err(_) => Err(CallError::Timeout),
    };
    result.map_err(|error| CallError::Post {
        url,
        reason: Box::new(error),
    })
}

async fn endpoint_of(objects: &Objects, webhook: &Webhook) -> Result<Endpoint, CallError> {
    let timeout = format!("timeout={}s", webhook.timeout_seconds);
    match &webhook.client {
        Client::Url(url) => {
            let uri: Uri = url.parse().map_err(|error| CallError::Url {
                url: url.clone(),
                error,
            })?;
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok(Endpoint {
                host: host.to_owned(),
                port: uri.port_u16().unwrap_or(443),
                path: format!("{}?{timeout}", uri.path()),
                address: None,
            })
        }
        Client::Service {
            namespace,
            name,
            port,
            path,
        } => {
            let service = service_address(objects, namespace, name, *port).await;
            let address = service.map_err(CallError::Service)?;
            Ok(Endpoint {
                host: format!("{name}.{namespace}.svc"),
                port: *port,
                path: format!("{path}?{timeout}"),
                address: Some(address),
            })
        }
    }
}

/// The addresses of a host. A URL with a loopback address or `localhost` is allowed; another host name that resolves
/// to an address of this machine is refused.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, CallError> {
    let resolved = tokio::net::lookup_host((host, port)).await;
    let resolved = resolved.map_err(|error| CallError::Resolution {
        host: host.to_owned(),
        error,
    })?;
    let is_literal_local = host == "localhost" || host.parse::<IpAddr>().is_ok();
    let mut allowed = Vec::new();
    let mut refused = None;
    for address in resolved {
        match dialled(address.ip()) {
            Ok(ip) => allowed.push(SocketAddr::new(ip, port)),
            Err(SpecialAddress::Loopback) if is_literal_local => allowed.push(address),
            Err(special) => {
                cov_mark::hit!(findings_s15_webhooks);
                refused = Some(special);
            }
        }
    }
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(address)) => Err(CallError::SpecialAddress {
            host: host.to_owned(),
            address,
        }),
        (true, None) => Err(CallError::NoAddress(host.to_owned())),
    }
}

async fn exchange(
    endpoint: &Endpoint,
    webhook: &Webhook,
    review: &Value,
) -> Result<Value, CallError> {
    fn failed(error: impl std::fmt::Display) -> CallError {
        CallError::Exchange(error.to_string())
    }
    let config = trust(&webhook.ca_bundle).await?;
    let addresses = match endpoint.address {
        Some(address) => vec![address],
        None => resolve(&endpoint.host, endpoint.port).await?,
    };
    let limit = Duration::from_secs(webhook.timeout_seconds);
    let stream = outbound_http::connect(addresses.as_slice(), limit).await;
    let stream = tls::handshake(stream.map_err(failed)?, &endpoint.host, config).await;
    let request = Request::post(&endpoint.path)
        .header(header::HOST, format!("{}:{}", endpoint.host, endpoint.port))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(failed)?;
    let response = outbound_http::exchange(stream.map_err(failed)?, request).await;
    let (head, body) = response.map_err(failed)?.into_parts();
    let body = body
        .whole(WEBHOOK_RESPONSE_BYTES_MAX)
        .await
        .map_err(failed)?;
    if !head.status.is_success() {
        return Err(CallError::Refused(head.status));
    }
    work::expect(body.len()).await;
    Ok(responses::body(&body)?)
}

/// TLS settings that trust the authorities of the `caBundle`; without a bundle, the authorities of this machine.
async fn trust(bundle: &str) -> Result<Arc<ClientConfig>, CallError> {
    let roots = match bundle {
        "" => Roots::of_machine().await,
        bundle => authorities(bundle)?,
    };
    tls::trusting(roots).map_err(|error| CallError::Trust(error.to_string()))
}

/// The authorities of a `caBundle`.
pub(crate) fn authorities(bundle: &str) -> Result<Roots, CallError> {
    let pem = STANDARD.decode(bundle).map_err(ResponseError::Base64)?;
    let roots = Roots::none().with_pem(&pem);
    roots.map_err(|error| CallError::Bundle(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // findings S15
    #[tokio::test]
    async fn a_webhook_is_not_called_on_addresses_of_no_host() {
        cov_mark::check!(findings_s15_webhooks);
        let of = async |host: &str| resolve(host, 443).await;
        assert_eq!(
            of("10.9.9.9").await.unwrap(),
            ["10.9.9.9:443".parse().unwrap()]
        );
        assert!(of("localhost").await.is_ok() && of("127.0.0.1").await.is_ok());
        for host in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            let error = of(host).await.unwrap_err().to_string();
            assert!(error.contains("not called"), "{host}");
        }
    }
}
