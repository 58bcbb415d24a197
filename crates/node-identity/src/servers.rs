//! The API servers of a cluster, and the server that all clients of a node use.
//!
//! A node stays with a server while that server responds. If no connection is possible, or if the server is
//! not ready while another server is, all clients change to another server at once. Requests in progress
//! and watches at the former server then end with an error, and their callers start again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use kube_api_client::{Body, BoxError};
use kubeconfig::{Settings, Transport};
use process_telemetry::backoff;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::ServiceExt;

use crate::client::connect;
use crate::error::Error;

/// The interval of the readiness checks of the server. With [`READY_LIMIT`], it is well below the duration
/// of a node's Lease, so that the failure of a server does not let the Lease expire.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Time limit of a readiness check.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// The interval of the readiness checks after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// The servers of a cluster. Clones share the servers.
#[derive(Clone)]
pub struct Servers(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// All servers, for callers that use each of them.
    list: watch::Sender<Vec<Uri>>,
    /// Notified when a request to the current server has failed.
    doubt: Notify,
}

struct State {
    ring: ServerRing,
    /// Cancelled when the current server or its connections are replaced.
    tenure: CancellationToken,
    /// The number of times that all connections were replaced.
    generation: u64,
    /// The last server that has responded.
    last_responding: Option<Uri>,
}

impl From<ServerRing> for State {
    fn from(ring: ServerRing) -> Self {
        Self {
            ring,
            tenure: CancellationToken::new(),
            generation: 0,
            last_responding: None,
        }
    }
}

/// The servers and the current server. There is at least one server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ServerRing {
    servers: Vec<Server>,
    current: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    url: Uri,
    /// The time of the last failure; `None` if the server has responded since.
    failed: Option<Instant>,
}

impl Server {
    fn new(url: Uri) -> Self {
        Self { url, failed: None }
    }
}

impl ServerRing {
    fn new(urls: impl IntoIterator<Item = Uri>) -> Option<Self> {
        let mut servers: Vec<Server> = Vec::new();
        for url in urls {
            if servers.iter().all(|server| server.url != url) {
                servers.push(Server::new(url));
            }
        }
        let current = 0;
        (!servers.is_empty()).then_some(Self { servers, current })
    }

    fn url(&self) -> Option<&Uri> {
        self.servers.get(self.current).map(|server| &server.url)
    }

    fn urls(&self) -> Vec<Uri> {
        let servers = self.servers.iter();
        servers.map(|server| server.url.clone()).collect()
    }

    /// Replaces the servers. The current server stays current if it is in the new list.
    fn replaced(&self, urls: impl IntoIterator<Item = Uri>) -> Option<Self> {
        let mut next = Self::new(urls)?;
        for server in &mut next.servers {
            let former = self.servers.iter().find(|former| former.url == server.url);
            server.failed = former.and_then(|former| former.failed);
        }
        let is_current = |server: &Server| Some(&server.url) == self.url();
        next.current = next.servers.iter().position(is_current).unwrap_or(0);
        Some(next)
    }

    /// The other servers, in order, starting after the current server.
    fn others(&self) -> impl Iterator<Item = usize> {
        let number = self.servers.len();
        (1..number).map(move |step| (self.current + step) % number)
    }

    /// The next server after a failure of the current one: a server without a failure, or else the server
    /// with the oldest failure. `None` if there is only one server.
    fn successor(&self) -> Option<usize> {
        self.others()
            .min_by_key(|index| self.servers[*index].failed)
    }
}

impl State {
    /// Records a failure of a server. If it is the current server, changes to another server.
    fn fail(&mut self, url: &Uri, now: Instant) {
        if self.ring.url() != Some(url) {
            return;
        }
        self.ring.servers[self.ring.current].failed = Some(now);
        if let Some(next) = self.ring.successor() {
            self.set_current(next);
        }
    }

    /// Changes from a server that is not ready to a server that is.
    fn change(&mut self, from: &Uri, to: &Uri, now: Instant) {
        let mut servers = self.ring.servers.iter();
        let next = servers.position(|server| server.url == *to);
        let Some(next) = next.filter(|_| self.ring.url() == Some(from)) else {
            return;
        };
        self.ring.servers[self.ring.current].failed = Some(now);
        self.ring.servers[next].failed = None;
        self.set_current(next);
    }

    fn set_current(&mut self, next: usize) {
        self.ring.current = next;
        std::mem::take(&mut self.tenure).cancel();
    }

