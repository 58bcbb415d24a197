//! Clients of the components that run on every node in addition to the node agent: the proxy of Services,
//! the DNS server, the provisioner. Each client is a ServiceAccount, with a token that is bound to the Node
//! object (KEP-4193).

use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube_api_client::{Api, Body, BoxError, Client, PostParams};
use kubeconfig::{Settings, Transport, TransportError};
use resource_kinds::NodeAccount;
use resource_kinds::namespaces::KUBE_SYSTEM;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use crate::client::{NAMESPACE, connect, renewed_client};
use crate::error::Error;
use crate::keys::Identity;
use crate::servers::Servers;

/// The requested lifetime of a token, as for tokens in pods.
const LIFE: Duration = Duration::from_secs(3600);
/// The share of its lifetime after which a token is replaced, as in kubelet.
const EARLIEST: f64 = 0.75;
/// The share of the lifetime over which the nodes of a cluster spread their requests.
const SPREAD: f64 = 0.1;
/// Time limit of a request for a token, because all requests of the account wait for it.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The delay after a failed request, during which the present token is used while it is valid.
const RETRY: Duration = Duration::from_secs(10);

/// A client that is a ServiceAccount of `kube-system`, with a token that is bound to the present Node
/// object with this name. The token is requested with the node's certificate. It is requested again after
/// about 80 % of its lifetime, or after the server has rejected it.
///
/// # Errors
/// A request fails if there is no token, for example because the Node object does not exist. A request
/// whose token was rejected returns the rejection; the next request gets a new token.
pub fn account_client(
    servers: &Servers,
    ca_pem: &str,
    identity: watch::Receiver<Identity>,
    node_name: &str,
    account: NodeAccount,
) -> Client {
    let tokens = Arc::new(Tokens {
        node: renewed_client(servers, ca_pem, identity),
        servers: servers.clone(),
        ca_pem: ca_pem.to_owned(),
        node_name: node_name.to_owned(),
        account,
        current: Mutex::default(),
    });
    let service = tower::service_fn(move |request: Request<Body>| {
        let tokens = tokens.clone();
        async move {
            let (transport, times) = tokens.current().await?;
            let response = tokens.servers.send(&transport, request).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                tokens.forget(times).await;
            }
            Ok::<_, BoxError>(response)
        }
    });
    Client::new(service, NAMESPACE)
}

/// The tokens of an account, of which one is used at a time.
struct Tokens {
    /// The client with the node's certificate.
    node: Client,
    servers: Servers,
    ca_pem: String,
    node_name: String,
    account: NodeAccount,
    current: Mutex<Option<TokenConnections>>,
}

/// Connections with a token.
struct TokenConnections {
    transport: Transport<Body>,
    /// The generation of the connections.
    generation: u64,
    times: Times,
    /// The time of the next request for a token.
    due: Instant,
}

/// The lifetime of a token on this machine's monotonic clock, because the clocks of two machines differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    /// The time of the request, which is before the token was issued.
    requested_at: Instant,
    life: Duration,
}

impl Times {
    /// The time of the next request for a token; `share` is between 0 and 1.
    fn renewal(self, share: f64) -> Instant {
        let part = EARLIEST + SPREAD * share.clamp(0.0, 1.0);
        self.requested_at + self.life.mul_f64(part)
    }

    /// The time of the next request after a failed request; `None` if the token is no longer valid.
    fn retry(self, now: Instant) -> Option<Instant> {
        (now < self.requested_at + self.life).then(|| now + RETRY)
    }
}

impl Tokens {
    /// The connections with the present token. Other requests wait while a token is requested.
    async fn current(&self) -> Result<(Transport<Body>, Times), Error> {
        let mut current = self.current.lock().await;
        let now = Instant::now();
        let generation = self.servers.generation();
        let is_good = |connections: &&TokenConnections| {
            now < connections.due && connections.generation == generation
        };
        if let Some(connections) = current.as_ref().filter(is_good) {
            return Ok((connections.transport.clone(), connections.times));
        }
        let renewed = match self.connect(now).await {
            Ok(renewed) => renewed,
            Err(error) => {
                let connections = current.take().and_then(|connections| {
                    let due = connections.times.retry(Instant::now())?;
                    Some(TokenConnections { due, ..connections })
                });
                let connections = connections.ok_or(error);
                connections.inspect(|_| {
                    let account = self.account.name();
                    tracing::warn!(account, "the token is not renewed; the one before is used");
                })?
            }
        };
        let connections = current.insert(renewed);
        Ok((connections.transport.clone(), connections.times))
    }

    /// Removes the rejected token, unless another request has replaced it already. The next request gets a
    /// new token.
    async fn forget(&self, refused: Times) {
        let mut current = self.current.lock().await;
        if current
            .as_ref()
            .is_some_and(|connections| connections.times == refused)
        {
            *current = None;
        }
    }

    async fn connect(&self, now: Instant) -> Result<TokenConnections, Error> {
        let failed = |source: BoxError| Error::AccountToken {
            account: self.account.name(),
            source,
        };
        let generation = self.servers.generation();
        let response = timeout(REQUEST_LIMIT, self.request_token()).await;
        let response = response.map_err(|timeout_error| failed(timeout_error.into()))?;
        let response = response.map_err(|error| failed(error.into()))?;
        let granted = response.spec.and_then(|spec| spec.expiration_seconds);
        let granted = granted.and_then(|seconds| u64::try_from(seconds).ok());
        let token = response.status.and_then(|status| status.token);
        let settings = Settings::of_server(self.servers.current(), &self.ca_pem);
        let settings = settings.with_token(&token.unwrap_or_default());
        let times = Times {
            requested_at: now,
            life: granted.map_or(LIFE, Duration::from_secs),
        };
        Ok(TokenConnections {
            transport: connect(settings.ok_or(TransportError::Token)).await?,
            generation,
            times,
            due: times.renewal(rand::random()),
        })
    }

    async fn request_token(&self) -> Result<TokenRequest, kube_api_client::Error> {
        // A Node object that was registered again has another UID.
        let nodes: Api<Node> = Api::all(self.node.clone());
        let node = nodes.get(&self.node_name).await?;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Node".to_owned()),
                    name: node.metadata.name,
                    uid: node.metadata.uid,
                }),
                expiration_seconds: i64::try_from(LIFE.as_secs()).ok(),
                audiences: None,
            }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.node.clone(), KUBE_SYSTEM);
        let params = PostParams::default();
        let name = self.account.name();
        accounts
            .create_subresource("token", name, &params, &request)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_before_its_end() {
        let requested_at = Instant::now();
        let hour = Times {
            requested_at,
            life: Duration::from_secs(3600),
        };
        for (share, seconds) in [
            (0.0, 2700..2701),
            (0.5, 2879..2881),
            (1.0, 3059..3061),
            (7.0, 3059..3061),
        ] {
            let after = hour.renewal(share) - requested_at;
            assert!(seconds.contains(&after.as_secs()), "{share}: {after:?}");
        }
    }

    #[test]
    fn an_older_token_is_used_until_its_end() {
        let requested_at = Instant::now();
        let life = Duration::from_secs(600);
        let times = Times { requested_at, life };
        let late = requested_at + Duration::from_secs(599);
        assert_eq!(times.retry(late), Some(late + RETRY));
        assert_eq!(times.retry(requested_at + life), None);
    }
}
