//! Sends requests to the server with the credentials of the user.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::uri::InvalidUriParts;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use jiff::Timestamp;
use outbound_http::tls::{self, BundleError, Identity, Roots, Trust};
use outbound_http::{Body, Pool, Proxies, RequestBody};
use tokio::sync::Mutex;
use tower::Service;

use crate::exec::{self, ExecError};
use crate::plugin::{Plugin, PluginCredentials};
use crate::settings::{Credentials, Pem, Settings, bearer};

/// Time limits for connections and responses.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum time until a connection is established.
    pub connect: Duration,
    /// Maximum time in which the server sends nothing. It does not apply to watches and followed logs.
    pub silence: Duration,
}

/// The reason why a request was not sent, or got no response.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A certificate or a key cannot be read.
    #[error("read {pem:?}")]
    Pem {
        /// The file or the field with the PEM text.
        pem: Pem,
        source: io::Error,
    },
    /// A certificate or a key is malformed.
    #[error("the {what}")]
    Malformed {
        /// The name of the certificate or key.
        what: &'static str,
        source: BundleError,
    },
    /// The client certificate cannot be used.
    #[error("the client certificate")]
    Tls(#[from] tls::Error),
    /// The file of the token cannot be read.
    #[error("read the token in {}", path.display())]
    TokenFile { path: PathBuf, source: io::Error },
    /// The token cannot be sent in a header.
    #[error("the token is empty, or cannot be sent in a header")]
    Token,
    /// The plug-in returned no credentials.
    #[error(transparent)]
    Plugin(#[from] ExecError),
    /// The path of the request is malformed.
    #[error(transparent)]
    Path(#[from] InvalidUriParts),
    /// The server did not respond.
    #[error(transparent)]
    Http(#[from] outbound_http::Error),
}

impl TransportError {
    /// Whether no connection was established, so that the server did not get the request.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Http(error) if error.is_connect())
    }
}

/// The connections to a server; clones share them. The URIs of requests are paths.
pub struct Transport<B> {
    server: Uri,
    shared: Arc<Shared<B>>,
}

impl<B> Clone for Transport<B> {
    fn clone(&self) -> Self {
        self.at(self.server.clone())
    }
}

impl<B> Transport<B> {
    /// A transport to another server with this transport's credentials, trust and connections.
    #[must_use]
    pub fn at(&self, server: Uri) -> Self {
        let shared = self.shared.clone();
        Self { server, shared }
    }
}

struct Shared<B> {
    headers: HeaderMap,
    access: Access<B>,
}

/// The source of connections with credentials.
enum Access<B> {
    /// All requests use the same credentials.
    Fixed(Session<B>),
    /// The token is read from its file at each request.
    TokenFile {
        pool: Pool<B>,
        path: PathBuf,
        otherwise: Option<HeaderValue>,
    },
    /// A program returns the credentials.
    Plugin(Box<Renewed<B>>),
}

/// The credentials from a program, until they expire or the server refuses them.
struct Renewed<B> {
    plugin: Plugin,
    connector: Connector,
    current: Mutex<Option<Session<B>>>,
}

/// Connections, and the credentials for requests over them.
struct Session<B> {
    pool: Pool<B>,
    authorization: Option<HeaderValue>,
    expires: Option<Timestamp>,
}

impl<B> Session<B> {
    fn without_end(pool: Pool<B>, authorization: Option<HeaderValue>) -> Self {
        Self {
            pool,
            authorization,
            expires: None,
        }
    }
}

impl<B> Clone for Session<B> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            authorization: self.authorization.clone(),
            expires: self.expires,
        }
    }
}

