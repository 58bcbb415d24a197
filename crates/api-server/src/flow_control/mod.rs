//! API Priority and Fairness: a FlowSchema selects the flow and the priority level of a request; the level
//! limits the requests that run and that wait.
//!
//! Three decisions are pure: the matching schema (`schemas.rs`), the seats of each level (`levels.rs`) and
//! the next request that gets a seat (`seats.rs`). The configuration in force (`flows.rs`) follows the store
//! (`upkeep.rs`). Requests of this process are not limited; `system:masters` is exempt.

mod figures;
mod flows;
mod levels;
mod schemas;
mod seats;
pub(crate) mod upkeep;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use object_model::Status;
use serde_json::Value;
use tokio::sync::oneshot;

pub(crate) use flows::Flow;
use flows::Flows;
pub(crate) use levels::Level;
use seats::{Entered, Seats};

use crate::http::flow_control::too_many;
use crate::http::request_info::RequestInfo;
use crate::http::user::UserInfo;

type Waiters = Mutex<Seats<oneshot::Sender<()>>>;

/// The configuration in force, and the seats.
pub(crate) struct FlowControl {
    /// The seats of all levels together.
    total: usize,
    current: RwLock<Arc<Flows>>,
    /// Held while the objects are read, so that older objects never replace newer ones.
    turn: Mutex<()>,
    seats: Arc<Waiters>,
    /// A random key: clients cannot choose names that share the queues of another flow.
    hasher: RandomState,
}

impl FlowControl {
    pub(crate) fn new(total: usize) -> Self {
        let (flows, bounds) = Flows::new(&[], &[], total, None);
        let mut seats = Seats::default();
        seats.configure(&bounds);
        Self {
            total,
            current: RwLock::new(Arc::new(flows)),
            turn: Mutex::default(),
            seats: Arc::new(Mutex::new(seats)),
            hasher: RandomState::new(),
        }
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
        let (flows, bounds) = Flows::new(&schemas, &levels, self.total, Some(&before));
        // The seats come first: a new flow needs its level.
        tell(lock(&self.seats).configure(&bounds));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(flows);
        Ok(())
    }

    /// The flow that a request belongs to.
    pub(crate) fn of(&self, user: &UserInfo, info: &RequestInfo) -> Option<Arc<Flow>> {
        self.current().of(user, info).cloned()
    }

    /// Waits for a seat.
    ///
    /// *Errors.* 429 after waiting for `patience`, or at once if the request may not wait.
    pub(crate) async fn seat(
        &self,
        flow: Arc<Flow>,
        (user, info): (&UserInfo, &RequestInfo),
        patience: Duration,
    ) -> Result<Seat, Status> {
        if flow.is_exempt() {
            return Ok(self.seated(flow, Held::Nothing));
        }
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
        let entered = lock(&self.seats).enter(&flow.level, hash, waiter);
        let refused = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
            Err(too_many())
        };
        match entered {
            Entered::Seated => Ok(self.seated(flow, Held::Seat)),
            // The level was deleted in this moment.
            Entered::NoLevel => Ok(self.seated(flow, Held::Nothing)),
            Entered::NoSeat => refused(&flow.counts.no_seat),
            Entered::QueuesFull => refused(&flow.counts.queue_full),
            Entered::Waiting(ticket) => {
                flow.counts.waiting.fetch_add(1, Ordering::Relaxed);
                let mut seat = Seat {
                    seats: self.seats.clone(),
                    flow,
                    held: Held::Ticket(ticket),
                };
                let told = async {
                    match turn {
                        Some(turn) => turn.await.is_ok(),
                        None => false,
                    }
                };
                match tokio::time::timeout(patience, told).await {
                    Ok(true) => {
                        seat.begins();
                        Ok(seat)
                    }
                    _ => {
                        seat.gives_up();
                        Err(too_many())
                    }
                }
            }
        }
    }

    fn seated(&self, flow: Arc<Flow>, held: Held) -> Seat {
        flow.counts.dispatched.fetch_add(1, Ordering::Relaxed);
        flow.counts.executing.fetch_add(1, Ordering::Relaxed);
        Seat {
            seats: self.seats.clone(),
            flow,
            held,
        }
    }

    fn current(&self) -> Arc<Flows> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A request's seat or its place in a queue, released on drop.
pub(crate) struct Seat {
    seats: Arc<Waiters>,
    flow: Arc<Flow>,
    held: Held,
}

enum Held {
    /// The request needs no seat.
    Nothing,
    Seat,
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
        self.held = Held::Seat;
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
            Held::Seat => {
                one_less(&counts.executing);
                lock(&self.seats).leave(level)
            }
            Held::Ticket(ticket) => {
                one_less(&counts.waiting);
                let mut seats = lock(&self.seats);
                if seats.withdraw(level, ticket) {
                    return;
                }
                // The request got a seat in this moment.
                seats.leave(level)
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

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::http::query::Query;

    /// One level with one seat, for all users.
    fn control(response: Value) -> FlowControl {
        let level = json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0,
            "limitResponse": response}}});
        let schema = json!({"metadata": {"name": "s"}, "spec": {
            "priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 2, "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "*"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
        let control = FlowControl::new(1);
        control.replace(|| Ok((vec![schema], vec![level]))).unwrap();
        control
    }

    async fn seat(control: &FlowControl) -> Result<Seat, Status> {
        let user = UserInfo::new("u", ["g"]);
        let info = RequestInfo::new(&Method::GET, "/x", &Query::parse(""));
        let flow = control.of(&user, &info).unwrap();
        assert_eq!(flow.schema.name, "s");
        control
            .seat(flow, (&user, &info), Duration::from_secs(15))
            .await
    }

    fn queue() -> Value {
        json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}})
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
        let figures = control.figures();
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
                figures.lines().any(|found| found == line),
                "{line}\n{figures}"
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
        let figures = control.figures();
        for reason in ["queue-full", "cancelled", "time-out"] {
            let found = figures.lines().any(|line| {
                line.contains(&format!("priority_level=\"l\",reason=\"{reason}\""))
                    && !line.ends_with(" 0")
            });
            assert!(found, "{reason}\n{figures}");
        }
        assert!(
            figures.contains("current_inqueue_requests{flow_schema=\"s\",priority_level=\"l\"} 0")
        );
    }
}
