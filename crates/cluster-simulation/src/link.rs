//! The connection from a client to the API server, with its faults.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use controllers::SilenceStorage;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::SignedDuration;
use kube_api_client::{Body, Client};
use kube_api_server::{ApiServer, BoxError, LocalService, ResponseBody, UserInfo};
use leader_election::Term;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::process::Process;
use crate::{random, tally, trace};

/// Range of a client's timeout for a missing response, in milliseconds.
const PATIENCE_MILLIS: (u64, u64) = (5_000, 15_000);

/// Percentage of careless deletions that are delayed.
const DELAYED_PERCENT: u64 = 50;

/// A running server, and the tasks that stop with it.
#[derive(Clone)]
pub struct Incarnation {
    pub server: Arc<ApiServer>,
    /// Cancelled when the server crashes.
    pub down: CancellationToken,
    pub process: Process,
}

impl Incarnation {
    /// Waits until the server has been suspended for longer than a client waits.
    async fn suspended_too_long(&self) {
        loop {
            self.process.wait_for_suspended(true).await;
            let patience = random::millis(PATIENCE_MILLIS.0, PATIENCE_MILLIS.1);
            tokio::select! {
                biased;
                () = self.process.wait_for_suspended(false) => {}
                () = sleep(patience) => return,
            }
        }
    }
}

/// The address of the server for clients, if it runs.
pub type Address = Arc<Mutex<Option<Incarnation>>>;

/// The servers of a client. The client uses one server as long as that server responds.
#[derive(Clone)]
pub struct Servers {
    addresses: Arc<[Address]>,
    current: Arc<AtomicUsize>,
}

impl Servers {
    /// The client starts with the first server.
    pub fn of(addresses: impl IntoIterator<Item = Address>) -> Self {
        Self {
            addresses: addresses.into_iter().collect(),
            current: Arc::default(),
        }
    }

    /// The server in use, if it runs.
    fn current(&self) -> Option<Incarnation> {
        let number = self.current.load(Ordering::Relaxed) % self.addresses.len().max(1);
        let address = self.addresses.get(number)?;
        address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Selects the next server.
    pub fn select_next(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}

impl From<Address> for Servers {
    fn from(address: Address) -> Self {
        Self::of([address])
    }
}

/// The faults of a link, in percent of requests or of watch events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Requests that do not reach the server.
    pub lost_requests: u64,
    /// Responses that do not reach the client, though the request took effect.
    pub lost_responses: u64,
    /// Watch events that are late, and delay the events after them.
    pub late_events: u64,
    /// Watches that break at an event.
    pub broken_watches: u64,
    /// Maximum delay of a request and of a response.
    pub latency_millis: u64,
    /// Longest delay of a late event.
    pub lateness_millis: u64,
}

/// A text in the responses and its replacement, for a mutation.
pub type Forgery = (&'static str, &'static str);

/// The conditions of a link; shared with the code that injects faults.
#[derive(Default)]
pub struct Conditions {
    weather: Mutex<Weather>,
    partitioned: AtomicBool,
    /// Whether the client's process is suspended: it sends nothing, and receives no response.
    frozen: watch::Sender<bool>,
    /// Whether the process is suspended as soon as the server has executed a write, before the response arrives.
    freezes_at_write: AtomicBool,
    /// The client is killed at its n-th write from now; 0 is never.
    writes_to_live: AtomicU64,
    /// For mutations: responses are forged, and deletions have no UID.
    forgery: Mutex<Option<Forgery>>,
    careless: AtomicBool,
    observation_gap: Mutex<Option<SignedDuration>>,
    killed: Notify,
    /// The silence of nodes that one run of the client records for the next run.
    pub silence: SilenceStorage,
}

impl Conditions {
    /// Sets the random faults.
    pub fn set_weather(&self, weather: Weather) {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// The random faults.
    pub fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts or repairs the link.
    pub fn set_partitioned(&self, partitioned: bool) {
        self.partitioned.store(partitioned, Ordering::Relaxed);
    }

    fn is_partitioned(&self) -> bool {
        self.partitioned.load(Ordering::Relaxed)
    }

    /// Suspends the client's process, or continues it.
    pub fn set_frozen(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Suspends the client's process when the server has executed its next write, or after that time.
    pub async fn freeze_at_write(&self, patience: Duration) {
        self.freezes_at_write.store(true, Ordering::Relaxed);
        let mut frozen = self.frozen.subscribe();
        let at_write = frozen.wait_for(|frozen| *frozen);
        let is_late = tokio::time::timeout(patience, at_write).await.is_err();
        // Another fault may have suspended the process.
        self.freezes_at_write.store(false, Ordering::Relaxed);
        if is_late {
            self.set_frozen(true);
        }
    }

    /// Waits until the client's process is not suspended.
    async fn thawed(&self) {
        let mut frozen = self.frozen.subscribe();
        // The sender lives as long as this value.
        let _continued = frozen.wait_for(|frozen| !frozen).await;
    }

    /// Kills the client now, or as soon as it runs.
    pub fn kill(&self) {
        self.killed.notify_one();
    }

    /// Waits until the client is killed.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// Kills the client at its n-th write from now.
    pub fn die_at_write(&self, n: u64) {
        self.writes_to_live.store(n, Ordering::Relaxed);
    }

    /// Forges responses.
    pub fn forge(&self, forgery: Option<Forgery>) {
        *self.forgery.lock().unwrap_or_else(PoisonError::into_inner) = forgery;
    }

    /// Removes the preconditions from deletions.
    pub fn set_careless(&self, careless: bool) {
        self.careless.store(careless, Ordering::Relaxed);
    }

    /// Sets the time between two checks of the nodes after which controllers assume that they were suspended.
    pub fn set_observation_gap(&self, gap: Option<SignedDuration>) {
        let stored_gap = self.observation_gap.lock();
        *stored_gap.unwrap_or_else(PoisonError::into_inner) = gap;
    }

    pub fn observation_gap(&self) -> Option<SignedDuration> {
        let stored_gap = self.observation_gap.lock();
        *stored_gap.unwrap_or_else(PoisonError::into_inner)
    }

    fn forged(&self, bytes: Bytes) -> Bytes {
        let forgery = *self.forgery.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((from, to)) = forgery else {
            return bytes;
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) if text.contains(from) => Bytes::from(text.replace(from, to)),
            _ => bytes,
        }
    }
}

/// One client's link to the server.
#[derive(Clone)]
pub struct Link {
    name: Arc<str>,
    user: UserInfo,
    servers: Servers,
    pub conditions: Arc<Conditions>,
    /// Cancelled when the client is killed: no request of the client reaches the server any more.
    pub dead: CancellationToken,
    /// Whether the client is a part of the server's process, and is suspended with it.
    is_inside: bool,
    /// The term of leadership to which the client belongs. After the term, the client sends nothing.
    term: Option<Arc<Term>>,
}

impl Link {
    /// A link for a client that acts as `user`.
    pub fn new(
        name: &str,
        user: UserInfo,
        servers: impl Into<Servers>,
        conditions: Arc<Conditions>,
    ) -> Self {
        Self {
            name: name.into(),
            user,
            servers: servers.into(),
            conditions,
            dead: CancellationToken::new(),
            is_inside: false,
            term: None,
        }
    }

