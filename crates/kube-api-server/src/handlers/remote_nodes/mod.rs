//! Connections to nodes on other machines: their API (the kubelet's paths) over TLS, at the address and port of the
//! Node object, or through the tunnel that the node has opened.
//!
//! Both sides present a certificate of the cluster's authority. The node's certificate must be valid for the address
//! and must contain the node name, because an address in a Node object proves no identity.

mod limits;
mod routes;
mod tunnels;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use certificates::ClientSubject;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use json_tree::Value;
use node_tunnel::{NodeStream, Tunnel};
use outbound_http::tls::{self, ClientConfig};
use process_telemetry::prometheus::{Metric, Page};
use resource_kinds::ObjectReader;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::access::tls::TlsError;
use crate::handlers::forwarding;
use crate::handlers::nodes::{NodeConnector, NodeService};
use crate::http::body::{BoxBody, BoxError};
use crate::objects::storage::{Objects, reading};
use limits::{ConnectionLimits, LimitedConnection};
pub use routes::NodeConnection;
use routes::{Attempt, LastDirectDial, attempts};
pub(crate) use tunnels::{Tunnels, accept};

/// The types of node addresses, the preferred type first (kubeadm's order).
const ADDRESS_TYPES: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];
/// The port of a node's API, unless the Node object contains another port.
const KUBELET_PORT: u16 = 10250;

/// A connection to a node whose certificate is verified.
type Connected = Either<TlsStream<TcpStream>, TlsStream<NodeStream>>;

/// The result of a connection test to a node of another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeReach {
    /// The address and port in the Node object.
    pub address: String,
    /// The connection that reached the node, or the errors of all attempts.
    pub connection: Result<NodeConnection, String>,
}

/// The nodes of this process, and the nodes of other machines.
pub(crate) struct Nodes {
    local: Arc<dyn NodeConnector>,
    objects: Arc<Objects>,
    client: RwLock<Option<Arc<ClientConfig>>>,
    remote: Arc<Remote>,
}

/// The connections to the nodes of other machines.
#[derive(Default)]
struct Remote {
    tunnels: Arc<Tunnels>,
    limits: ConnectionLimits,
    /// The last direct connection attempt, by node name.
    last: Mutex<BTreeMap<String, LastDirectDial>>,
    connections: Counts,
}

/// Counters of the attempts to connect.
#[derive(Default)]
struct Counts {
    direct: Count,
    tunnel: Count,
}

#[derive(Default)]
struct Count {
    established: AtomicU64,
    failed: AtomicU64,
}

const TUNNELS: Metric = Metric::gauge(
    "mainstay_node_tunnels",
    "Nodes with a tunnel to this server.",
);
const CONNECTIONS: Metric = Metric::counter(
    "mainstay_node_connections_total",
    "Attempts of this server to connect to nodes of other machines.",
);

impl Nodes {
    pub(crate) fn new(local: Arc<dyn NodeConnector>, objects: Arc<Objects>) -> Self {
        Self {
            local,
            objects,
            client: RwLock::default(),
            remote: Arc::default(),
        }
    }

    /// Sets the client certificate for connections to nodes, and the authority that must have signed the nodes'
    /// certificates.
    pub(crate) fn show(
        &self,
        certificate_pem: &str,
        key_pem: &str,
        ca_pem: &str,
    ) -> Result<(), TlsError> {
        let (certificate, key) = (certificate_pem.as_bytes(), key_pem.as_bytes());
        let identity = tls::Identity::of_pem(certificate, key)?;
        let roots = tls::Roots::none().with_pem(ca_pem.as_bytes())?;
        let client = tls::client(tls::Trust::Roots(roots), Some(identity))?;
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = Some(client);
        Ok(())
    }

    /// The tunnels that nodes have opened.
    pub(crate) fn tunnels(&self) -> &Arc<Tunnels> {
        &self.remote.tunnels
    }

    /// A node of another machine; `None` if this server has no certificate for connections to nodes, or the node has
    /// no API on the network.
    fn destination(&self, node_name: &str) -> Option<Destination> {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        let client = client.clone()?;
        let node = reading(&self.objects, |reads| {
            Ok(reads.get("", "nodes", "", node_name))
        });
        let Some(node) = node.ok()? else {
            self.remote.forget(node_name);
            return None;
        };
        Some(Destination {
            name: node_name.to_owned(),
            address: NodeApiAddress::of(&node)?,
            client,
        })
    }

