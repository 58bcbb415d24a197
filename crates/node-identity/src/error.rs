/// The reason why a node has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The form of the token is invalid.
    #[error("the token is not of the form ID.SECRET.HASH, as `mainstay token create` prints it")]
    Malformed,
    /// The server did not respond.
    #[error("{server} does not answer")]
    Unreachable {
        server: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server belongs to another cluster, or is an impostor.
    #[error(
        "{server} is not a server of the cluster that the token is for: its certificate is not of the \
         authority with the hash in the token"
    )]
    OtherAuthority { server: String },
    /// The certificates are not valid at the time of this machine.
    #[error(
        "the certificate of {server} is not valid at the time of this machine, {now}: correct the \
         machine's clock"
    )]
    Clock {
        server: String,
        /// The time of this machine.
        now: String,
    },
    /// The server rejects the token.
    #[error(
        "the server does not accept the token: it has expired, was deleted, or is of another cluster. \
         `mainstay token create` on the server makes another one"
    )]
    TokenRefused,
    /// A node with this name is alive.
    #[error("{0}")]
    NameTaken(String),
    /// The request for a certificate was denied, or could not be signed.
    #[error("the request for a certificate was refused: {0}")]
    Refused(String),
    /// No decision about the request was made in time.
    #[error("the certificate request was not approved: {0}")]
    Undecided(String),
    /// The key or the request could not be created.
    #[error("make a certificate request")]
    Request(#[from] rcgen::Error),
    /// The issued certificate does not match the key.
    #[error("the issued certificate does not belong to the key of its request")]
    Issued,
    /// The certificate was not renewed in time.
    #[error(
        "the certificate of the node was valid until {0}: the machine has to join again with a token"
    )]
    Expired(String),
    /// The API server rejected a request.
    #[error("ask for a certificate")]
    Api(#[source] kube_api_client::Error),
    /// A token for an account of the node could not be obtained.
    #[error("ask for a token of the ServiceAccount {account} that is bound to the Node object")]
    AccountToken {
        account: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The settings of the connection are invalid.
    #[error("connect to the server")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
}
