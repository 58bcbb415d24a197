//! Requests on their way to the commit thread.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, oneshot};

use super::limits::{QUEUED_REQUESTS_MAX, REQUESTS_PER_GROUP_MAX};
use crate::{LeaseId, StoreError, Txn, TxnResult};

/// The receiver of a response. If it was dropped, the response is dropped too.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the commit thread.
pub(crate) enum Request {
    Txn(Txn, Reply<TxnResult>),
    Grant(Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
}

/// The result of taking from the queue.
pub(crate) enum QueuedWork {
    /// Requests, oldest first; never empty.
    Group(Vec<Request>),
    /// Nothing until the deadline.
    Idle,
    /// The queue is closed and empty.
    Closed,
}

/// A bounded queue with many asynchronous senders and one blocking receiver.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// One permit per free place.
    room: Semaphore,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// Whether the receiver sleeps and was not woken yet: waking it is a system call.
    sleeps: bool,
    closed: bool,
}

impl Queue {
    /// An empty queue with room for `QUEUED_REQUESTS_MAX` requests.
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            room: Semaphore::new(QUEUED_REQUESTS_MAX),
        }
    }

    /// Waits for room and appends a request.
    pub(crate) async fn submit(&self, request: Request) -> Result<(), StoreError> {
        let place = self.room.acquire().await.map_err(|_| StoreError::Closed)?;
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        place.forget();
        waiting.requests.push_back(request);
        let sleeps = std::mem::take(&mut waiting.sleeps);
        drop(waiting);
        if sleeps {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Blocks until there is something to do, the deadline has passed, or the queue is closed.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> QueuedWork {
        let mut waiting = self.lock();
        while waiting.requests.is_empty() && !waiting.closed {
            waiting.sleeps = true;
            waiting = match deadline {
                None => self
                    .arrived
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return QueuedWork::Idle;
                    }
                    let waited = self.arrived.wait_timeout(waiting, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        waiting.sleeps = false;
        if waiting.requests.is_empty() {
            return QueuedWork::Closed;
        }
        let count = waiting.requests.len().min(REQUESTS_PER_GROUP_MAX);
        let group: Vec<Request> = waiting.requests.drain(..count).collect();
        drop(waiting);
        self.room.add_permits(count);
        QueuedWork::Group(group)
    }

    /// Refuses new requests; those already in the queue are still served.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
