//! Nodes on other machines: their own API (the kubelet's paths) over TLS, at the address and port of
//! the Node object.
//!
//! Both sides show a certificate of the cluster's authority. The node's must be valid for the
//! address, and must be that of the node: an address in a Node object proves nothing.

use std::sync::{Arc, PoisonError, RwLock};

use certificates::ClientSubject;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_client::tls::{self, ClientConfig};
use resource_kinds::ObjectReader;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::access::tls::TlsError;
use crate::handlers::nodes::{NodeConnector, NodeService};
use crate::handlers::onward;
use crate::http::body::{BoxBody, BoxError};
use crate::http::limits::PROXY_CONNECT_TIMEOUT;
use crate::objects::storage::{Objects, reading};

/// The types of addresses of a node, the preferred first (kubeadm's order).
const ADDRESS_TYPES: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];

/// The nodes of this process, and those of other machines.
pub(crate) struct Nodes {
    own: Arc<dyn NodeConnector>,
    objects: Arc<Objects>,
    client: RwLock<Option<Arc<ClientConfig>>>,
}

impl Nodes {
    pub(crate) fn new(own: Arc<dyn NodeConnector>, objects: Arc<Objects>) -> Self {
        Self {
            own,
            objects,
            client: RwLock::default(),
        }
    }

    /// Shows nodes this certificate from now on, and trusts those of the authority.
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
}

impl NodeConnector for Nodes {
    fn connect(&self, node_name: &str) -> Option<NodeService> {
        if let Some(own) = self.own.connect(node_name) {
            return Some(own);
        }
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        let client = client.clone()?;
        let node = reading(&self.objects, |reads| {
            Ok(reads.get("", "nodes", "", node_name))
        });
        let place = Place::of(&*node.ok()??)?;
        let name: Arc<str> = node_name.into();
        Some(NodeService::new(tower::service_fn(
            move |request: Request<BoxBody>| {
                let (name, place, client) = (name.clone(), place.clone(), client.clone());
                async move { ask(&name, &place, client, request).await }
            },
        )))
    }
}

/// The place of a node's API.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: String,
    port: u16,
}

impl Place {
    /// The place in a Node object; `None` if the node does not serve its API on the network.
    fn of(node: &Value) -> Option<Self> {
        let status = &node["status"];
        let port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
        let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
        let addresses = status["addresses"].as_array()?;
        let of_type = |kind: &&str| addresses.iter().find(|one| one["type"] == **kind);
        let address = ADDRESS_TYPES.iter().find_map(of_type)?;
        let host = address["address"].as_str()?.to_owned();
        Some(Self { host, port })
    }
}

/// Sends a request over a connection of its own.
async fn ask(
    name: &str,
    place: &Place,
    client: Arc<ClientConfig>,
    mut request: Request<BoxBody>,
) -> Result<Response<BoxBody>, BoxError> {
    let stream = connect(name, place, client).await?;
    onward::clean(request.headers_mut());
    let host = match place.host.contains(':') {
        true => format!("[{}]:{}", place.host, place.port),
        false => format!("{}:{}", place.host, place.port),
    };
    let host = HeaderValue::from_str(&host)?;
    request.headers_mut().insert(HOST, host);
    onward::send(stream, request).await
}

async fn connect(
    name: &str,
    place: &Place,
    client: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, BoxError> {
    let (host, port) = (place.host.as_str(), place.port);
    let connected = async {
        let stream = http_client::connect((host, port), PROXY_CONNECT_TIMEOUT).await?;
        Ok::<_, BoxError>(tls::handshake(stream, host, client).await?)
    };
    let connected = tokio::time::timeout(PROXY_CONNECT_TIMEOUT, connected).await;
    let stream = connected.map_err(|_| format!("{host}:{port} does not answer in time"))?;
    let stream = stream.map_err(|error| format!("connect to {host}:{port}: {error}"))?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let subject = shown.first().map(|first| ClientSubject::of(first));
    match subject {
        Some(Ok(subject)) if subject.common_name == format!("system:node:{name}") => Ok(stream),
        _ => Err(format!("{host}:{port} shows the certificate of somebody else").into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_where_its_object_says() {
        let node = |port: Value, addresses: Value| {
            let node = json!({"status": {"addresses": addresses,
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
            Place::of(&node).map(|place| (place.host, place.port))
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
        assert_eq!(Place::of(&json!({})), None);
    }
}
