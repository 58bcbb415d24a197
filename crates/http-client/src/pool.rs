//! A client that keeps connections open.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, PROXY_AUTHORIZATION, REFERER};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Empty;
use hyper_util::client::legacy::{self, Client};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use url::Url;

use crate::body::Body;
pub use crate::connector::Allows;
use crate::connector::Connector;
use crate::redirect;

/// The time after which an unused connection is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

/// The proxies that requests go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxies {
    /// None.
    None,
    /// Those of the variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as of curl.
    Environment,
}

/// The settings of a [`Pool`].
#[derive(Clone)]
pub struct Settings {
    /// The longest time until a connection stands, TLS and proxies included.
    pub connect_limit: Duration,
    /// The longest time in which a server may send nothing.
    pub silence_limit: Duration,
    /// The servers that are trusted; see [`crate::tls`].
    pub tls: Arc<ClientConfig>,
    /// The proxies.
    pub proxies: Proxies,
    /// Decides whether an address that a name resolves to may be connected to; names of proxies
    /// included. The caller checks URLs that have an address in place of a name.
    pub allows: Allows,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be sent to a server.
    #[error("the URL is malformed")]
    Url,
    /// There is no connection, or it ended before the answer.
    #[error(transparent)]
    Connection(#[from] legacy::Error),
    /// The server sent nothing for that time.
    #[error("nothing was sent for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The server redirects, and the caller does not follow.
    #[error("{0}")]
    Redirect(String),
}

impl Error {
    /// Whether no connection was made: the name has no address, nobody listens, or TLS failed.
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connection(error) if error.is_connect())
    }
}

/// A client that keeps connections open; clones share them.
#[derive(Clone)]
pub struct Pool {
    client: Client<Connector, Empty<Bytes>>,
    proxies: Arc<Matcher>,
    silence_limit: Duration,
}

impl Pool {
    /// A client without connections.
    pub fn new(settings: Settings) -> Self {
        let proxies = Arc::new(match settings.proxies {
            Proxies::None => Matcher::builder().build(),
            Proxies::Environment => Matcher::from_env(),
        });
        let connector = Connector::new(
            settings.allows,
            settings.tls,
            proxies.clone(),
            settings.connect_limit,
        );
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(connector);
        Self {
            client,
            proxies,
            silence_limit: settings.silence_limit,
        }
    }

    /// Sends a GET request and follows redirects. `follows` decides about each redirect from its URL
    /// and the number of those before it. Credentials are not sent to another origin.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        follows: impl Fn(&Url, usize) -> Result<(), String>,
    ) -> Result<Response<Body>, Error> {
        let mut url = url.clone();
        let mut followed = 0;
        loop {
            let response = self.send(&url, headers.clone()).await?;
            let location = redirect::location(response.status(), response.headers());
            let target = location.and_then(|location| redirect::target(&url, &location).ok());
            let Some(next) = target else {
                return Ok(response);
            };
            follows(&next, followed).map_err(Error::Redirect)?;
            redirect::remove_credentials(&mut headers, &url, &next);
            headers.remove(REFERER);
            headers.extend(redirect::referer(&url, &next).map(|value| (REFERER, value)));
            url = next;
            followed += 1;
        }
    }

    async fn send(&self, url: &Url, headers: HeaderMap) -> Result<Response<Body>, Error> {
        let uri: Uri = redirect::shown(url)
            .as_str()
            .parse()
            .map_err(|_| Error::Url)?;
        let credentials = self.proxy_credentials(&uri);
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let credentials = credentials.map(|value| (PROXY_AUTHORIZATION, value));
        request.headers_mut().extend(credentials);
        let answer = tokio::time::timeout(self.silence_limit, self.client.request(request)).await;
        let response = answer.map_err(|_| Error::Silent(self.silence_limit))??;
        Ok(response.map(|incoming| Body::of_pool(incoming, self.silence_limit)))
    }

    /// The credentials that a proxy reads in the request itself. Those of a tunnel are sent when it is
    /// opened.
    fn proxy_credentials(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        self.proxies.intercept(uri)?.basic_auth().cloned()
    }
}
