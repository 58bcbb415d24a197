//! The threads on which a request is processed: short work runs on the threads of the async runtime, long work on
//! separate threads, so that the large object of one client does not delay the responses to other clients.
//!
//! A request starts as a small request. Code that learns that the request is large (from its body, the stored object,
//! or the list to send) calls [`expect`]. From the next poll on, the whole request runs on a thread outside of the
//! runtime's pool, and only a few such polls run at once. A runtime with one thread (tests, the simulation) has no
//! other thread; there the work runs on that thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
pub(crate) use host_kernel::block_in_place;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use object_model::Status;
use process_telemetry::polls::{SlowPolls, watched};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSemaphore;

use crate::http::body::{BoxBody, BoxError, boxed};
use crate::http::limits::{LIGHT_BYTES_MAX, YAML_COST};
use crate::http::unread::UnreadBytes;

/// The scheduling state of a request.
#[derive(Default)]
struct Request {
    /// Whether it runs outside of the runtime's threads.
    large: AtomicBool,
    /// Whether the limit on large requests does not apply, because the user is in `system:masters`.
    exempt: AtomicBool,
    /// The cost of one byte of the body.
    cost: AtomicUsize,
    /// The quota of the sender, which the body is charged to.
    payer: Mutex<Option<Box<dyn BodyAllowance>>>,
    /// The counted bytes of the response.
    response: Mutex<Option<UnreadBytes>>,
}

/// The quota that the bodies of a sender are charged to; the charge is released on drop.
pub(crate) trait BodyAllowance: Send {
    /// Charges a cost.
    ///
    /// *Errors.* 429 if the quota is exhausted.
    fn pay(&mut self, cost: usize) -> Result<(), Status>;
}

tokio::task_local! {
    static CURRENT: Arc<Request>;
}

/// Ends this poll, so that other requests run: between slices of long work, and before the retry of a write after a
/// conflict. Retries that never wait would occupy the thread, and block the writes that they wait for.
pub(crate) async fn let_others_go_first() {
    tokio::task::yield_now().await;
}

/// Announces work on this many bytes. Await the call before the work begins.
pub(crate) async fn expect(bytes: usize) {
    if bytes <= LIGHT_BYTES_MAX {
        return;
    }
    let turns = CURRENT.try_with(|request| !request.large.swap(true, Ordering::Relaxed));
    if turns.unwrap_or(false) {
        tokio::task::yield_now().await;
    }
}

/// Announces the size of the request body. A short YAML text can take long to read, because its aliases expand.
pub(crate) async fn expect_body(bytes: usize) {
    let cost = CURRENT.try_with(|request| request.cost.load(Ordering::Relaxed));
    let is_plain = cost.unwrap_or(1) <= 1;
    expect(if is_plain { bytes } else { usize::MAX }).await;
}

/// Charges bytes of the request's body to the sender's quota.
///
/// *Errors.* 429 if the quota is exhausted.
pub(crate) fn charge(bytes: usize) -> Result<(), Status> {
    let charged = CURRENT.try_with(|request| {
        let cost = request.cost.load(Ordering::Relaxed).max(1);
        match lock(&request.payer).as_mut() {
            Some(payer) => payer.pay(bytes.saturating_mul(cost)),
            None => Ok(()),
        }
    });
    // Work outside of a request is not charged.
    charged.unwrap_or(Ok(()))
}

/// Sets the quota that the request's body is charged to; `None` for a sender without limits.
pub(crate) fn sent_by(payer: Option<Box<dyn BodyAllowance>>) {
    // Work outside of a request is not charged.
    let _unknown = CURRENT.try_with(|request| {
        request.exempt.store(payer.is_none(), Ordering::Relaxed);
        *lock(&request.payer) = payer;
    });
}

/// Starts the count of the response bytes.
pub(crate) fn count_response_in(count: UnreadBytes) {
    // Work outside of a request has no response.
    let _unknown = CURRENT.try_with(|request| *lock(&request.response) = Some(count));
}

/// Counts response bytes before they are built. Responses to components of this process are not counted.
///
/// *Errors.* 429 if the sender has too many unread bytes.
pub(crate) fn announce(bytes: usize) -> Result<(), Status> {
    let announced = CURRENT.try_with(|request| match lock(&request.response).as_mut() {
        Some(count) => count.grow(bytes),
        None => Ok(()),
    });
    announced.unwrap_or(Ok(()))
}

/// The counted bytes of the response so far.
pub(crate) fn announced() -> Option<UnreadBytes> {
    let count = CURRENT.try_with(|request| lock(&request.response).take());
    count.ok().flatten()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs work on this many bytes synchronously, for code that cannot await. Much work runs outside of the runtime's
/// threads.
pub(crate) fn at_once<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
    if bytes <= LIGHT_BYTES_MAX {
        work()
    } else {
        block_in_place(work)
    }
}

/// The permits of large requests that may run at once.
pub(crate) struct LargeRequestSlots(Arc<Semaphore>);

impl Default for LargeRequestSlots {
    /// One processor stays free for small requests and for sending.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(
            processors.saturating_sub(1).clamp(1, 8),
        )))
    }
}

