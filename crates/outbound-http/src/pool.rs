//! A client that reuses connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, PROXY_AUTHORIZATION, REFERER, UPGRADE};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Empty;
use hyper_util::client::legacy::{self, Client};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::BoxError;
use crate::body::Body;
use crate::connector::Connector;
use crate::multiplexed::{ConnectFailed, Multiplexed};
use crate::redirect;
use crate::settings::{Proxies, Settings};

/// The time after which an unused connection is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(90);

/// The reason why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be sent to a server.
    #[error("the URL is malformed")]
    Url,
    /// There is no connection, or it ended before the response.
    #[error(transparent)]
    Connection(#[from] legacy::Error),
    /// There is no shared connection.
    #[error(transparent)]
    Connect(#[from] ConnectFailed),
    /// A shared connection ended before the response.
    #[error(transparent)]
    Exchange(hyper::Error),
    /// The server sent nothing for this time.
    #[error("nothing was sent for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The server sent a redirect that the caller does not follow.
    #[error(transparent)]
    Redirect(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Whether the connection could not be opened: the name has no address, the port is closed, or TLS failed.
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Connection(error) => error.is_connect(),
            Self::Connect(_) => true,
            _ => false,
        }
    }
}

/// The body of a request over a reused connection.
pub trait RequestBody:
    http_body::Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static
{
}

impl<B> RequestBody for B where
    B: http_body::Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static
{
}

/// A client that reuses connections; clones share them. `B` is the type of request bodies.
pub struct Pool<B = Empty<Bytes>> {
    client: Client<Connector, B>,
    multiplexed: Option<Arc<Multiplexed<B>>>,
    proxies: Arc<Matcher>,
    silence_limit: Duration,
}

impl<B> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            multiplexed: self.multiplexed.clone(),
            proxies: self.proxies.clone(),
            silence_limit: self.silence_limit,
        }
    }
}

impl<B: RequestBody> Pool<B> {
    /// A client without connections.
    pub fn new(settings: Settings) -> Self {
        let proxies = Arc::new(match &settings.proxies {
            Proxies::None => Matcher::builder().build(),
            Proxies::Through(proxy) => Matcher::builder().all(proxy.to_string()).build(),
            Proxies::Environment => Matcher::from_env(),
        });
        let silence_limit = settings.silence_limit;
        let multiplexed = settings.http2.then(|| {
            let connector = Connector::new(settings.clone(), proxies.clone());
            Arc::new(Multiplexed::new(connector.with_http2()))
        });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(Connector::new(settings, proxies.clone()));
        Self {
            client,
            multiplexed,
            proxies,
            silence_limit,
        }
    }

    /// Sends a request to the server of its URI. A redirect is returned as the response.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn request(&self, mut request: Request<B>) -> Result<Response<Body>, Error> {
        let credentials = self.proxy_credentials(request.uri());
        let credentials = credentials.map(|value| (PROXY_AUTHORIZATION, value));
        request.headers_mut().extend(credentials);
        let result = tokio::time::timeout(self.silence_limit, self.send_once(request)).await;
        let response = result.map_err(|_| Error::Silent(self.silence_limit))??;
        Ok(response.map(|body| body.with_silence_limit(self.silence_limit)))
    }

    async fn send_once(&self, mut request: Request<B>) -> Result<Response<Body>, Error> {
        let is_https = request.uri().scheme_str() == Some("https");
        // An upgrade needs an exclusive HTTP/1.1 connection.
        let is_shared = is_https && !request.headers().contains_key(UPGRADE);
        if let Some(multiplexed) = self.multiplexed.as_ref().filter(|_| is_shared) {
            match multiplexed.request(request).await? {
                Ok(response) => return Ok(response),
                Err(unsent) => request = unsent,
            }
        }
        let response = self.client.request(request).await?;
        Ok(response.map(Body::of_pool))
    }

    /// The proxy credentials for an `http` request, which contains them itself. The credentials for a tunnel are sent
    /// when the tunnel is opened.
    fn proxy_credentials(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        self.proxies.intercept(uri)?.basic_auth().cloned()
    }
}

impl Pool {
    /// Sends a GET request and follows redirects. `follows` decides about each redirect from its URL and the number of
    /// earlier redirects. Credentials are not sent to another origin.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get<R: std::error::Error + Send + Sync + 'static>(
        &self,
        url: &Url,
        mut headers: HeaderMap,
        follows: impl Fn(&Url, usize) -> Result<(), R>,
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
            follows(&next, followed).map_err(|refusal| Error::Redirect(Box::new(refusal)))?;
            redirect::remove_credentials(&mut headers, &url, &next);
            headers.remove(REFERER);
            headers.extend(redirect::referer(&url, &next).map(|value| (REFERER, value)));
            url = next;
            followed += 1;
        }
    }

    async fn send(&self, url: &Url, headers: HeaderMap) -> Result<Response<Body>, Error> {
        let uri: Uri = redirect::public_url(url)
            .as_str()
            .parse()
            .map_err(|_| Error::Url)?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        self.request(request).await
    }
}
