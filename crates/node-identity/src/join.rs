//! Joining: the first certificate of a node.

use http::Uri;

use crate::authority::find_authority;
use crate::client::{Credentials, client};
use crate::error::Error;
use crate::keys::{CertificateSubject, Identity};
use crate::request::request;
use crate::token::JoinToken;

/// The result of joining.
#[derive(Debug)]
pub struct Joined {
    /// The certificate of the cluster's authority, in PEM.
    pub ca_pem: String,
    pub identity: Identity,
}

/// Gets the first certificate for a node with this name.
///
/// # Errors
/// See [`Error`].
pub async fn join(server: &Uri, token: &JoinToken, node_name: &str) -> Result<Joined, Error> {
    let ca_pem = find_authority(server, token.hash).await?;
    let client = client(server, &ca_pem, &Credentials::Token(token)).await?;
    let identity = request(&client, &CertificateSubject::client(node_name)).await;
    let identity = identity.map_err(|error| match error {
        Error::Api(error) if error.code() == Some(401) => Error::TokenRefused,
        error => error,
    })?;
    Ok(Joined { ca_pem, identity })
}
