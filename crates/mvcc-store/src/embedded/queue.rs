//! The queue of requests to the commit thread.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, oneshot};

use super::limits::{
    GATHERING_PAUSE_MAX, GATHERING_TIME_MAX, MANY_WRITERS, QUEUED_REQUESTS_MAX,
    REQUESTS_PER_GROUP_MAX,
};
use crate::{LeaseId, StoreError, Txn, TxnResult};

/// The sender of a response. If the receiver was dropped, the response is dropped, too.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A request to the commit thread.
pub(crate) enum Request {
    Txn(Txn, Reply<TxnResult>),
    Grant(Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
}

/// The result of a read of the queue.
pub(crate) enum QueuedWork {
    /// The waiting requests, oldest first; never empty.
    Group(Vec<Request>),
    /// No request arrived before the deadline.
    Idle,
    /// The queue is closed and empty.
    Closed,
}

/// The wait for more requests after the first request of a group.
///
/// The requests of a group, and the requests that arrived before its responses, are from different writers. Each of
/// these writers probably writes again soon after its response, so the next group waits for them. This saves syncs and
/// costs a lone writer nothing. With few writers, one half prepares its requests while the requests of the other half
/// are synced, so a group waits for as many requests as the last group had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathering {
    /// The number of requests that ends the wait.
    requests: usize,
    /// The longest wait.
    time_max: Duration,
    /// The longest wait for one more request. After it, the other writers have probably stopped.
    pause_max: Duration,
}

impl Gathering {
    /// No wait.
    pub(crate) const NONE: Self = Self {
        requests: 1,
        time_max: Duration::ZERO,
        pause_max: Duration::ZERO,
    };

    /// The wait after a group of `group` requests, if `waiting` requests arrived before its responses.
    pub(crate) fn after(group: usize, waiting: usize) -> Self {
        let writers = group + waiting;
        Self {
            requests: if writers < MANY_WRITERS {
                group
            } else {
                writers
            },
            time_max: GATHERING_TIME_MAX,
            pause_max: GATHERING_PAUSE_MAX,
        }
    }
}

/// A bounded queue with many asynchronous senders and one blocking receiver.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// One permit per free slot.
    free_slots: Semaphore,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// The number of requests at which the receiver is woken, which costs a system call; `None` while the receiver is
    /// awake.
    wakes_at: Option<usize>,
    closed: bool,
}

