//! The server and the user of a context.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use http::{HeaderMap, HeaderValue, Uri};
use outbound_http::Proxies;

use crate::plugin::Plugin;

/// The server, with the trust, credentials and proxy for it.
#[derive(Clone, Debug)]
pub struct Settings {
    pub server: Uri,
    /// The namespace of the context.
    pub namespace: Option<String>,
    /// The user's client certificate and its key.
    pub identity: Option<(Pem, Pem)>,
    /// `None` means the authorities that the machine trusts.
    pub(crate) authority: Option<Pem>,
    /// Whether server certificates are not verified.
    pub(crate) is_insecure: bool,
    /// The name in the server's certificate, if it differs from the host of the URL.
    pub(crate) server_name: Option<String>,
    pub(crate) proxies: Proxies,
    pub(crate) credentials: Credentials,
    /// The headers of every request.
    pub(crate) headers: HeaderMap,
}

impl Settings {
    /// The settings for a server with a known certificate authority, without credentials.
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

/// The proxies for a server. As in Go, proxies from environment variables are not used for this machine.
pub(crate) fn proxies_to(server: &Uri) -> Proxies {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    let address: Option<IpAddr> = host.parse().ok();
    match host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        true => Proxies::None,
        false => Proxies::Environment,
    }
}

/// PEM text, or the path of its file.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    Text(Vec<u8>),
    File(PathBuf),
}

impl Pem {
    /// Returns the PEM text.
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

/// The output must not contain the text, which may be a private key.
impl std::fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => formatter.write_str("a PEM text"),
            Self::File(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// The source of the header `Authorization`.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// The user has no bearer token.
    None,
    /// The header is known from the kubeconfig.
    Header(HeaderValue),
    /// The token is in a file. The token of the kubeconfig is used while the file cannot be read.
    TokenFile {
        path: PathBuf,
        otherwise: Option<HeaderValue>,
    },
    /// A program returns the credentials.
    Plugin(Box<Plugin>),
}

/// The header of a bearer token; `None` if the token cannot be sent in a header.
pub(crate) fn bearer(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    let header = HeaderValue::from_str(&format!("Bearer {token}")).ok();
    header.filter(|_| !token.is_empty()).map(secret)
}

pub(crate) fn secret(mut header: HeaderValue) -> HeaderValue {
    header.set_sensitive(true);
    header
}
