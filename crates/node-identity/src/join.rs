//! Joining: the token, the connection with it, and the first certificate.

use std::time::Duration;

use api_client::Client;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use certificates::KeyHash;
use http::Uri;
use kubeconfig::{
    Cluster, Context, Kubeconfig, Limits, NamedCluster, NamedContext, NamedUser, Transport, User,
};
use resource_kinds::bootstrap_token;

use crate::authority::find_authority;
use crate::error::Error;
use crate::keys::Identity;
use crate::request::{Wanted, request};

/// The limits of connections to the server.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(60),
};

/// The token that `mainstay token create` prints.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    bearer: String,
    hash: KeyHash,
}

impl JoinToken {
    /// Reads a token `<id>.<secret>.<hash>`.
    ///
    /// # Errors
    /// `Malformed` for any other text.
    pub fn read(text: &str) -> Result<Self, Error> {
        let (bearer, hash) = text.trim().rsplit_once('.').ok_or(Error::Malformed)?;
        bootstrap_token::parse(bearer).ok_or(Error::Malformed)?;
        let hash = KeyHash::parse(hash).ok_or(Error::Malformed)?;
        Ok(Self {
            bearer: bearer.to_owned(),
            hash,
        })
    }
}

/// Without the secret part.
impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

/// The credentials of a connection.
#[derive(Debug)]
pub enum Credentials<'a> {
    /// A bootstrap token.
    Token(&'a JoinToken),
    /// A client certificate.
    Identity(&'a Identity),
}

/// The first certificate of a node.
#[derive(Debug)]
pub struct Joined {
    /// The authority's certificate, PEM.
    pub ca_pem: String,
    /// The client certificate of the node.
    pub identity: Identity,
}

/// Joins as a node of this name.
///
/// # Errors
/// See [`Error`].
pub async fn join(server: &Uri, token: &JoinToken, node_name: &str) -> Result<Joined, Error> {
    let ca_pem = find_authority(server, token.hash).await?;
    let client = client(server, &ca_pem, &Credentials::Token(token)).await?;
    let identity = request(&client, &Wanted::client(node_name)).await;
    let identity = identity.map_err(|error| match error {
        Error::Api(error) if error.code() == Some(401) => Error::TokenRefused,
        other => other,
    })?;
    Ok(Joined { ca_pem, identity })
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
    let transport = transport.map_err(|error| Error::Connection(Box::new(error)))?;
    Ok(Client::new(transport, "default"))
}
