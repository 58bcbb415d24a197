//! The server and the user of a context.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use http::{HeaderMap, HeaderValue, Uri};
use http_client::Proxies;

use crate::plugin::Plugin;

/// The server, with the trust, credentials and proxy for it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The URL of the server.
    pub server: Uri,
    /// The namespace of the context.
    pub namespace: Option<String>,
    /// The user's client certificate and its key.
    pub identity: Option<(Pem, Pem)>,
    /// The certificate authority; none for those that the machine trusts.
    pub(crate) authority: Option<Pem>,
    /// Whether certificates are not verified.
    pub(crate) is_insecure: bool,
    /// The name in the server's certificate, if it is not that of the URL.
    pub(crate) server_name: Option<String>,
    pub(crate) proxies: Proxies,
    pub(crate) credentials: Credentials,
    /// The headers of each request.
    pub(crate) headers: HeaderMap,
}

impl Settings {
    /// The settings of a server whose certificate authority is known, without credentials.
    pub fn of_server(server: Uri, authority_pem: &str) -> Self {
        Self {
            proxies: proxies_to(&server),
            server,
            namespace: None,
            identity: None,
            authority: Some(text(authority_pem)),
            is_insecure: false,
            server_name: None,
            credentials: Credentials::None,
            headers: HeaderMap::new(),
        }
    }

    /// Adds a client certificate and its key.
    #[must_use]
    pub fn with_certificate(self, certificate_pem: &str, key_pem: &str) -> Self {
        Self {
            identity: Some((text(certificate_pem), text(key_pem))),
            ..self
        }
    }

    /// Adds a bearer token; `None` if the token is empty, or cannot be sent in a header.
    pub fn with_token(self, token: &str) -> Option<Self> {
        Some(Self {
            credentials: Credentials::Header(bearer(token)?),
            ..self
        })
    }
}

fn text(pem: &str) -> Pem {
    Pem::Text(pem.as_bytes().to_vec())
}

/// The proxies to a server. Those of the environment are not for this machine, as in Go.
pub(crate) fn proxies_to(server: &Uri) -> Proxies {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let address: Option<IpAddr> = host.parse().ok();
    match host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        true => Proxies::None,
        false => Proxies::Environment,
    }
}

/// PEM text, or its file.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    Text(Vec<u8>),
    File(PathBuf),
}

impl Pem {
    /// The text.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => fs::read(path),
        }
    }
}

/// Without the text, which may be a key.
impl std::fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => formatter.write_str("a PEM text"),
            Self::File(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// The way to the header `Authorization`.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// The user has no bearer token.
    None,
    /// The token is in the file.
    Header(HeaderValue),
    /// A file has the token. The token of the kubeconfig counts while the file cannot be read.
    TokenFile {
        path: PathBuf,
        otherwise: Option<HeaderValue>,
    },
    /// A program returns it.
    Plugin(Box<Plugin>),
}

/// The header of a bearer token; none if the token cannot be sent.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    let header = HeaderValue::from_str(&format!("Bearer {token}")).ok();
    header.filter(|_| !token.is_empty()).map(secret)
}

pub(crate) fn secret(mut header: HeaderValue) -> HeaderValue {
    header.set_sensitive(true);
    header
}