    /// Tests the connection to a node of another machine: connects, then closes the connection.
    pub(crate) async fn reach(&self, node_name: &str) -> Option<NodeReach> {
        if self.local.connect(node_name).is_some() {
            return None;
        }
        let destination = self.destination(node_name)?;
        let connected = self.remote.connect(&destination).await;
        Some(NodeReach {
            address: destination.address.to_string(),
            connection: match connected {
                Ok((connection, _)) => Ok(connection),
                Err(error) => Err(error.to_string()),
            },
        })
    }

    pub(crate) fn write_metrics(&self, page: &mut Page) {
        page.add(TUNNELS, &[], self.remote.tunnels.nodes());
        page.describe(CONNECTIONS);
        let Counts { direct, tunnel } = &self.remote.connections;
        for (connection, count) in [("direct", direct), ("tunnel", tunnel)] {
            for (result, count) in [("success", &count.established), ("error", &count.failed)] {
                let labels = [("way", connection), ("result", result)];
                page.add(CONNECTIONS, &labels, count.load(Ordering::Relaxed));
            }
        }
    }
}

impl NodeConnector for Nodes {
    fn connect(&self, node_name: &str) -> Option<NodeService> {
        if let Some(local) = self.local.connect(node_name) {
            return Some(local);
        }
        let destination = Arc::new(self.destination(node_name)?);
        let remote = self.remote.clone();
        Some(NodeService::new(tower::service_fn(
            move |request: Request<BoxBody>| {
                let (remote, destination) = (remote.clone(), destination.clone());
                async move { remote.send(&destination, request).await }
            },
        )))
    }
}

impl fmt::Display for NodeApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        match host.contains(':') {
            true => write!(f, "[{host}]:{port}"),
            false => write!(f, "{host}:{port}"),
        }
    }
}

/// A node of another machine, and the certificate that the server presents.
struct Destination {
    name: String,
    address: NodeApiAddress,
    client: Arc<ClientConfig>,
}

/// The host and port of a node's API. The display form is a `Host` header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NodeApiAddress {
    host: String,
    port: u16,
}

impl NodeApiAddress {
    /// The address in a Node object; `None` if the node does not serve its API on the network.
    fn of(node: &Value) -> Option<Self> {
        Some(Self {
            port: written_port(node)?,
            host: preferred_address(node)?.to_owned(),
        })
    }
}