impl Queue {
    /// An empty queue with a capacity of `QUEUED_REQUESTS_MAX` requests.
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            free_slots: Semaphore::new(QUEUED_REQUESTS_MAX),
        }
    }

    /// Waits for a free slot and appends a request.
    pub(crate) async fn submit(&self, request: Request) -> Result<(), StoreError> {
        let permit = self
            .free_slots
            .acquire()
            .await
            .map_err(|_| StoreError::Closed)?;
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(StoreError::Closed);
        }
        permit.forget();
        waiting.requests.push_back(request);
        let count = waiting.requests.len();
        let wakes = waiting.wakes_at.take_if(|wake_count| *wake_count <= count);
        drop(waiting);
        if wakes.is_some() {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Blocks until a request arrives, the deadline has passed, or the queue is closed. After the first request, it
    /// waits for more requests as `gathering` requires.
    pub(crate) fn next_group(&self, deadline: Option<Instant>, gathering: Gathering) -> QueuedWork {
        let waiting = self.wait_for(1, deadline, self.lock());
        match (waiting.requests.is_empty(), waiting.closed) {
            (true, true) => return QueuedWork::Closed,
            (true, false) => return QueuedWork::Idle,
            (false, _) => {}
        }
        let mut waiting = self.gather(gathering, waiting);
        let count = waiting.requests.len().min(REQUESTS_PER_GROUP_MAX);
        let group: Vec<Request> = waiting.requests.drain(..count).collect();
        drop(waiting);
        self.free_slots.add_permits(count);
        QueuedWork::Group(group)
    }

    /// Waits for more requests after the first one.
    fn gather<'a>(
        &'a self,
        gathering: Gathering,
        mut waiting: MutexGuard<'a, Waiting>,
    ) -> MutexGuard<'a, Waiting> {
        let until = Instant::now() + gathering.time_max;
        loop {
            let before = waiting.requests.len();
            let pause = until.min(Instant::now() + gathering.pause_max);
            waiting = self.wait_for(gathering.requests, Some(pause), waiting);
            let count = waiting.requests.len();
            if count == before || count >= gathering.requests || pause == until {
                return waiting;
            }
        }
    }

    /// Waits for the given number of requests, until the deadline, or until the queue is closed.
    fn wait_for<'a>(
        &'a self,
        requests: usize,
        deadline: Option<Instant>,
        mut waiting: MutexGuard<'a, Waiting>,
    ) -> MutexGuard<'a, Waiting> {
        while waiting.requests.len() < requests && !waiting.closed {
            waiting.wakes_at = Some(requests);
            waiting = match deadline {
                None => self
                    .arrived
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    let waited = self.arrived.wait_timeout(waiting, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        waiting.wakes_at = None;
        waiting
    }

    /// The number of waiting requests.
    pub(crate) fn len(&self) -> usize {
        self.lock().requests.len()
    }

    /// Refuses new requests. Requests in the queue are still served.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.free_slots.close();
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    /// Longer than any test runs.
    const LONG: Duration = Duration::from_secs(600);

    async fn submit(queue: &Queue) {
        let (reply, _) = oneshot::channel();
        let request = Request::KeepAlive(LeaseId(1), reply);
        queue.submit(request).await.unwrap();
    }

    /// Takes a group in another thread, and waits until that thread sleeps and is to be woken at the given number of
    /// requests.
    fn take_beside(queue: &Arc<Queue>, gathering: Gathering) -> thread::JoinHandle<usize> {
        let taker = Arc::clone(queue);
        let taking = thread::spawn(move || match taker.next_group(None, gathering) {
            QueuedWork::Group(requests) => requests.len(),
            QueuedWork::Idle | QueuedWork::Closed => 0,
        });
        while queue.lock().wakes_at.is_none() {
            thread::yield_now();
        }
        taking
    }

    fn gathering(requests: usize, time_max: Duration) -> Gathering {
        Gathering {
            requests,
            time_max,
            pause_max: time_max,
        }
    }

    #[tokio::test]
    async fn a_group_waits_for_as_many_requests_as_are_expected() {
        let queue = Arc::new(Queue::new());
        submit(&queue).await;
        let taking = take_beside(&queue, gathering(3, LONG));
        submit(&queue).await;
        assert_eq!(queue.lock().wakes_at, Some(3), "woken too early");
        submit(&queue).await;
        assert_eq!(taking.join().unwrap(), 3);
    }

    #[tokio::test]
    async fn requests_that_do_not_come_delay_a_group_for_a_bounded_time() {
        let queue = Queue::new();
        submit(&queue).await;
        let group = queue.next_group(None, gathering(3, Duration::from_millis(1)));
        assert!(matches!(group, QueuedWork::Group(requests) if requests.len() == 1));
    }

    /// With many writers, a group waits for each of them; with few writers, for as many requests as the last group had.
    #[test]
    fn the_last_group_and_the_requests_behind_it_tell_the_number_of_writers() {
        assert_eq!(Gathering::after(1, 0).requests, 1);
        assert_eq!(Gathering::after(2, 2).requests, 2);
        assert_eq!(Gathering::after(8, 8).requests, 16);
        assert_eq!(Gathering::after(16, 0).requests, 16);
    }

    #[tokio::test]
    async fn a_group_does_not_wait_for_writers_that_have_stopped() {
        let queue = Queue::new();
        submit(&queue).await;
        let wait = Gathering {
            pause_max: Duration::from_millis(1),
            ..gathering(3, LONG)
        };
        let group = queue.next_group(None, wait);
        assert!(matches!(group, QueuedWork::Group(requests) if requests.len() == 1));
    }

    #[tokio::test]
    async fn a_queue_that_is_closed_gathers_no_more() {
        let queue = Arc::new(Queue::new());
        submit(&queue).await;
        let taking = take_beside(&queue, gathering(2, LONG));
        queue.close();
        assert_eq!(taking.join().unwrap(), 1);
        let group = queue.next_group(None, Gathering::NONE);
        assert!(matches!(group, QueuedWork::Closed));
    }

    #[tokio::test]
    async fn a_lone_request_is_taken_at_once() {
        let queue = Queue::new();
        for (group, waiting) in [(0, 0), (1, 0), (1, MANY_WRITERS - 2)] {
            submit(&queue).await;
            let wait = Gathering {
                time_max: LONG,
                pause_max: LONG,
                ..Gathering::after(group, waiting)
            };
            let lone_group = queue.next_group(None, wait);
            assert!(matches!(lone_group, QueuedWork::Group(requests) if requests.len() == 1));
        }
        let deadline = Some(Instant::now());
        let lone_group = queue.next_group(deadline, Gathering::NONE);
        assert!(matches!(lone_group, QueuedWork::Idle));
    }
}
