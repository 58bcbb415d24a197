//! The server to which a request is sent.

use std::net::{IpAddr, SocketAddr};

use custom_resources::conversion::WebhookClient;
use http::Uri;

use crate::http::configured_servers::{CallError, Trust, refused};
use crate::objects::service_address::service_address;
use crate::objects::storage::Objects;

/// A server in the configuration of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination<'a> {
    pub(crate) address: Address<'a>,
    pub(crate) trust: Trust<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address<'a> {
    /// An `https` URL.
    Url(&'a str),
    /// A Service of the cluster. Its certificate must contain `NAME.NAMESPACE.svc`.
    Service {
        namespace: &'a str,
        name: &'a str,
        port: u16,
        /// With a leading slash; may be empty.
        path: &'a str,
    },
}

impl<'a> Destination<'a> {
    /// The webhook with this address and `caBundle`.
    pub(crate) fn of_webhook(client: &'a WebhookClient, ca_bundle: &'a str) -> Self {
        let address = match client {
            WebhookClient::Url(url) => Address::Url(url),
            WebhookClient::Service {
                namespace,
                name,
                port,
                path,
            } => Address::Service {
                namespace,
                name,
                port: *port,
                path,
            },
        };
        Self {
            address,
            trust: Trust::Bundle(ca_bundle),
        }
    }
}

/// A destination whose Service is resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The host name of the URL, or the name of the Service.
    host: String,
    port: u16,
    path: String,
    /// The address of a Service's endpoint; `None` for a URL.
    address: Option<SocketAddr>,
}

impl Destination<'_> {
    pub(super) async fn endpoint(&self, objects: &Objects) -> Result<Endpoint, CallError> {
        match self.address {
            Address::Url(url) => of_url(url),
            Address::Service {
                namespace,
                name,
                port,
                path,
            } => {
                let address = service_address(objects, namespace, name, port).await;
                Ok(Endpoint {
                    host: format!("{name}.{namespace}.svc"),
                    port,
                    path: path.to_owned(),
                    address: Some(address.map_err(CallError::Service)?),
                })
            }
        }
    }
}

fn of_url(url: &str) -> Result<Endpoint, CallError> {
    let uri: Uri = url.parse().map_err(|error| CallError::Url {
        url: url.to_owned(),
        error,
    })?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    // Names are checked when they are resolved.
    if let Ok(ip) = host.parse::<IpAddr>()
        && let Some(address) = refused(host, ip)
    {
        return Err(CallError::SpecialAddress {
            host: host.to_owned(),
            address,
        });
    }
    Ok(Endpoint {
        host: host.to_owned(),
        port: uri.port_u16().unwrap_or(443),
        path: uri.path().to_owned(),
        address: None,
    })
}

impl Endpoint {
    /// The path of the destination with a query, which may be empty.
    pub(super) fn path_with(&self, query: &str) -> String {
        let path = match self.path.as_str() {
            "" => "/",
            path => path,
        };
        match query {
            "" => path.to_owned(),
            query => format!("{path}?{query}"),
        }
    }

    /// The URL that the request is sent to.
    pub(super) fn url(&self, path: &str) -> String {
        match self.address {
            Some(address) => format!("https://{address}{path}"),
            None => format!("https://{}{path}", self.authority()),
        }
    }

    /// The URL for users.
    pub(super) fn name(&self, path: &str) -> String {
        format!("https://{}{path}", self.authority())
    }

    /// The header `Host`.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The name in the certificate, if it is not the host of the URL that the request is sent to.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.address.map(|_| self.host.as_str())
    }
}

#[cfg(test)]
mod tests {
    use object_model::dialling::SpecialAddress;

    use super::*;

    // findings S15
    #[test]
    fn a_webhook_is_not_called_on_addresses_of_no_host() {
        cov_mark::check!(findings_s15_webhooks);
        for url in [
            "https://10.9.9.9/x",
            "https://localhost:8443",
            "https://127.0.0.1",
            "https://[::1]:1/",
        ] {
            assert!(of_url(url).is_ok(), "{url}");
        }
        for host in [
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            let error = of_url(&format!("https://{host}/x")).unwrap_err();
            assert!(error.to_string().contains("not called"), "{host}");
        }
        let loopback = "127.0.0.1".parse().unwrap();
        let special = refused("rebound.example.com", loopback);
        assert_eq!(special, Some(SpecialAddress::Loopback));
        assert_eq!(refused("localhost", loopback), None);
    }

    #[test]
    fn an_endpoint_of_a_service_is_called_under_the_name_of_the_service() {
        let endpoint = Endpoint {
            host: "hook.shop.svc".to_owned(),
            port: 443,
            path: String::new(),
            address: Some("10.1.2.3:8443".parse().unwrap()),
        };
        let path = endpoint.path_with("timeout=30s");
        assert_eq!(path, "/?timeout=30s");
        assert_eq!(endpoint.url(&path), "https://10.1.2.3:8443/?timeout=30s");
        assert_eq!(
            endpoint.name(&path),
            "https://hook.shop.svc:443/?timeout=30s"
        );
        assert_eq!(endpoint.server_name(), Some("hook.shop.svc"));
        let of_url = of_url("https://[fd00::1]:8443/x").unwrap();
        assert_eq!(of_url.url("/x"), "https://[fd00::1]:8443/x");
        assert_eq!(of_url.server_name(), None);
    }
}