/// The port in a Node object.
fn written_port(node: &Value) -> Option<u16> {
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

pub(crate) fn kubelet_port(node: &Value) -> u16 {
    written_port(node).unwrap_or(KUBELET_PORT)
}

/// The address in a Node object at which servers connect to the node; the address may be a host name.
pub(crate) fn preferred_address(node: &Value) -> Option<&str> {
    let addresses = node["status"]["addresses"].as_array()?;
    let of_type = |kind: &&str| addresses.iter().find(|one| one["type"] == **kind);
    let address = ADDRESS_TYPES.iter().find_map(of_type)?;
    address["address"].as_str()
}

impl Remote {
    /// Sends a request over a new connection.
    async fn send(
        &self,
        to: &Destination,
        mut request: Request<BoxBody>,
    ) -> Result<Response<BoxBody>, BoxError> {
        let _permit = self.limits.acquire(&to.name)?;
        let (_, stream) = self.connect(to).await?;
        let stream = LimitedConnection { stream, _permit };
        forwarding::clean(request.headers_mut());
        let host = HeaderValue::from_str(&to.address.to_string())?;
        request.headers_mut().insert(HOST, host);
        forwarding::send(stream, request).await
    }

    /// Connects to the node. A tunnel that opens during the attempts is used, too.
    ///
    /// *Errors.* The reason of each failed attempt.
    async fn connect(&self, to: &Destination) -> Result<(NodeConnection, Connected), BoxError> {
        if let Some(tunnel) = self.tunnels.of(&to.name) {
            return self.try_attempts(to, Some(tunnel)).await;
        }
        tokio::select! {
            connected = self.try_attempts(to, None) => connected,
            tunnel = self.tunnels.opened(&to.name) => self.try_attempts(to, Some(tunnel)).await,
        }
    }

    /// Makes the attempts in order; returns the first connection.
    async fn try_attempts(
        &self,
        to: &Destination,
        tunnel: Option<Tunnel>,
    ) -> Result<(NodeConnection, Connected), BoxError> {
        let last = self.last().get(&to.name).cloned();
        let planned = attempts(&to.address, last.as_ref(), tunnel.is_some(), Instant::now());
        let mut reasons = Vec::new();
        let mut failed_direct = None;
        for Attempt { connection, limit } in planned {
            let connecting = async {
                match (connection, &tunnel) {
                    (NodeConnection::Tunnel, Some(tunnel)) => {
                        Ok(Either::Right(to.identified(tunnel.connect().await?).await?))
                    }
                    _ => Ok(Either::Left(to.direct(limit).await?)),
                }
            };
            let connected: Result<_, BoxError> = match timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err("no answer in time".into()),
            };
            self.count(connection, connected.is_ok());
            let now = Instant::now();
            match (connected, connection) {
                (Ok(stream), NodeConnection::Direct) => {
                    self.note_direct(to, now, true);
                    return Ok((connection, stream));
                }
                (Ok(stream), NodeConnection::Tunnel) => {
                    // A node that neither attempt reaches may be starting. Its address is not recorded as unreachable
                    // then.
                    if let Some(at) = failed_direct {
                        self.note_direct(to, at, false);
                    }
                    return Ok((connection, stream));
                }
                (Err(error), NodeConnection::Direct) => {
                    failed_direct = Some(now);
                    reasons.push(format!("connect to {}: {error}", to.address));
                }
                (Err(error), NodeConnection::Tunnel) => {
                    reasons.push(format!("connect through the node's tunnel: {error}"));
                }
            }
        }
        if tunnel.is_none() {
            reasons.push("the node has no tunnel to this server".to_owned());
        }
        Err(reasons.join("; ").into())
    }

    fn count(&self, connection: NodeConnection, has_reached: bool) {
        let count = match connection {
            NodeConnection::Direct => &self.connections.direct,
            NodeConnection::Tunnel => &self.connections.tunnel,
        };
        let count = if has_reached {
            &count.established
        } else {
            &count.failed
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn note_direct(&self, to: &Destination, at: Instant, has_reached: bool) {
        let last = LastDirectDial {
            address: to.address.clone(),
            at,
            has_reached,
        };
        self.last().insert(to.name.clone(), last);
    }

    fn last(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, LastDirectDial>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, node: &str) {
        self.last().remove(node);
    }
}

impl Destination {
    async fn direct(&self, limit: Duration) -> Result<TlsStream<TcpStream>, BoxError> {
        let address = (self.address.host.as_str(), self.address.port);
        self.identified(outbound_http::connect(address, limit).await?)
            .await
    }

    /// Performs the TLS handshake with this server's certificate, and verifies that the peer is the node: neither an
    /// address nor a tunnel proves the identity.
    async fn identified<S>(&self, stream: S) -> Result<TlsStream<S>, BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = tls::handshake(stream, &self.address.host, self.client.clone()).await?;
        let presented = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let subject = presented.first().map(|first| ClientSubject::of(first));
        let expected = format!("system:node:{}", self.name);
        match subject {
            Some(Ok(subject)) if subject.common_name == expected => Ok(stream),
            _ => Err("it presents the certificate of another node".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_node_is_where_its_object_says() {
        let node = |port: Value, addresses: Value| {
            let node = json!({"status": {"addresses": addresses,
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
            NodeApiAddress::of(&node).map(|address| (address.host, address.port))
        };
        let all = json!([{"type": "Hostname", "address": "n"},
            {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "fd00::1"}]);
        let at = |host: &str| Some((host.to_owned(), 10250));
        assert_eq!(node(json!(10250), all.clone()), at("10.0.0.1"));
        let name = json!([{"type": "Hostname", "address": "n"}]);
        assert_eq!(node(json!(10250), name), at("n"));
        assert_eq!(node(json!(10250), json!([])), None);
        for port in [json!(0), json!(70000), Value::Null] {
            assert_eq!(node(port, all.clone()), None);
        }
        assert_eq!(NodeApiAddress::of(&json!({})), None);
    }
}
