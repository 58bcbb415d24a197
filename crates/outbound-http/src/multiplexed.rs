//! HTTP/2 connections: many requests share a connection. A further connection is opened when the server accepts no more
//! requests on the open connections.
//!
//! A silent connection is probed with a ping, and is closed if there is no response. All watches on the connection end
//! within 15 seconds of the last byte from the server.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::{Request, Response, Uri};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::BoxError;
use crate::body::Body;
use crate::connector::Connector;
use crate::pool::{Error, RequestBody};

/// Time without data after which a connection is probed.
const SILENCE: Duration = Duration::from_secs(5);
/// Time without a response to the probe after which the connection is closed.
const RESPONSE_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of connections with one server. Further requests wait on open connections.
const CONNECTIONS_MAX: usize = 32;
/// Time after which a connection without requests is closed, if there is another connection.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// Time after which HTTP/2 is offered again to a server that does not support it.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// Maximum number of bytes that wait for their reader, for each response and for each connection. Unread responses
/// cannot use up the window of the connection, so the other responses still arrive.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// See [`STREAM_WINDOW_BYTES`].
const CONNECTION_WINDOW_BYTES: u32 = 128 * STREAM_WINDOW_BYTES;
/// Maximum number of requests on a connection before the server has sent its limit.
const STREAMS_FIRST_MAX: usize = 100;
/// Attempts to find a connection that accepts the request, because the server may close a connection at any time.
const ATTEMPTS_MAX: usize = 3;

/// The reason why a connection could not be opened, shared by all requests that waited for it.
#[derive(Clone, Debug)]
pub struct ConnectFailed(Arc<dyn StdError + Send + Sync>);

impl fmt::Display for ConnectFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("client error (Connect)")
    }
}

impl StdError for ConnectFailed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// A connection; `None` if the server does not support HTTP/2.
type Connected<B> = Result<Option<Arc<Connection<B>>>, ConnectFailed>;

/// A connection that is being opened.
type Connecting<B> = Shared<BoxFuture<'static, Connected<B>>>;

/// The connections with servers that support HTTP/2.
pub(crate) struct Multiplexed<B> {
    connector: Connector,
    /// The connections of each server, by scheme and authority.
    routes: Mutex<BTreeMap<String, Route<B>>>,
}

/// The connections with one server.
struct Route<B> {
    open: Vec<Arc<Connection<B>>>,
    connecting: Option<Connecting<B>>,
    /// The time until which the server counts as one without HTTP/2.
    plain_until: Option<Instant>,
}

impl<B> Default for Route<B> {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            connecting: None,
            plain_until: None,
        }
    }
}

struct Connection<B> {
    sender: SendRequest<B>,
    load: Arc<Load>,
}

/// The load of a connection.
#[derive(Debug)]
struct Load {
    requests: AtomicUsize,
    /// The server's limit on concurrent requests.
    max: AtomicUsize,
    /// Whether a request was cancelled before its response: the server may have vanished.
    is_doubted: AtomicBool,
    idle_since: Mutex<Instant>,
}

/// The permit for one request on a connection, released on drop.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    load: Arc<Load>,
    has_response: bool,
}

impl StreamPermit {
    fn set_response(&mut self) {
        self.has_response = true;
        self.load.is_doubted.store(false, Ordering::Relaxed);
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if !self.has_response {
            self.load.is_doubted.store(true, Ordering::Relaxed);
        }
        if self.load.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            *lock(&self.load.idle_since) = Instant::now();
        }
    }
}

impl Load {
    fn new() -> Self {
        Self {
            requests: AtomicUsize::new(0),
            max: AtomicUsize::new(STREAMS_FIRST_MAX),
            is_doubted: AtomicBool::new(false),
            idle_since: Mutex::new(Instant::now()),
        }
    }

