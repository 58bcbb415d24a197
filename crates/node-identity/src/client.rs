//! Clients of an API server, with the credentials of a node.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Uri};
use kube_api_client::{Body, Client};
use kubeconfig::{Limits, Settings, Transport, TransportError};
use tokio::sync::{Mutex, watch};

use crate::error::Error;
use crate::keys::Identity;
use crate::servers::Servers;
use crate::token::JoinToken;

/// The limits of connections to a server.
pub(crate) const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(60),
};

/// The namespace of requests without a namespace.
pub(crate) const NAMESPACE: &str = "default";

/// The path of the Leases of nodes.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// The path of nodes.
const NODES: &str = "/api/v1/nodes/";

/// The credentials of a connection.
#[derive(Debug)]
pub enum Credentials<'a> {
    /// A bootstrap token.
    Token(&'a JoinToken),
    /// A client certificate.
    Identity(&'a Identity),
}

/// A client of an API server with this authority.
///
/// # Errors
/// `Connection` if the certificates cannot be used.
pub async fn client(
    server: &Uri,
    ca_pem: &str,
    credentials: &Credentials<'_>,
) -> Result<Client, Error> {
    let transport = transport(server, ca_pem, credentials).await?;
    Ok(Client::new(transport, NAMESPACE))
}

async fn transport(
    server: &Uri,
    ca_pem: &str,
    credentials: &Credentials<'_>,
) -> Result<Transport<Body>, Error> {
    let settings = Settings::of_server(server.clone(), ca_pem);
    let settings = match credentials {
        Credentials::Token(token) => {
            let settings = settings.with_token(&token.bearer);
            settings.ok_or(TransportError::Token)
        }
        Credentials::Identity(identity) => {
            Ok(settings.with_certificate(&identity.certificate_pem, &identity.key_pem))
        }
    };
    connect(settings).await
}

/// Builds a transport from settings.
pub(crate) async fn connect(
    settings: Result<Settings, TransportError>,
) -> Result<Transport<Body>, Error> {
    let wrong = |error| Error::Connection(Box::new(error));
    let transport = Transport::new(settings.map_err(wrong)?, LIMITS).await;
    transport.map_err(wrong)
}

/// A client with the newest client certificate of a node. The node's Lease and status have a separate
/// connection, so that watches never delay them. The first request after a renewal opens a new connection;
/// a watch stays on its connection until the watch ends.
///
/// # Errors
/// A request fails if the certificate cannot be used, or if no server responds.
pub fn renewed_client(
    servers: &Servers,
    ca_pem: &str,
    identity: watch::Receiver<Identity>,
) -> Client {
    let connections = Arc::new(RenewedConnections {
        servers: servers.clone(),
        ca_pem: ca_pem.to_owned(),
        identity,
        current: Mutex::default(),
    });
    let service = tower::service_fn(move |request: Request<Body>| {
        let connections = connections.clone();
        async move {
            let transport = connections
                .transport(Lane::for_path(request.uri().path()))
                .await?;
            connections.servers.send(&transport, request).await
        }
    });
    Client::new(service, NAMESPACE)
}

/// The connections with the newest certificate.
struct RenewedConnections {
    servers: Servers,
    ca_pem: String,
    identity: watch::Receiver<Identity>,
    current: Mutex<Option<Connections>>,
}

/// The connections for a class of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// The heartbeats of a node: its Lease and its status.
    Heartbeats,
    Others,
}

impl Lane {
    fn for_path(path: &str) -> Self {
        let is_lease = path.starts_with(LEASES);
        let name = path
            .strip_prefix(NODES)
            .and_then(|rest| rest.strip_suffix("/status"));
        match is_lease || name.is_some_and(|name| !name.contains('/')) {
            true => Self::Heartbeats,
            false => Self::Others,
        }
    }
}

/// Connections, and the certificate that they use.
struct Connections {
    identity: Identity,
    generation: u64,
    heartbeats: Transport<Body>,
    others: Transport<Body>,
}

impl Connections {
    fn lane(&self, lane: Lane) -> Transport<Body> {
        match lane {
            Lane::Heartbeats => self.heartbeats.clone(),
            Lane::Others => self.others.clone(),
        }
    }
}

impl RenewedConnections {
    async fn transport(&self, lane: Lane) -> Result<Transport<Body>, Error> {
        let mut current = self.current.lock().await;
        let identity = self.identity.borrow().clone();
        let generation = self.servers.generation();
        if let Some(connections) = &*current
            && connections.identity == identity
            && connections.generation == generation
        {
            return Ok(connections.lane(lane));
        }
        let credentials = Credentials::Identity(&identity);
        let server = self.servers.current();
        let heartbeats = transport(&server, &self.ca_pem, &credentials).await?;
        let others = transport(&server, &self.ca_pem, &credentials).await?;
        let connections = Connections {
            identity,
            generation,
            heartbeats,
            others,
        };
        Ok(current.insert(connections).lane(lane))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings-2 S39: requests for the Lease and the status of a node are heartbeats.
    #[test]
    fn the_lease_and_the_status_of_a_node_are_its_signs_of_life() {
        let lease = format!("{LEASES}/a");
        for (path, lane) in [
            (lease.as_str(), Lane::Heartbeats),
            ("/api/v1/nodes/a/status", Lane::Heartbeats),
            ("/api/v1/nodes/a", Lane::Others),
            ("/api/v1/namespaces/a/pods/b/status", Lane::Others),
            (
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/b",
                Lane::Others,
            ),
        ] {
            assert_eq!(Lane::for_path(path), lane, "{path}");
        }
    }
}
