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
use http_client::tls::{self, ClientConfig, Roots};
use json_tree::Value;
use object_model::dialling::{SpecialAddress, dialled};

use super::answers;
use crate::http::limits::WEBHOOK_ANSWER_BYTES_MAX;
use crate::http::work;
use crate::objects::service_address::service_address;
use crate::objects::storage::Objects;

/// The address of a webhook.
struct Place {
    /// The name that its certificate must have.
    host: String,
    port: u16,
    path: String,
    /// The address to connect to, if it differs from the name's.
    address: Option<SocketAddr>,
}

/// Calls a webhook; returns its JSON response.
///
/// *Errors.* A message.
pub(super) async fn ask(
    objects: &Objects,
    webhook: &Webhook,
    review: &Value,
) -> Result<Value, String> {
    let limit = Duration::from_secs(webhook.timeout_seconds);
    let place = place(objects, webhook).await?;
    let url = format!("https://{}:{}{}", place.host, place.port, place.path);
    let asking = exchange(&place, webhook, review);
    let answer = match tokio::time::timeout(limit, asking).await {
        Ok(answer) => answer,
        Err(_) => Err("context deadline exceeded".to_owned()),
    };
    answer.map_err(|why| format!("failed to call webhook: Post {url:?}: {why}"))
}

async fn place(objects: &Objects, webhook: &Webhook) -> Result<Place, String> {
    let timeout = format!("timeout={}s", webhook.timeout_seconds);
    match &webhook.client {
        Client::Url(url) => {
            let uri: Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok(Place {
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
            let found = service_address(objects, namespace, name, *port).await;
            let address = found.map_err(|status| status.message)?;
            Ok(Place {
                host: format!("{name}.{namespace}.svc"),
                port: *port,
                path: format!("{path}?{timeout}"),
                address: Some(address),
            })
        }
    }
}

/// The addresses of a host. An address of this machine or `localhost` in the webhook's URL is used;
/// a name that resolves to this machine is refused.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|error| format!("{host}: {error}"))?;
    let is_own_word = host == "localhost" || host.parse::<IpAddr>().is_ok();
    let mut allowed = Vec::new();
    let mut refused = None;
    for address in found {
        match dialled(address.ip()) {
            Ok(ip) => allowed.push(SocketAddr::new(ip, port)),
            Err(SpecialAddress::Loopback) if is_own_word => allowed.push(address),
            Err(special) => refused = Some(special),
        }
    }
    match (allowed.is_empty(), refused) {
        (false, _) => Ok(allowed),
        (true, Some(special)) => Err(format!("{host}: {special} addresses are not called")),
        (true, None) => Err(format!("{host}: no address")),
    }
}

async fn exchange(place: &Place, webhook: &Webhook, review: &Value) -> Result<Value, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let config = trust(&webhook.ca_bundle).await?;
    let addresses = match place.address {
        Some(address) => vec![address],
        None => resolve(&place.host, place.port).await?,
    };
    let limit = Duration::from_secs(webhook.timeout_seconds);
    let stream = http_client::connect(addresses.as_slice(), limit).await;
    let stream = tls::handshake(stream.map_err(text)?, &place.host, config).await;
    let request = Request::post(&place.path)
        .header(header::HOST, format!("{}:{}", place.host, place.port))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(text)?;
    let response = http_client::exchange(stream.map_err(text)?, request).await;
    let (head, body) = response.map_err(text)?.into_parts();
    let body = body.whole(WEBHOOK_ANSWER_BYTES_MAX).await.map_err(text)?;
    if !head.status.is_success() {
        return Err(format!("the server answered {}", head.status));
    }
    work::expect(body.len()).await;
    answers::body(&body)
}

/// The settings that trust the authorities of the bundle, or of the machine if there is no bundle.
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
