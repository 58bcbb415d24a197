//! Flow control of requests from the network: API Priority and Fairness, and the shares of each user.
//!
//! A FlowSchema selects the flow and the priority level of a request; the level limits the requests that run and
//! that wait. Five decisions are pure: the matching schema (`schemas.rs`), the seats of each level
//! (`levels.rs`), the seats of a request (`width.rs`), the next request that gets its seats (`seats.rs`), and
//! the advice to refused ones (`retry.rs`). The configuration in force (`flows.rs`) follows the store
//! (`config_sync.rs`). Watches and bodies, which levels do not limit, are limited by user (`shares.rs`).
//!
//! Requests of this process are not limited; `system:masters` is exempt.

pub(crate) mod config_sync;
mod flows;
mod levels;
mod metrics;
mod retry;
mod schemas;
mod seats;
mod shares;
mod width;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use json_tree::Value;
use object_model::{Status, StatusDetails, StatusReason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

pub(crate) use flows::ActiveSchema;
use flows::ActiveSchemas;
pub(crate) use levels::PriorityLevel;
use retry::Refusals;
use seats::{SeatDecision, Seats};
use shares::SenderShares;
pub(crate) use shares::WatchPlace;
use width::Counts;

use crate::http::limits::Limits;
use crate::http::query::Query;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::http::work::BodyAllowance;

type Waiters = Mutex<Seats<oneshot::Sender<()>>>;

/// The configuration in force, and the seats that requests have.
pub(crate) struct FlowControl {
    limits: Arc<Limits>,
    current: RwLock<Arc<ActiveSchemas>>,
    /// Held while the objects are read, so that older objects never replace newer ones.
    turn: Mutex<()>,
    seats: Arc<Waiters>,
    /// The stored objects of each resource, counted from time to time.
    counts: RwLock<Counts>,
    refusals: Mutex<BTreeMap<Arc<str>, Refusals>>,
    begun: Instant,
    /// A random key: clients cannot choose names that share the queues of another flow.
    hasher: RandomState,
    /// Places of requests whose sender is not known yet, and of all watches and streams.
    arriving: Arc<Semaphore>,
    long_running: Arc<Semaphore>,
    shares: SenderShares,
}

impl FlowControl {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        let (flows, bounds) = ActiveSchemas::new(&[], &[], limits.requests_in_flight_max, None);
        let mut seats = Seats::default();
        seats.configure(&bounds);
        Self {
            current: RwLock::new(Arc::new(flows)),
            turn: Mutex::default(),
            seats: Arc::new(Mutex::new(seats)),
            counts: RwLock::default(),
            refusals: Mutex::default(),
            begun: Instant::now(),
            hasher: RandomState::new(),
            arriving: Arc::new(Semaphore::new(limits.requests_in_flight_max)),
            long_running: Arc::new(Semaphore::new(limits.long_running_max)),
            shares: SenderShares::new(&limits),
            limits,
        }
    }

    /// Takes a place for an arriving request. A watch or stream (`long`) keeps the place; another request
    /// releases it when its priority level is known.
    ///
    /// *Errors.* 429 when there is none.
    pub(crate) fn admit(&self, long: bool) -> Result<OwnedSemaphorePermit, Status> {
        let places = if long {
            &self.long_running
        } else {
            &self.arriving
        };
        let place = places.clone().try_acquire_owned();
        place.map_err(|_| too_many(1))
    }

    /// Takes a place among the watches and streams of a user. A user has no more places than are left for all others.
    ///
    /// *Errors.* 429 when the user has too many.
    pub(crate) fn admit_long_running(&self, user: &UserInfo) -> Result<WatchPlace, Status> {
        self.shares.watch_of(user)
    }

    /// Whether the bounds on senders are none of a user's.
    pub(crate) fn is_exempt(user: &UserInfo) -> bool {
        shares::is_exempt(user)
    }

    /// The share that pays for the request bodies of a user; `None` for users without bounds.
    pub(crate) fn bodies_of(&self, user: &UserInfo) -> Option<Box<dyn BodyAllowance>> {
        self.shares.bodies_of(user)
    }

    /// Records the number of stored objects of each resource.
    pub(crate) fn count(&self, counts: Counts) {
        *self.counts.write().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// Replaces the configuration in force by the schemas and levels that `read` returns.
    ///
    /// *Errors.* The errors of `read`; the old configuration stays.
    pub(crate) fn replace(
        &self,
        read: impl FnOnce() -> Result<(Vec<Value>, Vec<Value>), Status>,
    ) -> Result<(), Status> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (schemas, levels) = read()?;
        let before = self.current();
        let (flows, bounds) = ActiveSchemas::new(
            &schemas,
            &levels,
            self.limits.requests_in_flight_max,
            Some(&before),
        );
        // The seats come first: a new flow needs its level.
        tell(lock(&self.seats).configure(&bounds));
        let mut refusals = self.refusals();
        refusals.retain(|level, _| bounds.contains_key(level));
        drop(refusals);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(flows);
        Ok(())
    }

    /// The flow that a request belongs to.
    pub(crate) fn of(&self, user: &UserInfo, info: &RequestInfo) -> Option<Arc<ActiveSchema>> {
        self.current().of(user, info).cloned()
    }

    /// Waits for the seats of a request.
    ///
    /// *Errors.* 429 after a quarter of the request timeout, as upstream, or at once if the request may not
    /// wait.
    pub(crate) async fn seat(
        &self,
        flow: Arc<ActiveSchema>,
        user: &UserInfo,
        (info, query): (&RequestInfo, &Query),
    ) -> Result<Seat, Status> {
        if flow.is_exempt() {
            return Ok(self.seated(flow, Held::Nothing, 0));
        }
        let width = {
            let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
            width::of(info, query, &counts, flow.width_max)
        };
        flow.counts.is_wide(width);
        let hash = || {
            let distinguisher = flow.schema.distinguisher(user, info);
            self.hasher.hash_one((&flow.schema.name, distinguisher))
        };
        let mut turn = None;
        let waiter = || {
            let (sender, receiver) = oneshot::channel();
            turn = Some(receiver);
            sender
        };
        let entered = lock(&self.seats).enter(&flow.level, width, hash, waiter);
        let refused = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
            Err(self.refuse(&flow.level))
        };
        match entered {
            SeatDecision::Seated => Ok(self.seated(flow, Held::Seats, width)),
            // The level was deleted in this moment.
            SeatDecision::NoLevel => Ok(self.seated(flow, Held::Nothing, width)),
            SeatDecision::NoSeat => refused(&flow.counts.no_seat),
            SeatDecision::QueuesFull => refused(&flow.counts.queue_full),
            SeatDecision::Waiting(ticket) => {
                flow.counts.waiting.fetch_add(1, Ordering::Relaxed);
                let mut seat = Seat {
                    seats: self.seats.clone(),
                    flow,
                    width,
                    held: Held::Ticket(ticket),
                };
                let told = async {
                    match turn {
                        Some(turn) => turn.await.is_ok(),
                        None => false,
                    }
                };
                let patience = self.limits.request_timeout / 4;
                match tokio::time::timeout(patience, told).await {
                    Ok(true) => {
                        seat.begins();
                        Ok(seat)
                    }
                    _ => {
                        seat.gives_up();
                        Err(self.refuse(&seat.flow.level))
                    }
                }
            }
        }
    }

    /// 429 for a request of a level.
    fn refuse(&self, level: &Arc<str>) -> Status {
        let mut refusals = self.refusals();
        let of_level = refusals.entry(level.clone()).or_default();
        too_many(of_level.count(self.begun.elapsed().as_secs()))
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Refusals>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seated(&self, flow: Arc<ActiveSchema>, held: Held, width: usize) -> Seat {
        flow.counts.dispatched.fetch_add(1, Ordering::Relaxed);
        flow.counts.executing.fetch_add(1, Ordering::Relaxed);
        Seat {
            seats: self.seats.clone(),
            flow,
            width,
            held,
        }
    }

    fn current(&self) -> Arc<ActiveSchemas> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A request's seats or its place in a queue, released on drop.
pub(crate) struct Seat {
    seats: Arc<Waiters>,
    flow: Arc<ActiveSchema>,
    width: usize,
    held: Held,
}

enum Held {
    /// The request needs no seat.
    Nothing,
    Seats,
    /// The request waits.
    Ticket(u64),
    /// Everything is released.
    Over,
}

impl Seat {
    /// The waiting request has got a seat.
    fn begins(&mut self) {
        let counts = &self.flow.counts;
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        counts.dispatched.fetch_add(1, Ordering::Relaxed);
        counts.executing.fetch_add(1, Ordering::Relaxed);
        self.held = Held::Seats;
    }

    /// The request has waited too long.
    fn gives_up(&mut self) {
        let count = &self.flow.counts.timed_out;
        count.fetch_add(1, Ordering::Relaxed);
        self.give_back();
    }

    fn give_back(&mut self) {
        let counts = &self.flow.counts;
        let one_less = |count: &AtomicUsize| count.fetch_sub(1, Ordering::Relaxed);
        let level = &*self.flow.level;
        let started = match std::mem::replace(&mut self.held, Held::Over) {
            Held::Over => return,
            Held::Nothing => {
                one_less(&counts.executing);
                return;
            }
            Held::Seats => {
                one_less(&counts.executing);
                lock(&self.seats).leave(level, self.width)
            }
            Held::Ticket(ticket) => {
                one_less(&counts.waiting);
                let mut seats = lock(&self.seats);
                let started = seats.withdraw(level, ticket);
                // The request may have got its seats in this moment.
                started.unwrap_or_else(|| seats.leave(level, self.width))
            }
        };
        tell(started);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if matches!(self.held, Held::Ticket(_)) {
            let count = &self.flow.counts.cancelled;
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.give_back();
    }
}

/// Notifies requests that got a seat. A request that was dropped meanwhile releases its seat on drop.
fn tell(started: Vec<oneshot::Sender<()>>) {
    for waiter in started {
        let _gone = waiter.send(());
    }
}

fn lock(seats: &Waiters) -> MutexGuard<'_, Seats<oneshot::Sender<()>>> {
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 429, with the advice to come back after this many seconds.
fn too_many(seconds: u64) -> Status {
    let text = "Too many requests, please try again later.";
    let mut status = Status::new(StatusReason::TooManyRequests, text);
    status.details = Some(Box::new(StatusDetails {
        retry_after_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        ..StatusDetails::default()
    }));
    status
}

#[cfg(test)]
mod tests {
    use http::Method;
    use json_tree::json;

    use super::*;

    /// One level with one seat, for all users.
    fn control(response: Value) -> FlowControl {
        let level = json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0,
            "limitResponse": response}}});
        let schema = json!({"metadata": {"name": "s"}, "spec": {
            "priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 2, "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
        let control = FlowControl::new(Arc::new(Limits {
            requests_in_flight_max: 1,
            ..Limits::default()
        }));
        control.replace(|| Ok((vec![schema], vec![level]))).unwrap();
        control
    }

    async fn seat(control: &FlowControl) -> Result<Seat, Status> {
        let user = UserInfo::new("u", ["g"]);
        let query = Query::parse("");
        let info = RequestInfo::new(&Method::GET, "/x", &query);
        let flow = control.of(&user, &info).unwrap();
        assert_eq!(flow.schema.name, "s");
        control.seat(flow, &user, (&info, &query)).await
    }

    fn queue() -> Value {
        json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}})
    }

    fn metrics_of(control: &FlowControl) -> String {
        let mut page = process_telemetry::prometheus::Page::default();
        control.write_metrics(&mut page);
        page.text()
    }

    /// findings C16
    #[tokio::test]
    async fn a_level_that_rejects_says_429() {
        let control = control(json!({"type": "Reject"}));
        let first = seat(&control).await.unwrap();
        let refused = seat(&control).await.err().unwrap();
        assert_eq!(refused.code, 429);
        assert_eq!(refused.details.unwrap().retry_after_seconds, 1);
        drop(first);
        assert!(seat(&control).await.is_ok());
        let metrics = metrics_of(&control);
        let of = "flow_schema=\"s\",priority_level=\"l\"";
        for line in [
            format!(
                "apiserver_flowcontrol_rejected_requests_total{{{of},reason=\"concurrency-limit\"}} 1"
            ),
            format!("apiserver_flowcontrol_dispatched_requests_total{{{of}}} 2"),
            format!("apiserver_flowcontrol_current_executing_requests{{{of}}} 0"),
            "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"l\"} 1".to_owned(),
        ] {
            assert!(
                metrics.lines().any(|found| found == line),
                "{line}\n{metrics}"
            );
        }
    }

    /// findings C16: a waiting request gets the next seat, leaves the queue on drop, and times out.
    #[tokio::test(start_paused = true)]
    async fn a_level_that_queues_lets_requests_wait() {
        let control = control(queue());
        let first = seat(&control).await.unwrap();
        let mut second = Box::pin(seat(&control));
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(
            seat(&control).await.err().unwrap().code,
            429,
            "the queue is full"
        );
        drop(second);
        let mut third = Box::pin(seat(&control));
        assert!(futures::poll!(&mut third).is_pending());
        drop(first);
        let third = third.await.unwrap();
        let too_long = seat(&control).await;
        assert_eq!(too_long.err().unwrap().code, 429);
        // A request that is dropped after it got a seat releases the seat.
        let mut fourth = Box::pin(seat(&control));
        assert!(futures::poll!(&mut fourth).is_pending());
        drop(third);
        drop(fourth);
        assert!(seat(&control).await.is_ok());
        let metrics = metrics_of(&control);
        for reason in ["queue-full", "cancelled", "time-out"] {
            let found = metrics.lines().any(|line| {
                line.contains(&format!("priority_level=\"l\",reason=\"{reason}\""))
                    && !line.ends_with(" 0")
            });
            assert!(found, "{reason}\n{metrics}");
        }
        assert!(
            metrics.contains("current_inqueue_requests{flow_schema=\"s\",priority_level=\"l\"} 0")
        );
    }
}
