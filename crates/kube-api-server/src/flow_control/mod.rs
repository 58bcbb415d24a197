//! Flow control of requests from the network: API Priority and Fairness, and limits for each user.
//!
//! A FlowSchema selects the flow and the priority level of a request; the level limits the requests that run and that
//! wait. Five decisions are pure: the matching schema (`schemas.rs`), the seats of each level (`levels.rs`), the
//! seats of a request (`width.rs`), the next request that gets seats (`seats.rs`), and the `Retry-After` of refused
//! requests (`retry.rs`). The configuration in force (`flows.rs`) follows the store (`config_sync.rs`). Priority
//! levels do not limit watches and bodies; these are limited by user (`shares.rs`).
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
pub(crate) use shares::WatchPermit;
use width::Counts;

use crate::http::limits::Limits;
use crate::http::query::Query;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;
use crate::http::work::BodyAllowance;

type Waiters = Mutex<Seats<oneshot::Sender<()>>>;

/// The configuration in force, and the seats of the running requests.
pub(crate) struct FlowControl {
    limits: Arc<Limits>,
    current: RwLock<Arc<ActiveSchemas>>,
    /// Lock for reads of the stored objects, so that an older read never replaces a newer result.
    reads_lock: Mutex<()>,
    seats: Arc<Waiters>,
    /// The number of stored objects of each resource, counted at intervals.
    counts: RwLock<Counts>,
    refusals: Mutex<BTreeMap<Arc<str>, Refusals>>,
    begun: Instant,
    /// A hasher with a random key, so that a client cannot choose names whose flow shares the queues of another flow.
    hasher: RandomState,
    /// Permits of requests before authentication, and of all watches and streams.
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
            reads_lock: Mutex::default(),
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

    /// Acquires a permit for an arriving request. A watch or stream (`long`) holds the permit to its end; another
    /// request releases the permit when its priority level is known.
    ///
    /// *Errors.* 429 if no permit is free.
    pub(crate) fn admit(&self, long: bool) -> Result<OwnedSemaphorePermit, Status> {
        let permits = if long {
            &self.long_running
        } else {
            &self.arriving
        };
        let permit = permits.clone().try_acquire_owned();
        permit.map_err(|_| too_many(1))
    }

    /// Acquires a permit of the user for a watch or stream. One user holds no more permits than are free for all
    /// other users.
    ///
    /// *Errors.* 429 if the user has too many watches and streams.
    pub(crate) fn admit_long_running(&self, user: &UserInfo) -> Result<WatchPermit, Status> {
        self.shares.watch_of(user)
    }

    /// Whether the limits on users do not apply to this user.
    pub(crate) fn is_exempt(user: &UserInfo) -> bool {
        shares::is_exempt(user)
    }