    /// Records the server that has responded, and logs a change.
    fn succeed(&mut self, url: &Uri) {
        if self.last_responding.as_ref() != Some(url)
            && let Some(from) = self.last_responding.replace(url.clone())
        {
            tracing::warn!(%from, to = %url, "the node goes to another server");
        }
        let mut servers = self.ring.servers.iter_mut();
        if let Some(server) = servers.find(|server| server.url == *url) {
            server.failed = None;
        }
    }
}

impl Servers {
    /// These servers, of which the first is used first. `None` for an empty list.
    pub fn new(urls: impl IntoIterator<Item = Uri>) -> Option<Self> {
        ServerRing::new(urls).map(Self::from_ring)
    }

    /// A list with one server.
    pub fn one(url: Uri) -> Self {
        Self::from_ring(ServerRing {
            servers: vec![Server::new(url)],
            current: 0,
        })
    }

    fn from_ring(ring: ServerRing) -> Self {
        Self(Arc::new(Shared {
            list: watch::Sender::new(ring.urls()),
            state: Mutex::new(ring.into()),
            doubt: Notify::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server that is used now.
    pub fn current(&self) -> Uri {
        self.state().ring.url().cloned().unwrap_or_default()
    }

    /// All servers, in the configured order.
    pub fn all(&self) -> Vec<Uri> {
        self.state().ring.urls()
    }

    /// A receiver of the list of all servers.
    pub fn follow(&self) -> watch::Receiver<Vec<Uri>> {
        self.0.list.subscribe()
    }

    /// Replaces the servers; an empty list changes nothing. The current server stays current if it is in
    /// the new list.
    pub fn replace(&self, urls: impl IntoIterator<Item = Uri>) {
        let mut state = self.state();
        let Some(next) = state.ring.replaced(urls) else {
            return;
        };
        let is_replaced = next.url() != state.ring.url();
        self.0.list.send_replace(next.urls());
        state.ring = next;
        if is_replaced {
            std::mem::take(&mut state.tenure).cancel();
        }
    }

    /// Replaces all connections, because this machine has another address, and responses to the former
    /// address are lost. Requests in progress and watches end with an error, and their callers start again.
    pub fn reconnect(&self) {
        let mut state = self.state();
        state.generation += 1;
        std::mem::take(&mut state.tenure).cancel();
    }

    /// The generation of the connections; older connections are not used any more.
    pub(crate) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// The current server, and the token that is cancelled when the server is replaced.
    fn current_with_tenure(&self) -> (Uri, CancellationToken) {
        let state = self.state();
        let url = state.ring.url().cloned().unwrap_or_default();
        (url, state.tenure.clone())
    }

    /// Sends a request to the current server. If a request was not sent, or only reads, it is tried at the
    /// other servers.
    pub(crate) async fn send(
        &self,
        transport: &Transport<Body>,
        request: Request<Body>,
    ) -> Result<Response<GuardedBody>, BoxError> {
        let mut attempts = self.state().ring.servers.len();
        loop {
            let (url, tenure) = self.current_with_tenure();
            let attempt = transport.at(url.clone()).oneshot(request.clone());
            let (error, may_repeat) = match tenure.run_until_cancelled(attempt).await {
                Some(Ok(response)) => {
                    self.state().succeed(&url);
                    let replaced = Box::pin(tenure.cancelled_owned());
                    return Ok(response.map(|body| GuardedBody { body, replaced }));
                }
                Some(Err(error)) => {
                    let was_connected = !error.is_connect();
                    if !was_connected {
                        self.state().fail(&url, Instant::now());
                    }
                    self.0.doubt.notify_one();
                    (BoxError::from(error), !was_connected)
                }
                None => (ServerReplaced.into(), request.method() == Method::GET),
            };
            attempts = attempts.saturating_sub(1);
            if !may_repeat || attempts == 0 {
                return Err(error);
            }
        }
    }

    /// Checks whether the current server is ready, and changes to another server that is. Runs until the
    /// future is dropped.
    ///
    /// # Errors
    /// `Connection` if the authority's certificate cannot be used.
    pub async fn follow_health(&self, ca_pem: &str) -> Result<(), Error> {
        let settings = Settings::of_server(self.current(), ca_pem);
        let transport = connect(Ok(settings)).await?;
        loop {
            self.check_health(&transport).await;
            // The delay limits the checks if requests fail while no server is ready.
            sleep(backoff::jittered(PAUSE)).await;
            let _ = timeout(CHECK_INTERVAL, self.0.doubt.notified()).await;
        }
    }

    async fn check_health(&self, transport: &Transport<Body>) {
        let (current, others) = {
            let state = self.state();
            let ring = &state.ring;
            let others = ring.others().map(|index| ring.servers[index].url.clone());
            (ring.url().cloned(), others.collect::<Vec<_>>())
        };
        let Some(current) = current.filter(|_| !others.is_empty()) else {
            return;
        };
        if is_ready(transport, &current).await {
            self.state().succeed(&current);
            return;
        }
        let checks = others.iter().map(|url| is_ready(transport, url));
        let are_ready = join_all(checks).await;
        let mut ready = others
            .iter()
            .zip(are_ready)
            .filter(|(_, is_ready)| *is_ready);
        if let Some((next, _)) = ready.next() {
            self.state().change(&current, next, Instant::now());
        }
    }
}

/// Whether a server reports that it is ready.
async fn is_ready(transport: &Transport<Body>, url: &Uri) -> bool {
    let request = Request::get("/readyz").body(Body::default());
    let Ok(request) = request else {
        return false;
    };
    let response = timeout(READY_LIMIT, transport.at(url.clone()).oneshot(request)).await;
    matches!(response, Ok(Ok(response)) if response.status() == StatusCode::OK)
}

/// The error of a response whose server was replaced.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the server was left: another one, or another server, is tried")]
struct ServerReplaced;

/// The body of a response, which ends with an error when its server is replaced.
pub(crate) struct GuardedBody {
    body: outbound_http::Body,
    replaced: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for GuardedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.replaced.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(ServerReplaced.into())));
        }
        let body = Pin::new(&mut self.body);
        body.poll_frame(context).map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(name: &str) -> Uri {
        format!("https://{name}:6443").parse().unwrap()
    }

    fn state(names: &[&str]) -> State {
        let urls = names.iter().map(|name| url(name));
        State::from(ServerRing::new(urls).unwrap())
    }

    #[test]
    fn a_server_is_left_when_it_fails() {
        let now = Instant::now();
        let mut state = state(&["a", "b", "a", "c"]);
        let first = state.tenure.clone();
        state.fail(&url("b"), now);
        assert!(!first.is_cancelled(), "it was not asked");
        // Each server is used once, and then the server with the oldest failure.
        for (failed, next, second) in [("a", "b", 1), ("b", "c", 2), ("c", "a", 3), ("a", "b", 4)] {
            let tenure = state.tenure.clone();
            state.fail(&url(failed), now + Duration::from_secs(second));
            assert_eq!(state.ring.url(), Some(&url(next)));
            assert!(tenure.is_cancelled() && !state.tenure.is_cancelled());
        }
        state.succeed(&url("a"));
        state.fail(&url("b"), now + Duration::from_secs(5));
        assert_eq!(state.ring.url(), Some(&url("a")));
    }

    #[test]
    fn the_only_server_is_not_left() {
        let mut state = state(&["a"]);
        state.fail(&url("a"), Instant::now());
        assert_eq!(state.ring.url(), Some(&url("a")));
        assert!(!state.tenure.is_cancelled());
        assert_eq!(ServerRing::new([]), None);
    }

    #[test]
    fn a_server_that_is_not_ready_is_left_for_one_that_is() {
        let now = Instant::now();
        let mut state = state(&["a", "b", "c"]);
        state.change(&url("b"), &url("c"), now);
        assert_eq!(state.ring.url(), Some(&url("a")), "it was left meanwhile");
        state.change(&url("a"), &url("x"), now);
        assert_eq!(
            state.ring.url(),
            Some(&url("a")),
            "it is not known any more"
        );
        state.change(&url("a"), &url("c"), now);
        assert_eq!(state.ring.url(), Some(&url("c")));
    }

    #[test]
    fn connections_are_left_without_their_server() {
        let servers = Servers::new([url("a"), url("b")]).unwrap();
        let (before, tenure) = servers.current_with_tenure();
        let generation = servers.generation();
        servers.reconnect();
        assert!(tenure.is_cancelled());
        assert_ne!(servers.generation(), generation);
        let (after, tenure) = servers.current_with_tenure();
        assert_eq!(after, before);
        assert!(!tenure.is_cancelled());
    }

    #[test]
    fn a_new_list_keeps_the_current_server() {
        let servers = Servers::new([url("a"), url("b")]).unwrap();
        let (current, tenure) = servers.current_with_tenure();
        let followed = servers.follow();
        servers.replace([]);
        servers.replace([url("c"), url("a"), url("c")]);
        assert_eq!(servers.all(), [url("c"), url("a")]);
        assert_eq!(*followed.borrow(), servers.all());
        assert_eq!(servers.current(), current);
        assert!(!tenure.is_cancelled());
        servers.replace([url("d"), url("c")]);
        assert_eq!(servers.current(), url("d"));
        assert!(tenure.is_cancelled());
    }
}