/// The settings of connections, without the client certificate.
struct Connector {
    trust: Trust,
    server_name: Option<String>,
    proxies: Proxies,
    limits: Limits,
    /// The client certificate in the kubeconfig, and its private key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Connector {
    async fn new(settings: &Settings, limits: Limits) -> Result<Self, TransportError> {
        let trust = match &settings.authority {
            _ if settings.is_insecure => Trust::AnyServer,
            Some(pem) => {
                let roots = Roots::none().with_pem(&read(pem)?);
                Trust::Roots(roots.map_err(malformed("certificate authority"))?)
            }
            None if settings.server.scheme_str() == Some("https") => {
                Trust::Roots(Roots::of_machine().await)
            }
            None => Trust::Roots(Roots::none()),
        };
        let identity = match &settings.identity {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        Ok(Self {
            trust,
            server_name: settings.server_name.clone(),
            proxies: settings.proxies.clone(),
            limits,
            identity,
        })
    }

    /// Connections with the given client certificate, or with the client certificate in the kubeconfig.
    fn pool<B: RequestBody>(
        &self,
        certificate_and_key: Option<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Pool<B>, TransportError> {
        let identity = certificate_and_key.as_ref().or(self.identity.as_ref());
        let identity = identity.map(|(certificate, key)| Identity::of_pem(certificate, key));
        let identity = identity.transpose();
        let identity = identity.map_err(malformed("client certificate"))?;
        Ok(Pool::new(outbound_http::Settings {
            connect_limit: self.limits.connect,
            silence_limit: self.limits.silence,
            tls: tls::client(self.trust.clone(), identity)?,
            server_name: self.server_name.clone(),
            http2: true,
            proxies: self.proxies.clone(),
            allows: Arc::new(|_, _| true),
        }))
    }

    /// Connections with the credentials from a program.
    fn session<B: RequestBody>(
        &self,
        credentials: PluginCredentials,
    ) -> Result<Session<B>, TransportError> {
        let authorization = match &credentials.token {
            Some(token) => Some(bearer(token).ok_or(TransportError::Token)?),
            None => None,
        };
        let identity = credentials.identity;
        let identity = identity.map(|(certificate, key)| (certificate.into(), key.into()));
        Ok(Session {
            pool: self.pool(identity)?,
            authorization,
            expires: credentials.expires,
        })
    }
}

fn read(pem: &Pem) -> Result<Vec<u8>, TransportError> {
    let pem = pem.clone();
    pem.read()
        .map_err(|source| TransportError::Pem { pem, source })
}

fn malformed(what: &'static str) -> impl Fn(BundleError) -> TransportError {
    move |source| TransportError::Malformed { what, source }
}

impl<B: RequestBody> Transport<B> {
    /// Reads certificates and keys. Connections are established at requests.
    ///
    /// # Errors
    /// See [`TransportError`].
    pub async fn new(settings: Settings, limits: Limits) -> Result<Self, TransportError> {
        let connector = Connector::new(&settings, limits).await?;
        let access = match settings.credentials {
            Credentials::Plugin(plugin) => Access::Plugin(Box::new(Renewed {
                plugin: *plugin,
                connector,
                current: Mutex::new(None),
            })),
            Credentials::TokenFile { path, otherwise } => Access::TokenFile {
                pool: connector.pool(None)?,
                path,
                otherwise,
            },
            Credentials::Header(header) => {
                Access::Fixed(Session::without_end(connector.pool(None)?, Some(header)))
            }
            Credentials::None => Access::Fixed(Session::without_end(connector.pool(None)?, None)),
        };
        Ok(Self {
            server: settings.server,
            shared: Arc::new(Shared {
                headers: settings.headers,
                access,
            }),
        })
    }

    async fn send(self, mut request: Request<B>) -> Result<Response<Body>, TransportError> {
        let Shared { headers, access } = &*self.shared;
        let session = access.session().await?;
        let is_stream = is_stream(request.uri());
        *request.uri_mut() = target(&self.server, request.uri())?;
        request.headers_mut().extend(headers.clone());
        if let Some(authorization) = &session.authorization {
            let authorization = authorization.clone();
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let response = session.pool.request(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            access.forget(&session).await;
        }
        Ok(match is_stream {
            true => response.map(Body::without_silence_limit),
            false => response,
        })
    }
}

impl<B: RequestBody> Access<B> {
    async fn session(&self) -> Result<Session<B>, TransportError> {
        match self {
            Self::Fixed(session) => Ok(session.clone()),
            Self::TokenFile {
                pool,
                path,
                otherwise,
            } => {
                let token = match (tokio::fs::read_to_string(path).await, otherwise) {
                    (Ok(token), _) => bearer(&token).ok_or(TransportError::Token)?,
                    (Err(_), Some(token)) => token.clone(),
                    (Err(source), None) => {
                        let path = path.clone();
                        return Err(TransportError::TokenFile { path, source });
                    }
                };
                Ok(Session::without_end(pool.clone(), Some(token)))
            }
            Self::Plugin(renewed) => renewed.session().await,
        }
    }

    /// Drops credentials that the server refused.
    async fn forget(&self, refused: &Session<B>) {
        if let Self::Plugin(renewed) = self {
            renewed.forget(refused).await;
        }
    }
}

impl<B: RequestBody> Renewed<B> {
    /// While one request runs the program, other requests wait for its result.
    async fn session(&self) -> Result<Session<B>, TransportError> {
        let mut current = self.current.lock().await;
        match &*current {
            Some(session) if is_valid(session.expires, Timestamp::now()) => Ok(session.clone()),
            _ => {
                let session = self.connector.session(exec::run(&self.plugin).await?)?;
                Ok(current.insert(session).clone())
            }
        }
    }

    /// The next request runs the program again, unless another request has done so already.
    async fn forget(&self, refused: &Session<B>) {
        let mut current = self.current.lock().await;
        let is_same = |session: &Session<B>| {
            session.authorization == refused.authorization && session.expires == refused.expires
        };
        if current.as_ref().is_some_and(is_same) {
            *current = None;
        }
    }
}

fn is_valid(expires: Option<Timestamp>, now: Timestamp) -> bool {
    expires.is_none_or(|end| now < end)
}

/// The URI of a path on the server. The server's URL may itself contain a path.
fn target(server: &Uri, request: &Uri) -> Result<Uri, InvalidUriParts> {
    let prefix = server.path().trim_end_matches('/');
    let path = request.path_and_query().map_or("/", |path| path.as_str());
    let mut parts = server.clone().into_parts();
    parts.path_and_query = match prefix {
        "" => request.path_and_query().cloned(),
        _ => format!("{prefix}{path}").parse().ok(),
    };
    Uri::from_parts(parts)
}

/// Whether the response continues until one side closes it: a watch, or a followed log.
fn is_stream(uri: &Uri) -> bool {
    let mut fields = uri.query().unwrap_or_default().split('&');
    fields.any(|field| matches!(field, "watch=true" | "watch=1" | "follow=true" | "follow=1"))
}

impl<B: RequestBody> Service<Request<B>> for Transport<B> {
    type Response = Response<Body>;
    type Error = TransportError;
    type Future = BoxFuture<'static, Result<Response<Body>, TransportError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_server() {
        let target = |server: &'static str, path: &'static str| {
            let (server, path) = (Uri::from_static(server), Uri::from_static(path));
            target(&server, &path).unwrap().to_string()
        };
        assert_eq!(target("https://h:1", "/api?a=b"), "https://h:1/api?a=b");
        assert_eq!(target("http://[::1]/k/c", "/api"), "http://[::1]/k/c/api");
        assert_eq!(target("http://h/", "/"), "http://h/");
    }

    #[test]
    fn watches_and_followed_logs_are_streams() {
        let is_stream = |uri: &'static str| is_stream(&Uri::from_static(uri));
        assert!(is_stream("/api/v1/pods?limit=1&watch=true"));
        assert!(is_stream("/api/v1/namespaces/d/pods/p/log?follow=true"));
        assert!(!is_stream("/api/v1/pods?watch=false"));
        assert!(!is_stream("/watch=true"));
    }

    #[test]
    fn credentials_end() {
        let end = Timestamp::from_second(10).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(is_valid(None, at(10)) && is_valid(Some(end), at(9)));
        assert!(!is_valid(Some(end), at(10)));
    }
}
