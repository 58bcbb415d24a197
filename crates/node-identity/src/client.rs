//! Clients of an API server, with the credentials of a node.

use std::sync::Arc;
use std::time::Duration;

use api_client::{Body, BoxError, Client};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Uri};
use kubeconfig::{
    Cluster, Context, Kubeconfig, Limits, NamedCluster, NamedContext, NamedUser, Transport, User,
};
use tokio::sync::{Mutex, watch};
use tower::ServiceExt;

use crate::error::Error;
use crate::keys::Identity;
use crate::token::JoinToken;

/// The limits of connections to the server.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(60),
};

/// The namespace of requests that name none.
const NAMESPACE: &str = "default";

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
    const NAME: &str = "node";
    let data = |pem: &str| Some(STANDARD.encode(pem));
    let user = match credentials {
        Credentials::Token(token) => User {
            token: Some(token.bearer.clone()),
            ..User::default()
        },
        Credentials::Identity(identity) => User {
            client_certificate_data: data(&identity.certificate_pem),
            client_key_data: data(&identity.key_pem),
            ..User::default()
        },
    };
    let kubeconfig = Kubeconfig {
        clusters: vec![NamedCluster {
            name: NAME.to_owned(),
            cluster: Cluster {
                server: Some(server.to_string()),
                certificate_authority_data: data(ca_pem),
                ..Cluster::default()
            },
        }],
        users: vec![NamedUser {
            name: NAME.to_owned(),
            user,
        }],
        contexts: vec![NamedContext {
            name: NAME.to_owned(),
            context: Context {
                cluster: Some(NAME.to_owned()),
                user: Some(NAME.to_owned()),
                namespace: None,
            },
        }],
        current_context: Some(NAME.to_owned()),
    };
    let settings = kubeconfig.select(None);
    let settings = settings.map_err(|error| Error::Connection(Box::new(error)))?;
    let transport = Transport::new(settings, LIMITS).await;
    transport.map_err(|error| Error::Connection(Box::new(error)))
}

/// A client that shows the newest client certificate of a node. The first request after a renewal makes
/// a new connection; a watch stays on its connection until the watch ends.
///
/// # Errors
/// A request fails if the certificate cannot be used.
pub fn renewed_client(server: &Uri, ca_pem: &str, identity: watch::Receiver<Identity>) -> Client {
    let newest = Arc::new(Newest {
        server: server.clone(),
        ca_pem: ca_pem.to_owned(),
        identity,
        made: Mutex::default(),
    });
    let service = tower::service_fn(move |request: Request<Body>| {
        let newest = newest.clone();
        async move {
            let transport = newest.transport().await?;
            transport.oneshot(request).await.map_err(BoxError::from)
        }
    });
    Client::new(service, NAMESPACE)
}

/// The connections with the newest certificate.
struct Newest {
    server: Uri,
    ca_pem: String,
    identity: watch::Receiver<Identity>,
    made: Mutex<Option<(Identity, Transport<Body>)>>,
}

impl Newest {
    async fn transport(&self) -> Result<Transport<Body>, Error> {
        let mut made = self.made.lock().await;
        let identity = self.identity.borrow().clone();
        if let Some((of, transport)) = &*made
            && *of == identity
        {
            return Ok(transport.clone());
        }
        let own = Credentials::Identity(&identity);
        let transport = transport(&self.server, &self.ca_pem, &own).await?;
        *made = Some((identity, transport.clone()));
        Ok(transport)
    }
}