    /// The link of a part that runs during a term.
    pub fn during_term(self, term: &Arc<Term>) -> Self {
        Self {
            term: Some(term.clone()),
            ..self
        }
    }

    /// The link of a part of the server's process.
    pub fn inside(self) -> Self {
        Self {
            is_inside: true,
            ..self
        }
    }

    /// A copy of the link for another user of the client's program.
    pub fn of(&self, user: UserInfo) -> Self {
        Self {
            user,
            ..self.clone()
        }
    }

    /// A client over this link.
    pub fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    async fn request(self, request: Request<Body>) -> Result<Response<ResponseBody>, BoxError> {
        let (method, path) = (request.method().clone(), request.uri().to_string());
        let is_write = !matches!(method, Method::GET | Method::HEAD);
        if let Some(term) = self.term.as_ref().filter(|_| is_write)
            && !term.holds()
        {
            let name = &self.name;
            trace::broken(format!("{name} send {method} {path} after their lead"));
        }
        self.conditions.thawed().await;
        let weather = self.conditions.weather();
        sleep(random::millis(0, weather.latency_millis)).await;
        if self.conditions.is_partitioned() {
            sleep(random::millis(PATIENCE_MILLIS.0, PATIENCE_MILLIS.1)).await;
            return Err("no answer".into());
        }
        if random::chance(weather.lost_requests) {
            trace!("{} lost request {method} {path}", self.name);
            sleep(random::millis(100, PATIENCE_MILLIS.0)).await;
            return Err("connection reset before the request was sent".into());
        }
        let dies = is_write && self.is_last_write();
        if dies && random::chance(50) {
            trace!("{} dies before {method} {path}", self.name);
            self.dead.cancel();
            return std::future::pending().await;
        }
        let Some(incarnation) = self.servers.current() else {
            self.servers.select_next();
            sleep(Duration::from_millis(100)).await;
            return Err("connection refused".into());
        };
        let request = self.careless(request).await?;
        let mut service: LocalService = incarnation.server.local(self.user.clone());
        let (process, down) = (incarnation.process.clone(), incarnation.down.clone());
        let call = service.call(request);
        let mut response_future = async move {
            tokio::select! {
                biased;
                () = down.cancelled() => None,
                response = process.run(call) => Some(response),
            }
        }
        .boxed();
        let response = tokio::select! {
            biased;
            response = &mut response_future => response,
            () = incarnation.suspended_too_long(), if !self.is_inside => {
                trace!("{} waits no longer for {method} {path}", self.name);
                self.servers.select_next();
                // The server has received the request, and responds when it continues.
                tokio::spawn(response_future);
                return Err("no answer".into());
            }
        };
        let Some(response) = response else {
            self.servers.select_next();
            return Err("connection reset".into());
        };
        let response = response?;
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            self.servers.select_next();
        }
        if is_write {
            let code = response.status().as_u16();
            tally::count(&path, code);
            trace!("{} {method} {path} {code}", self.name);
            if self
                .conditions
                .freezes_at_write
                .swap(false, Ordering::Relaxed)
            {
                self.conditions.set_frozen(true);
            }
        }
        if dies {
            trace!("{} dies after {method} {path}", self.name);
            self.dead.cancel();
            return std::future::pending().await;
        }
        if random::chance(weather.lost_responses) {
            trace!("{} lost answer to {method} {path}", self.name);
            sleep(random::millis(100, PATIENCE_MILLIS.0)).await;
            return Err("connection reset before the answer came".into());
        }
        sleep(random::millis(0, weather.latency_millis)).await;
        self.conditions.thawed().await;
        let is_watch = path.contains("watch=true") || path.contains("watch=1");
        Ok(self.received(response, incarnation, is_watch))
    }