    /// The quota that the user's request bodies count against; `None` for users without limits.
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
        let _lock = self
            .reads_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (schemas, levels) = read()?;
        let before = self.current();
        let (flows, bounds) = ActiveSchemas::new(
            &schemas,
            &levels,
            self.limits.requests_in_flight_max,
            Some(&before),
        );
        // The seats are configured first, because a new flow needs its level.
        notify(lock(&self.seats).configure(&bounds));
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
        info: &RequestInfo,
        query: &Query,
    ) -> Result<Seat, Status> {
        if flow.is_exempt() {
            return Ok(self.seated(flow, SeatState::Nothing, 0));
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
        let mut granted = None;
        let waiter = || {
            let (sender, receiver) = oneshot::channel();
            granted = Some(receiver);
            sender
        };
        let entered = lock(&self.seats).enter(&flow.level, width, hash, waiter);
        let refused = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
            Err(self.refuse(&flow.level))
        };
        match entered {
            SeatDecision::Seated => Ok(self.seated(flow, SeatState::Seats, width)),
            // The level was deleted a moment ago.
            SeatDecision::NoLevel => Ok(self.seated(flow, SeatState::Nothing, width)),
            SeatDecision::NoSeat => refused(&flow.counts.no_seat),
            SeatDecision::QueuesFull => refused(&flow.counts.queue_full),
            SeatDecision::Waiting(ticket) => {
                flow.counts.waiting.fetch_add(1, Ordering::Relaxed);
                let mut seat = Seat {
                    seats: self.seats.clone(),
                    flow,
                    width,
                    state: SeatState::Ticket(ticket),
                };
                let is_granted = async {
                    match granted {
                        Some(granted) => granted.await.is_ok(),
                        None => false,
                    }
                };
                let patience = self.limits.request_timeout / 4;
                match tokio::time::timeout(patience, is_granted).await {
                    Ok(true) => {
                        seat.begins();
                        Ok(seat)
                    }
                    _ => {
                        seat.time_out();
                        Err(self.refuse(&seat.flow.level))
                    }
                }
            }
        }
    }

    /// 429 for a request at this level.
    fn refuse(&self, level: &Arc<str>) -> Status {
        let mut refusals = self.refusals();
        let of_level = refusals.entry(level.clone()).or_default();
        too_many(of_level.count(self.begun.elapsed().as_secs()))
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Refusals>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seated(&self, flow: Arc<ActiveSchema>, state: SeatState, width: usize) -> Seat {
        flow.counts.dispatched.fetch_add(1, Ordering::Relaxed);
        flow.counts.executing.fetch_add(1, Ordering::Relaxed);
        Seat {
            seats: self.seats.clone(),
            flow,
            width,
            state,
        }
    }

    fn current(&self) -> Arc<ActiveSchemas> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The seats of a request, or its ticket in a queue; released on drop.
pub(crate) struct Seat {
    seats: Arc<Waiters>,
    flow: Arc<ActiveSchema>,
    width: usize,
    state: SeatState,
}

enum SeatState {
    /// The request needs no seat.
    Nothing,
    Seats,
    /// The ticket of a waiting request.
    Ticket(u64),
    /// The seats and the ticket are released.
    Over,
}

impl Seat {
    /// Records that the waiting request got its seats.
    fn begins(&mut self) {
        let counts = &self.flow.counts;
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        counts.dispatched.fetch_add(1, Ordering::Relaxed);
        counts.executing.fetch_add(1, Ordering::Relaxed);
        self.state = SeatState::Seats;
    }

    /// Removes the request from its queue after its maximum wait.
    fn time_out(&mut self) {
        let count = &self.flow.counts.timed_out;
        count.fetch_add(1, Ordering::Relaxed);
        self.give_back();
    }

    fn give_back(&mut self) {
        let counts = &self.flow.counts;
        let one_less = |count: &AtomicUsize| count.fetch_sub(1, Ordering::Relaxed);
        let level = &*self.flow.level;
        let started = match std::mem::replace(&mut self.state, SeatState::Over) {
            SeatState::Over => return,
            SeatState::Nothing => {
                one_less(&counts.executing);
                return;
            }
            SeatState::Seats => {
                one_less(&counts.executing);
                lock(&self.seats).leave(level, self.width)
            }
            SeatState::Ticket(ticket) => {
                one_less(&counts.waiting);
                let mut seats = lock(&self.seats);
                let started = seats.withdraw(level, ticket);
                // The request may have got its seats a moment ago; then the seats are released.
                started.unwrap_or_else(|| seats.leave(level, self.width))
            }
        };
        notify(started);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if matches!(self.state, SeatState::Ticket(_)) {
            let count = &self.flow.counts.cancelled;
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.give_back();
    }
}

/// Notifies the requests that got their seats. A request that was dropped meanwhile releases its seats on drop.
fn notify(started: Vec<oneshot::Sender<()>>) {
    for waiter in started {
        let _is_closed = waiter.send(());
    }
}

fn lock(seats: &Waiters) -> MutexGuard<'_, Seats<oneshot::Sender<()>>> {
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 429 with `Retry-After` in seconds.
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
        control.seat(flow, &user, &info, &query).await
    }

    fn queue() -> Value {
        json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}})
    }

    fn metrics_of(control: &FlowControl) -> String {
        let mut page = process_telemetry::prometheus::Page::default();
        control.write_metrics(&mut page);
        page.text()
    }

    /// findings C55
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
                metrics.lines().any(|candidate| candidate == line),
                "{line}\n{metrics}"
            );
        }
    }

    /// findings C55: a waiting request gets the next seat, leaves the queue on drop, and times out.
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
            let is_listed = metrics.lines().any(|line| {
                line.contains(&format!("priority_level=\"l\",reason=\"{reason}\""))
                    && !line.ends_with(" 0")
            });
            assert!(is_listed, "{reason}\n{metrics}");
        }
        assert!(
            metrics.contains("current_inqueue_requests{flow_schema=\"s\",priority_level=\"l\"} 0")
        );
    }
}
