//! A call of a webhook: one HTTPS request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use admission_rules::{Client, Webhook};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::Full;
use json_tree::Value;
use object_model::dialling::{SpecialAddress, dialled};
use outbound_http::tls::{self, ClientConfig, Roots};

use super::responses;
use crate::http::limits::WEBHOOK_RESPONSE_BYTES_MAX;
use crate::http::work;
use crate::objects::service_address::service_address;
use crate::objects::storage::Objects;

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
///
/// *Errors.* The reason of the failure as text.
pub(super) async fn send(
    objects: &Objects,
    webhook: &Webhook,
    review: &Value,
) -> Result<Value, String> {
    let limit = Duration::from_secs(webhook.timeout_seconds);
    let endpoint = endpoint_of(objects, webhook).await?;
    let url = format!(
        "https://{}:{}{}",
        endpoint.host, endpoint.port, endpoint.path
    );
    let asking = exchange(&endpoint, webhook, review);
    let result = match tokio::time::timeout(limit, asking).await {
        Ok(response) => response,
        Err(_) => Err("context deadline exceeded".to_owned()),
    };
    result.map_err(|why| format!("failed to call webhook: Post {url:?}: {why}"))
}

async fn endpoint_of(objects: &Objects, webhook: &Webhook) -> Result<Endpoint, String> {
    let timeout = format!("timeout={}s", webhook.timeout_seconds);
    match &webhook.client {
        Client::Url(url) => {
            let uri: Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
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
            let address = service.map_err(|status| status.message)?;
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
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let resolved = tokio::net::lookup_host((host, port)).await;
    let resolved = resolved.map_err(|error| format!("{host}: {error}"))?;
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
        (true, Some(special)) => Err(format!("{host}: {special} addresses are not called")),
        (true, None) => Err(format!("{host}: no address")),
    }
}

async fn exchange(endpoint: &Endpoint, webhook: &Webhook, review: &Value) -> Result<Value, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let config = trust(&webhook.ca_bundle).await?;
    let addresses = match endpoint.address {
        Some(address) => vec![address],
        None => resolve(&endpoint.host, endpoint.port).await?,
    };
    let limit = Duration::from_secs(webhook.timeout_seconds);
    let stream = outbound_http::connect(addresses.as_slice(), limit).await;
    let stream = tls::handshake(stream.map_err(text)?, &endpoint.host, config).await;
    let request = Request::post(&endpoint.path)
        .header(header::HOST, format!("{}:{}", endpoint.host, endpoint.port))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(text)?;
    let response = outbound_http::exchange(stream.map_err(text)?, request).await;
    let (head, body) = response.map_err(text)?.into_parts();
    let body = body.whole(WEBHOOK_RESPONSE_BYTES_MAX).await.map_err(text)?;
    if !head.status.is_success() {
        return Err(format!("the server answered {}", head.status));
    }
    work::expect(body.len()).await;
    responses::body(&body)
}

/// TLS settings that trust the authorities of the `caBundle`; without a bundle, the authorities of this machine.
async fn trust(bundle: &str) -> Result<Arc<ClientConfig>, String> {
    let roots = match bundle {
        "" => Roots::of_machine().await,
        bundle => authorities(bundle)?,
    };
    tls::trusting(roots).map_err(|error| error.to_string())
}

/// The authorities of a `caBundle`.
pub(crate) fn authorities(bundle: &str) -> Result<Roots, String> {
    let pem = STANDARD.decode(bundle).map_err(|error| error.to_string())?;
    let roots = Roots::none().with_pem(&pem);
    roots.map_err(|error| format!("caBundle: {error}"))
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
            assert!(of(host).await.unwrap_err().contains("not called"), "{host}");
        }
    }
}