    fn is_last_write(&self) -> bool {
        let remaining = &self.conditions.writes_to_live;
        match remaining.load(Ordering::Relaxed) {
            0 => false,
            n => {
                remaining.store(n - 1, Ordering::Relaxed);
                n == 1
            }
        }
    }

    /// For a mutation: deletions without preconditions. Some deletions are delayed, so that a race is not rare; with
    /// the UID a delay would be harmless.
    async fn careless(&self, request: Request<Body>) -> Result<Request<Body>, BoxError> {
        let careless = self.conditions.careless.load(Ordering::Relaxed);
        if !careless || request.method() != Method::DELETE {
            return Ok(request);
        }
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let mut options: json_tree::Value = serde_json::from_slice(&bytes)?;
        if let Some(options) = options.as_object_mut() {
            options.remove("preconditions");
        }
        if random::chance(DELAYED_PERCENT) {
            sleep(random::millis(0, PATIENCE_MILLIS.0)).await;
        }
        Ok(Request::from_parts(
            parts,
            Body::from(serde_json::to_vec(&options)?),
        ))
    }

    fn received(
        self,
        response: Response<ResponseBody>,
        incarnation: Incarnation,
        is_watch: bool,
    ) -> Response<ResponseBody> {
        response.map(|body| {
            let frames = Frames {
                body,
                link: self,
                incarnation,
                is_watch,
            };
            let frames: Pin<Box<dyn Stream<Item = _> + Send>> =
                Box::pin(futures::stream::unfold(Some(frames), Frames::next));
            BodyExt::boxed_unsync(StreamBody::new(frames))
        })
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let link = self.clone();
        async move {
            let dead = link.dead.clone();
            tokio::select! {
                biased;
                // A killed client receives nothing.
                () = dead.cancelled() => std::future::pending().await,
                response = link.request(request) => response,
            }
        }
        .boxed()
    }
}

/// A response body in transfer to the client.
struct Frames {
    body: ResponseBody,
    link: Link,
    incarnation: Incarnation,
    is_watch: bool,
}

type Received = Result<Frame<Bytes>, BoxError>;

impl Frames {
    async fn next(state: Option<Self>) -> Option<(Received, Option<Self>)> {
        let mut frames = state?;
        let dead = frames.link.dead.clone();
        tokio::select! {
            biased;
            () = dead.cancelled() => std::future::pending().await,
            received = frames.receive() => match received? {
                Ok(frame) => Some((Ok(frame), Some(frames))),
                Err(error) => Some((Err(error), None)),
            }
        }
    }

    async fn receive(&mut self) -> Option<Received> {
        let frame = tokio::select! {
            biased;
            () = self.incarnation.down.cancelled() => {
                return Some(Err("connection reset".into()));
            }
            frame = self.incarnation.process.run(self.body.frame()) => frame?,
            () = self.incarnation.suspended_too_long(), if !self.link.is_inside => {
                self.link.servers.select_next();
                return Some(Err("no sign of life".into()));
            }
        };
        if self.is_watch
            && let Err(error) = delay_event(&self.link.conditions).await
        {
            return Some(Err(error));
        }
        let conditions = &self.link.conditions;
        Some(frame.map(|frame| frame.map_data(|bytes| conditions.forged(bytes))))
    }
}

/// Delays a watch event. Fails if the watch breaks.
async fn delay_event(conditions: &Conditions) -> Result<(), BoxError> {
    if conditions.is_partitioned() {
        sleep(random::millis(PATIENCE_MILLIS.0, PATIENCE_MILLIS.1)).await;
        return Err("watch without a sign of life".into());
    }
    let weather = conditions.weather();
    if random::chance(weather.broken_watches) {
        return Err("connection reset".into());
    }
    sleep(random::millis(0, weather.latency_millis)).await;
    if random::chance(weather.late_events) {
        sleep(random::millis(0, weather.lateness_millis)).await;
    }
    conditions.thawed().await;
    Ok(())
}
