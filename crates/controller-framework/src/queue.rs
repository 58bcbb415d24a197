//! A work queue of keys.
//!
//! A key that waits is not added a second time. A key that is added while in progress waits until the work on it is
//! done, so only one worker handles a key at a time. A failed key is retried after a delay that doubles with each
//! failure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube_api_client::guarded_writes::{chain, is_of_the_object};
use process_telemetry::Component;
use process_telemetry::backoff;
use process_telemetry::health::{FailureStreak, Kind};
use process_telemetry::limits::FAILURES_MAX;
use process_telemetry::polls::spend;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::metrics::{Counts, Load, Loaded};

/// The requirements on the keys of a queue.
pub trait Work: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static {}
impl<T: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static> Work for T {}

/// A handle on a queue; clones share the queue.
pub struct Queue<T: Work> {
    shared: Arc<Shared<T>>,
}

impl<T: Work> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T: Work> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    counts: Arc<Mutex<Counts>>,
    streak: Option<FailureStreak>,
    changed: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// The keys in `ready`, and the keys added while in progress; with the time of their addition.
    waiting: HashMap<T, Instant>,
    /// The keys in progress, each with the start of the work on it.
    working: HashMap<T, Instant>,
    delayed: BTreeMap<(Instant, u64), T>,
    delayed_at: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
}

/// A key in progress. Dropping the lease ends the work on the key.
pub struct Lease<T: Work> {
    queue: Queue<T>,
    key: T,
}

impl<T: Work> Lease<T> {
    /// The key in progress.
    pub fn key(&self) -> &T {
        &self.key
    }
}

impl<T: Work> Drop for Lease<T> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

/// The next action for a key after a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconcileResult {
    /// No action until the key is added again.
    Done,
    /// Queue the key again after this time at the latest.
    RequeueAfter(Duration),
}

impl From<Option<Duration>> for ReconcileResult {
    fn from(requeue_after: Option<Duration>) -> Self {
        requeue_after.map_or(Self::Done, Self::RequeueAfter)
    }
}

impl<T: Work> Queue<T> {
    /// An empty queue without metrics.
    pub fn new() -> Self {
        Self::counted(Arc::default(), None)
    }

    /// An empty queue without metrics. Its health is reported under the given name.
    pub fn of(component: &Component, name: &'static str) -> Self {
        Self::counted(Arc::default(), Some(component.follow(Kind::Work, name)))
    }