    fn enter(self: &Arc<Self>) -> StreamPermit {
        self.requests.fetch_add(1, Ordering::Relaxed);
        StreamPermit {
            load: self.clone(),
            has_response: false,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn has_capacity(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        self.requests() < max && !self.is_doubted.load(Ordering::Relaxed)
    }

    fn is_idle(&self, now: Instant) -> bool {
        let since = *lock(&self.idle_since);
        self.requests() == 0 && now.saturating_duration_since(since) > IDLE_LIMIT
    }
}

impl<B> Route<B> {
    /// Removes connections that have ended, and connections that have been unused for long.
    fn tidy(&mut self, now: Instant) {
        self.open
            .retain(|connection| !connection.sender.is_closed());
        let mut position = 0;
        self.open.retain(|connection| {
            position += 1;
            position == 1 || !connection.load.is_idle(now)
        });
    }

    /// The permit for a request on an open connection. The first connection with capacity is used, so that later
    /// connections become idle. If no more connections may be opened, the connection with the fewest requests is used.
    fn permit(&self) -> Option<(SendRequest<B>, StreamPermit)> {
        let with_capacity = self
            .open
            .iter()
            .find(|connection| connection.load.has_capacity());
        let fewest = || {
            let is_full = self.open.len() >= CONNECTIONS_MAX;
            let open = self.open.iter().filter(|_| is_full);
            open.min_by_key(|connection| connection.load.requests())
        };
        let connection = with_capacity.or_else(fewest)?;
        Some((connection.sender.clone(), connection.load.enter()))
    }
}

/// The connection for a request.
enum Acquisition<B> {
    Granted(SendRequest<B>, StreamPermit),
    Connecting(Connecting<B>),
    /// The server does not support HTTP/2.
    Plain,
}

impl<B: RequestBody> Multiplexed<B> {
    pub(crate) fn new(connector: Connector) -> Self {
        Self {
            connector,
            routes: Mutex::default(),
        }
    }

    /// Sends a request. Returns the request unsent if the server does not support HTTP/2.
    pub(crate) async fn request(
        &self,
        mut request: Request<B>,
    ) -> Result<Result<Response<Body>, Request<B>>, Error> {
        let mut attempts = 0;
        loop {
            let Some((mut sender, mut permit)) = self.permit(request.uri()).await? else {
                return Ok(Err(request));
            };
            attempts += 1;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    permit.set_response();
                    return Ok(Ok(
                        response.map(|incoming| Body::of_stream(incoming, permit))
                    ));
                }
                Err(mut failed) => match failed.take_message() {
                    // The request was not sent, because the connection has just ended.
                    Some(unsent) if attempts < ATTEMPTS_MAX => request = unsent,
                    _ => return Err(Error::Exchange(failed.into_error())),
                },
            }
        }
    }

    /// A permit on a connection with the server of a URI; `None` if the server does not support HTTP/2.
    async fn permit(&self, uri: &Uri) -> Result<Option<(SendRequest<B>, StreamPermit)>, Error> {
        let key = key(uri);
        loop {
            match self.acquire(&key, uri) {
                Acquisition::Granted(sender, permit) => return Ok(Some((sender, permit))),
                Acquisition::Plain => return Ok(None),
                Acquisition::Connecting(connecting) => {
                    let connected = connecting.clone().await;
                    self.joined(&key, &connecting, connected)?;
                }
            }
        }
    }

    fn acquire(&self, key: &str, uri: &Uri) -> Acquisition<B> {
        let now = Instant::now();
        let mut routes = lock(&self.routes);
        let route = routes.entry(key.to_owned()).or_default();
        route.tidy(now);
        if route.plain_until.is_some_and(|end| now < end) {
            return Acquisition::Plain;
        }
        if let Some((sender, permit)) = route.permit() {
            return Acquisition::Granted(sender, permit);
        }
        // The failed attempt is still here if all requests that waited for it were cancelled.
        route
            .connecting
            .take_if(|connecting| matches!(connecting.peek(), Some(Err(_))));
        let connecting = route.connecting.get_or_insert_with(|| {
            let connecting = connect(self.connector.clone(), uri.clone());
            // A separate task, because the request that starts it may be cancelled.
            let task = tokio::spawn(connecting);
            let connected = task.map(|done| match done {
                Ok(done) => done,
                Err(error) => Err(failed(error.into())),
            });
            connected.boxed().shared()
        });
        Acquisition::Connecting(connecting.clone())
    }

    /// Stores a new connection. The first of the requests that waited for the connection does this.
    fn joined(
        &self,
        key: &str,
        connecting: &Connecting<B>,
        connected: Connected<B>,
    ) -> Result<(), Error> {
        let mut routes = lock(&self.routes);
        let route = routes.entry(key.to_owned()).or_default();
        let is_same = |latest: &Connecting<B>| latest.ptr_eq(connecting);
        if route.connecting.as_ref().is_some_and(is_same) {
            route.connecting = None;
            match &connected {
                Ok(Some(connection)) => route.open.push(connection.clone()),
                Ok(None) => route.plain_until = Some(Instant::now() + ASK_AGAIN),
                Err(_) => {}
            }
        }
        connected?;
        Ok(())
    }
}

async fn connect<B: RequestBody>(connector: Connector, uri: Uri) -> Connected<B> {
    let stream = connector.oneshot(uri).await.map_err(failed)?;
    if !stream.is_http2() {
        return Ok(None);
    }
    let handshake = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(RESPONSE_LIMIT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .handshake(stream);
    let (sender, connection) = handshake.await.map_err(|error| failed(error.into()))?;
    let load = Arc::new(Load::new());
    let shared_load = load.clone();
    tokio::spawn(async move {
        let mut connection = Box::pin(connection);
        let running = poll_fn(|context| {
            let polled = connection.as_mut().poll(context);
            let max = connection.current_max_send_streams();
            shared_load.max.store(max, Ordering::Relaxed);
            polled
        });
        // An error of the connection is also reported as an error of its requests and bodies.
        drop(running.await);
    });
    Ok(Some(Arc::new(Connection { sender, load })))
}

fn failed(error: BoxError) -> ConnectFailed {
    ConnectFailed(error.into())
}

/// The scheme and authority of a URI.
fn key(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{scheme}://{authority}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
