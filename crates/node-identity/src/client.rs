//! Clients of an API server, with the credentials of a node.

use std::sync::Arc;
use std::time::Duration;

use api_client::{Body, Client};
use http::{Request, Uri};
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

/// The namespace of requests that name none.
pub(crate) const NAMESPACE: &str = "default";

/// The credentials of a connection.
#[derive(Debug)]
pub enum Credentials<'a> {
    /// A bootstrap token.
    Token(&'a JoinToken),
    /// A client certificate.
    Identity(&'a Identity),
}

/// A client of a server of this authority.
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

/// Makes the transport of settings.
pub(crate) async fn connect(
    settings: Result<Settings, TransportError>,
) -> Result<Transport<Body>, Error> {
    let wrong = |error| Error::Connection(Box::new(error));
    let transport = Transport::new(settings.map_err(wrong)?, LIMITS).await;
    transport.map_err(wrong)
}

/// A client that shows the newest client certificate of a node. The first request after a renewal makes
/// a new connection; a watch stays on its connection until the watch ends.
///
/// # Errors
/// A request fails if the certificate cannot be used, or no server answers.
pub fn renewed_client(
    servers: &Servers,
    ca_pem: &str,
    identity: watch::Receiver<Identity>,
) -> Client {
    let newest = Arc::new(Newest {
        servers: servers.clone(),
        ca_pem: ca_pem.to_owned(),
        identity,
        made: Mutex::default(),
    });
    let service = tower::service_fn(move |request: Request<Body>| {
        let newest = newest.clone();
        async move {
            let transport = newest.transport().await?;
            newest.servers.send(&transport, request).await
        }
    });
    Client::new(service, NAMESPACE)
}

/// The connections with the newest certificate.
struct Newest {
    servers: Servers,
    ca_pem: String,
    identity: watch::Receiver<Identity>,
    made: Mutex<Option<Made>>,
}

/// Connections, and the certificate that they were made with.
struct Made {
    identity: Identity,
    generation: u64,
    transport: Transport<Body>,
}

impl Newest {
    async fn transport(&self) -> Result<Transport<Body>, Error> {
        let mut made = self.made.lock().await;
        let identity = self.identity.borrow().clone();
        let generation = self.servers.generation();
        if let Some(made) = &*made
            && made.identity == identity
            && made.generation == generation
        {
            return Ok(made.transport.clone());
        }
        let own = Credentials::Identity(&identity);
        let transport = transport(&self.servers.current(), &self.ca_pem, &own).await?;
        *made = Some(Made {
            identity,
            generation,
            transport: transport.clone(),
        });
        Ok(transport)
    }
}