    /// An empty queue with the given counters.
    pub(crate) fn counted(counts: Arc<Mutex<Counts>>, streak: Option<FailureStreak>) -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashMap::new(),
            working: HashMap::new(),
            delayed: BTreeMap::new(),
            delayed_at: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                counts,
                streak,
                changed: Notify::new(),
            }),
        }
    }

    pub(crate) fn loaded(&self) -> Arc<dyn Loaded> {
        self.shared.clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        let counts = self.shared.counts.lock();
        counts.unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the key unless it already waits.
    pub fn add(&self, key: T) {
        if self.state().add(key, Instant::now()) {
            self.counts().adds += 1;
        }
        self.shared.changed.notify_one();
    }

    /// Queues the key after a delay. If the key already has a delay, the shorter delay applies.
    pub fn add_after(&self, key: T, delay: Duration) {
        self.counts().retries += 1;
        if delay.is_zero() {
            return self.add(key);
        }
        self.state().add_at(key, Instant::now() + delay);
        self.shared.changed.notify_one();
    }

    /// Queues a failed key, with a delay that grows with each failure (5 ms … 1000 s).
    pub fn add_rate_limited(&self, key: T) {
        let mut state = self.state();
        let failures = state.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        let delay = backoff::delay(limits::RETRY_DELAY_MIN, limits::RETRY_DELAY_MAX, *failures);
        state.add_at(key, Instant::now() + backoff::jittered(delay));
        drop(state);
        self.counts().retries += 1;
        self.shared.changed.notify_one();
    }

    /// Queues a failed key. A failure that only concerns the object (a refusal) is reported in events of the object,
    /// and does not affect the controller's health.
    fn fail(&self, key: T, why: &str, of_the_object: bool) {
        let failures = self.failures(&key) + 1;
        if failures == FAILURES_MAX && !of_the_object {
            tracing::warn!(key = ?key, error = why, failures, "work on a key fails again and again");
        } else {
            tracing::debug!(key = ?key, error = why, failures, "work on a key failed");
        }
        if let Some(streak) = self.shared.streak.as_ref().filter(|_| !of_the_object) {
            streak.failed(&why);
        }
        self.add_rate_limited(key);
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &T) {
        self.state().failures.remove(key);
    }

    /// The number of failures of the key since the last call of [`forget`](Self::forget).
    pub fn failures(&self, key: &T) -> u32 {
        self.state().failures.get(key).copied().unwrap_or_default()
    }

    /// The number of waiting keys, including delayed keys.
    pub fn len(&self) -> usize {
        let state = self.state();
        state.ready.len() + state.delayed.len()
    }

    /// Whether no key is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs a task of the queue's owner; slow polls of the task are recorded if enabled.
    pub(crate) async fn watched<R>(&self, task: impl Future<Output = R>) -> R {
        match &self.shared.streak {
            Some(streak) => streak.watched(task).await,
            None => task.await,
        }
    }

    /// Waits for the next key. Cancel-safe.
    pub async fn next(&self) -> Lease<T> {
        loop {
            let now = Instant::now();
            let (released, leased, more, wake) = {
                let mut state = self.state();
                let released = state.release_due(now);
                let leased = state.lease(now);
                let wake = state.delayed.keys().next().map(|(at, _)| *at);
                let more = !state.ready.is_empty() || wake.is_some();
                (released, leased, more, wake)
            };
            if released > 0 {
                self.counts().adds += released;
            }
            if let Some((key, waited)) = leased {
                self.counts().waited.observe(waited.as_secs_f64());
                // A change wakes only one waiter, which therefore wakes the next waiter.
                if more {
                    self.shared.changed.notify_one();
                }
                return Lease {
                    queue: self.clone(),
                    key,
                };
            }
            match wake {
                Some(at) => tokio::select! {
                    () = self.shared.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.shared.changed.notified().await,
            }
        }
    }

    fn done(&self, key: &T) {
        let mut state = self.state();
        let since = state.working.remove(key);
        let again = state.waiting.contains_key(key);
        if again {
            state.ready.push_back(key.clone());
        }
        drop(state);
        if again {
            self.shared.changed.notify_one();
        }
        if let Some(since) = since {
            let worked = since.elapsed().as_secs_f64();
            self.counts().worked.observe(worked);
        }
    }
}

impl<T: Work> State<T> {
    /// Returns `false` if the key already waits.
    fn add(&mut self, key: T, now: Instant) -> bool {
        if let Some(at) = self.delayed_at.remove(&key) {
            self.delayed.remove(&at);
        }
        if self.waiting.contains_key(&key) {
            return false;
        }
        self.waiting.insert(key.clone(), now);
        if !self.working.contains_key(&key) {
            self.ready.push_back(key);
        }
        true
    }

    fn add_at(&mut self, key: T, at: Instant) {
        if let Some(present) = self.delayed_at.get(&key) {
            if present.0 <= at {
                return;
            }
            self.delayed.remove(present);
        }
        self.sequence += 1;
        self.delayed.insert((at, self.sequence), key.clone());
        self.delayed_at.insert(key, (at, self.sequence));
    }

    /// Releases the keys whose delay is over. Returns their number.
    fn release_due(&mut self, now: Instant) -> u64 {
        let mut released = 0;
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.delayed_at.remove(&key);
            released += u64::from(self.add(key, now));
        }
        released
    }

    /// The next key, and the time for which it has waited.
    fn lease(&mut self, now: Instant) -> Option<(T, Duration)> {
        let key = self.ready.pop_front()?;
        let since = self.waiting.remove(&key).unwrap_or(now);
        self.working.insert(key.clone(), now);
        Some((key, now.saturating_duration_since(since)))
    }
}