/// A body whose polls are measured.
struct WatchedBody {
    body: BoxBody,
    polls: Arc<SlowPolls>,
    what: String,
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let body = &mut this.body;
        this.polls
            .watch(&this.what, || Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The recorder of slow polls, and the name of the request.
pub(crate) type WatchedRequest = (Arc<SlowPolls>, String);

/// The body of a response, measured if enabled.
pub(crate) fn watched_body(watched: Option<WatchedRequest>, body: BoxBody) -> BoxBody {
    match watched {
        Some((polls, request)) => boxed(WatchedBody {
            body,
            polls,
            what: format!("the answer to {request}"),
        }),
        None => body,
    }
}

/// Starts the tasks of a connection, measured if enabled.
#[derive(Clone)]
pub(crate) struct Tasks(pub Option<Arc<SlowPolls>>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(watched(self.0.clone(), "a stream of a connection", task));
    }
}

/// The work on one request, on the threads that fit its size.
pub(crate) struct ScheduledRequest<T> {
    work: BoxFuture<'static, T>,
    request: Arc<Request>,
    permits: PollSemaphore,
    slow_polls: Option<WatchedRequest>,
}

impl<T> ScheduledRequest<T> {
    pub(crate) fn new(
        work: BoxFuture<'static, T>,
        cost: usize,
        slots: &LargeRequestSlots,
        slow_polls: Option<WatchedRequest>,
    ) -> Self {
        let request = Request {
            cost: AtomicUsize::new(cost),
            ..Request::default()
        };
        Self {
            work,
            request: Arc::new(request),
            permits: PollSemaphore::new(slots.0.clone()),
            slow_polls,
        }
    }
}

/// The cost of a byte of a body with these headers, relative to JSON.
pub(crate) fn cost_of(headers: &HeaderMap) -> usize {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    match kind {
        Some(kind) if kind.contains("yaml") => YAML_COST,
        _ => 1,
    }
}

impl<T> Future for ScheduledRequest<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        let request = this.request.clone();
        let is_large = request.large.load(Ordering::Relaxed);
        // The permit is released after each poll, so that no permit is held while the request waits for the store or
        // a webhook.
        let _permit = match is_large && !request.exempt.load(Ordering::Relaxed) {
            true => ready!(this.permits.poll_acquire(cx)),
            false => None,
        };
        let work = &mut this.work;
        let poll = || CURRENT.sync_scope(request, || work.as_mut().poll(cx));
        match &this.slow_polls {
            _ if is_large => block_in_place(poll),
            Some((polls, what)) => polls.watch(what, poll),
            None => poll(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use futures::FutureExt;
    use process_telemetry::polls;

    const LONGEST: Duration = Duration::from_millis(2);

    /// A poll is not recorded if the host took the processors away for about as long as the poll took. The test is
    /// repeated up to this number.
    const ATTEMPTS: usize = 100;

    /// Computes for longer than the limit, also on a slow machine.
    fn burn() {
        let start = polls::processor_time();
        while polls::processor_time() - start < LONGEST * 50 {
            std::hint::spin_loop();
        }
    }

    fn placed(
        polls: &Arc<SlowPolls>,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> ScheduledRequest<()> {
        let watched = Some((polls.clone(), "PUT /large".to_owned()));
        ScheduledRequest::new(work.boxed(), 1, &LargeRequestSlots::default(), watched)
    }

    /// findings A9, findings-2 R40: polls of bodies and of background tasks are measured too.
    // findings-2 R40
    #[tokio::test(flavor = "multi_thread")]
    async fn long_polls_of_bodies_and_tasks_are_noted() {
        let polls = SlowPolls::new(LONGEST);
        let is_noted = |what: &str| polls.recorded().iter().any(|name| name.starts_with(what));
        let mut attempts = 0..ATTEMPTS;
        while !is_noted("a task: ") {
            attempts.next().expect("a task is noted");
            watched(Some(polls.clone()), "a task", async { burn() }).await;
        }
        let mut attempts = 0..ATTEMPTS;
        while !is_noted("a stream of a connection: ") {
            attempts.next().expect("a stream of a connection is noted");
            Tasks(Some(polls.clone())).execute(async { burn() });
            tokio::time::sleep(LONGEST * 100).await;
        }
        let mut attempts = 0..ATTEMPTS;
        while !is_noted("the answer to GET /large: ") {
            attempts.next().expect("the answer to a request is noted");
            let frames = futures::stream::once(async {
                burn();
                Ok::<_, BoxError>(Frame::data(Bytes::new()))
            });
            let body = boxed(http_body_util::StreamBody::new(frames));
            let watched = Some((polls.clone(), "GET /large".to_owned()));
            let body = watched_body(watched, body);
            http_body_util::BodyExt::collect(body).await.unwrap();
        }
    }

    /// findings S13: long polls on the runtime's threads are recorded; announced long work is not.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_poll_that_takes_long_is_noted_unless_it_was_announced() {
        let polls = SlowPolls::new(LONGEST);
        placed(&polls, async move {
            expect(LIGHT_BYTES_MAX + 1).await;
            burn();
        })
        .await;
        placed(&polls, async move {
            at_once(LIGHT_BYTES_MAX + 1, burn);
        })
        .await;
        assert!(polls.recorded().is_empty(), "{polls:?}");
        let mut attempts = 0..ATTEMPTS;
        while polls.recorded().is_empty() {
            attempts.next().expect("a long poll is noted");
            placed(&polls, async move {
                expect(LIGHT_BYTES_MAX).await;
                burn();
            })
            .await;
        }
        assert!(polls.recorded()[0].starts_with("PUT /large: "), "{polls:?}");
    }
}