impl<T: Work> Loaded for Shared<T> {
    fn load(&self, now: Instant) -> Load {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.working.values();
        let times = since.map(|since| now.saturating_duration_since(*since));
        Load {
            depth: state.waiting.len(),
            longest: times.clone().max().unwrap_or_default(),
            unfinished: times.sum(),
        }
    }
}

/// One attempt at a key. The type depends on no controller, so the code that runs attempts is compiled once for each
/// type of keys and not once for each controller.
type Attempt<T> = dyn Fn(T) -> BoxFuture<'static, Result<ReconcileResult, Failure>> + Send + Sync;

/// The failure of an attempt.
struct Failure {
    why: String,
    /// Whether the failure concerns only the object of the key.
    of_the_object: bool,
}

fn attempts<T, F, Fut, E>(work: F) -> Arc<Attempt<T>>
where
    T: Work,
    F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<ReconcileResult, E>> + Send,
    E: std::error::Error + 'static,
{
    Arc::new(move |key| {
        let work = work.clone();
        Box::pin(async move {
            work(key).await.map_err(|error| Failure {
                why: chain(&error),
                of_the_object: is_of_the_object(&error),
            })
        })
    })
}

/// Processes the keys of the queue with `workers` tasks until `shutdown` is cancelled, then waits for the keys in
/// progress. After a failure or a panic, the key is queued again with a delay.
pub async fn run_workers<T, F, Fut, E>(
    queue: Queue<T>,
    workers: usize,
    shutdown: CancellationToken,
    work: F,
) where
    T: Work,
    F: Fn(T) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<ReconcileResult, E>> + Send,
    E: std::error::Error + 'static,
{
    run_attempts(queue, workers, shutdown, attempts(work)).await;
}

async fn run_attempts<T: Work>(
    queue: Queue<T>,
    workers: usize,
    shutdown: CancellationToken,
    attempt: Arc<Attempt<T>>,
) {
    let mut tasks = JoinSet::new();
    for _ in 0..workers.max(1) {
        let (queue, shutdown, attempt) = (queue.clone(), shutdown.clone(), attempt.clone());
        tasks.spawn(async move {
            let worker = async {
                loop {
                    let lease = tokio::select! {
                        biased;
                        () = shutdown.cancelled() => break,
                        lease = queue.next() => lease,
                    };
                    work_on(&queue, lease, &*attempt).await;
                    spend(limits::KEY_UNITS).await;
                }
            };
            queue.watched(worker).await;
        });
    }
    while tasks.join_next().await.is_some() {}
}

async fn work_on<T: Work>(queue: &Queue<T>, lease: Lease<T>, attempt: &Attempt<T>) {
    let key = lease.key().clone();
    match AssertUnwindSafe(attempt(key.clone())).catch_unwind().await {
        Ok(Ok(outcome)) => {
            queue.forget(&key);
            if let Some(streak) = &queue.shared.streak {
                streak.succeeded();
            }
            if let ReconcileResult::RequeueAfter(delay) = outcome {
                queue.add_after(key, delay);
            }
        }
        Ok(Err(failure)) => queue.fail(key, &failure.why, failure.of_the_object),
        Err(_) => {
            tracing::error!(key = ?key, "work on a key panicked");
            cov_mark::hit!(findings_a12);
            queue.fail(key, "it panicked", false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_added_twice_is_worked_on_once() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(*queue.next().await.key(), "a");
        assert_eq!(*queue.next().await.key(), "b");
        assert!(queue.is_empty());
    }

    /// statefulset.md 3.1
    #[tokio::test(start_paused = true)]
    async fn a_key_has_one_worker_at_a_time() {
        let queue = Queue::new();
        queue.add("a");
        let lease = queue.next().await;
        queue.add("a");
        let second = tokio::time::timeout(Duration::from_secs(1), queue.next()).await;
        assert!(second.is_err());
        drop(lease);
        assert_eq!(*queue.next().await.key(), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_shortest_counts() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(3));
        queue.add_after("a", Duration::from_secs(5));
        drop(queue.next().await);
        assert_eq!(start.elapsed().as_secs(), 3);
        assert!(queue.is_empty());
    }

    /// statefulset.md 3.1
    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_up_to_a_limit() {
        let queue = Queue::new();
        let mut delays = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            drop(queue.next().await);
            delays.push(start.elapsed().as_millis());
        }
        // A part of each delay is random; the timer is no finer than a millisecond.
        let is_about = |delay: u128, whole: u128| (whole / 2..=whole + 1).contains(&delay);
        for (number, whole) in [5, 10, 20, 40].into_iter().enumerate() {
            assert!(is_about(delays[number], whole), "{delays:?}");
        }
        assert!(is_about(delays[19], 1_000_000), "{delays:?}");
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }

    /// findings A12: a panic gives back the key: the next attempt gets it, with one worker as with many.
    #[tokio::test(start_paused = true)]
    async fn a_key_is_free_again_after_a_panic() {
        cov_mark::check!(findings_a12);
        let queue = Queue::new();
        let shutdown = CancellationToken::new();
        queue.add("a");
        let (worker_queue, stop) = (queue.clone(), shutdown.clone());
        run_workers(queue.clone(), 1, shutdown, move |key: &str| {
            let (queue, stop) = (worker_queue.clone(), stop.clone());
            async move {
                match queue.failures(&key) {
                    // Once before anything is awaited, once after.
                    0 => panic!("at once"),
                    1 => {
                        // A key that is added while in progress waits for the end of this attempt.
                        queue.add(key);
                        tokio::task::yield_now().await;
                        panic!("later");
                    }
                    _ => stop.cancel(),
                }
                Ok::<_, std::io::Error>(ReconcileResult::Done)
            }
        })
        .await;
        assert_eq!(queue.failures(&"a"), 0);
        assert_eq!(queue.loaded().load(Instant::now()), Load::default());
    }

    #[derive(Debug, thiserror::Error)]
    #[error("write")]
    struct WriteError(#[source] kube_api_client::Error);

    fn answered(code: u16) -> WriteError {
        let status = json_tree::json!({"status": "Failure", "code": code, "message": "no"});
        WriteError(kube_api_client::Error::Api(
            json_tree::from_value(status).unwrap(),
        ))
    }

    /// findings A3: a controller is unhealthy after three failures of its own without a success;
    /// the server's refusals do not count.
    #[tokio::test(start_paused = true)]
    async fn failures_of_a_controller_are_told_from_refusals() {
        for (code, fails) in [
            (403, false),
            (409, false),
            (422, false),
            (500, true),
            (401, true),
        ] {
            let health = process_telemetry::Health::default();
            let component = health.component("controllers", CancellationToken::new());
            let queue = Queue::of(&component, "job");
            queue.add("a");
            let (worker_queue, stop) = (queue.clone(), component.shutdown.clone());
            run_workers(queue.clone(), 2, component.shutdown, move |key: &str| {
                let (queue, stop) = (worker_queue.clone(), stop.clone());
                async move {
                    if queue.failures(&key) == 3 {
                        stop.cancel();
                    }
                    Err::<ReconcileResult, _>(answered(code))
                }
            })
            .await;
            let failing = health.failing(Kind::Work);
            assert_eq!(!failing.is_empty(), fails, "{code}: {failing:?}");
            queue.add("b");
            let lease = queue.next().await;
            let done = |_| async { Ok::<_, WriteError>(ReconcileResult::Done) };
            work_on(&queue, lease, &*attempts(done)).await;
            assert!(health.failing(Kind::Work).is_empty(), "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_in_the_work_does_not_stop_the_workers() {
        let queue = Queue::new();
        let count = Arc::new(AtomicU32::new(0));
        let shutdown = CancellationToken::new();
        queue.add("a");
        let (handled, stop) = (count.clone(), shutdown.clone());
        run_workers(queue, 2, shutdown, move |_| {
            let (handled, stop) = (handled.clone(), stop.clone());
            async move {
                if handled.fetch_add(1, Ordering::SeqCst) == 0 {
                    panic!("the first attempt");
                }
                stop.cancel();
                Ok::<_, std::io::Error>(ReconcileResult::Done)
            }
        })
        .await;
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
