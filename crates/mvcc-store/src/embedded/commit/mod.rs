//! The commit thread: the only writer.
//!
//! The thread takes the waiting requests, applies them in order to a draft, writes the draft durably with one sync,
//! publishes it to readers and watchers, and sends the responses last. During the sync of a group, the requests of the
//! next group arrive. If there were several writers, the thread waits for more requests, at most 2 ms. After a failed
//! write the thread writes nothing more, because the state of the disk is unknown until the store is opened again.
//! After a write to a full disk, the thread itself opens the store again when there is space.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    apply::GroupDraft,
    disk::{Counters, GroupStorage},
    leases::Leases,
    limits::{FULL_RETRY_INTERVAL, SPACE_CHECK_INTERVAL},
    queue::{Gathering, Queue, QueuedWork, Reply, Request},
    space::Space,
};
use crate::{
    LeaseId, Revision, StoreError, TxnResult,
    published::{NewestKeys, Published},
};

/// The state that the commit thread shares with readers and writers.
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    /// The published state, which changes only after the change is on disk.
    pub(crate) published: Published,
    /// The number of written and synced groups.
    pub(crate) syncs: AtomicU64,
    /// The reason why writes are refused.
    pub(crate) failure: RwLock<Option<StoreError>>,
    /// Free bytes on the disk, at the last check.
    pub(crate) free_bytes: AtomicU64,
    /// The quota on stored objects.
    pub(crate) live_bytes_max: u64,
}

impl Shared {
    pub(crate) fn space(&self) -> Space {
        Space {
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            live_bytes_max: self.live_bytes_max,
        }
    }
}

/// A response that is delayed until the group is durable.
enum DelayedReply {
    Txn(Reply<TxnResult>, Result<TxnResult, StoreError>),
    Lease(Reply<LeaseId>, LeaseId),
    Done(Reply<()>, Result<(), StoreError>),
}

impl DelayedReply {
    /// Sends the response, or the failure instead of it. The requester may have stopped waiting; the commit stays
    /// valid.
    fn send(self, failure: Option<&StoreError>) {
        match (self, failure.cloned()) {
            (Self::Txn(reply, _), Some(error)) => drop(reply.send(Err(error))),
            (Self::Txn(reply, result), None) => drop(reply.send(result)),
            (Self::Lease(reply, _), Some(error)) => drop(reply.send(Err(error))),
            (Self::Lease(reply, lease), None) => drop(reply.send(Ok(lease))),
            (Self::Done(reply, _), Some(error)) => drop(reply.send(Err(error))),
            (Self::Done(reply, result), None) => drop(reply.send(result)),
        }
    }
}

/// State of the commit thread.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    disk: Box<dyn GroupStorage>,
    leases: Leases,
    counters: Counters,
    progress_interval: Duration,
    /// The time of the next progress mark for idle watchers.
    progress_due: Option<Instant>,
    /// The time of the next check of free disk space; `None` without a disk.
    space_check_due: Option<Instant>,
    /// The wait for the requests of the next group.
    gathering: Gathering,
    failure: Option<Failure>,
}

/// A failed write.
struct Failure {
    error: StoreError,
    /// The draft; the failed write may or may not have stored it.
    draft: GroupDraft,
    /// The time of the next attempt; `None` after an error after which the disk cannot be trusted.
    retry_due: Option<Instant>,
}

/// Aborts the process on a panic. A panic here is a broken invariant, and the state may be half-changed; it must not be
/// served or written. Data is more important than uptime.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl Committer {
    /// The state of the commit thread before its first request.
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Box<dyn GroupStorage>,
        leases: Leases,
        counters: Counters,
        progress_interval: Duration,
    ) -> Self {
        let mut committer = Self {
            shared,
            disk,
            leases,
            counters,
            progress_interval,
            progress_due: None,
            space_check_due: None,
            gathering: Gathering::NONE,
            failure: None,
        };
        if committer.read_free_bytes() < u64::MAX {
            committer.space_check_due = Some(Instant::now() + SPACE_CHECK_INTERVAL);
        }
        committer
    }

    /// Serves requests until the queue is closed.
    pub(crate) fn run(mut self) {
        let _guard = AbortOnPanic;
        let shared = Arc::clone(&self.shared);
        loop {
            let work = shared
                .queue
                .next_group(self.next_deadline(), self.gathering);
            if !self.step(work) {
                break;
            }
        }
        if self.failure.is_none() {
            self.disk.note_durable(self.counters.revision);
        }
        self.shared.published.close();
    }

    /// Commits requests and performs due work. Returns `false` if the queue is closed and empty.
    fn step(&mut self, work: QueuedWork) -> bool {
        match work {
            QueuedWork::Group(requests) => self.commit(requests),
            QueuedWork::Idle => {}
            QueuedWork::Closed => return false,
        }
        self.run_timers(Instant::now());
        true
    }

    fn commit(&mut self, requests: Vec<Request>) {
        let mut draft = self.draft();
        let mut replies = Vec::with_capacity(requests.len());
        self.read_free_bytes();
        let space = self.shared.space();
        for request in requests {
            replies.push(self.prepare(request, &mut draft, &space));
        }
        self.make_durable(draft);
        // The writers of this group and of the queued requests still wait for their responses, so they are different
        // writers.
        self.gathering = Gathering::after(replies.len(), self.shared.queue.len());
        let failure = self.failure.as_ref().map(|failure| &failure.error);
        for reply in replies {
            reply.send(failure);
        }
    }

    fn draft(&self) -> GroupDraft {
        GroupDraft::new(self.shared.published.newest(), Instant::now())
    }

    fn prepare(&mut self, request: Request, draft: &mut GroupDraft, space: &Space) -> DelayedReply {
        let leases = &mut self.leases;
        match request {
            Request::Txn(txn, reply) => {
                let result = draft.check_space(&txn, space);
                let result = result.and_then(|()| draft.apply(&txn, leases));
                DelayedReply::Txn(reply, result)
            }
            Request::Grant(ttl, reply) => {
                let lease = LeaseId(self.counters.next_lease);
                self.counters.next_lease += 1;
                draft.grant(lease, ttl, leases);
                DelayedReply::Lease(reply, lease)
            }
            Request::KeepAlive(lease, reply) => {
                DelayedReply::Done(reply, leases.keep_alive(lease, Instant::now()))
            }
            Request::Revoke(lease, reply) => {
                DelayedReply::Done(reply, draft.end_lease(lease, leases))
            }
        }
    }

    /// Writes, syncs and publishes a draft, or records the failure.
    fn make_durable(&mut self, draft: GroupDraft) {
        if self.failure.is_some() || draft.writes.is_empty() {
            return;
        }
        self.counters.revision = draft.revision;
        if let Err(error) = self.disk.write(&draft.writes, self.counters) {
            self.fail(error, draft);
            return;
        }
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        // Recorded before any response, so that an acknowledged write is never cut off as a torn write.
        self.disk.note_durable(draft.revision);
        if !draft.commits.is_empty() {
            self.publish(draft);
        }
    }

    fn fail(&mut self, error: StoreError, draft: GroupDraft) {
        tracing::error!(%error, "a write failed; the store takes no more writes");
        let full = matches!(error, StoreError::Full(_));
        let error = match error {
            StoreError::Io(cause) => StoreError::Io(format!(
                "{cause}; no more writes are taken until the store is opened again"
            )),
            other => other,
        };
        self.say_failure(Some(error.clone()));
        self.failure = Some(Failure {
            error,
            draft,
            retry_due: full.then(|| Instant::now() + FULL_RETRY_INTERVAL),
        });
    }

    fn say_failure(&self, error: Option<StoreError>) {
        let failure = self.shared.failure.write();
        *failure.unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Resumes when a disk that was full has space again.
    fn go_on(&mut self, now: Instant) {
        let due = |failure: &Failure| failure.retry_due.is_some_and(|due| due <= now);
        let Some(mut failure) = self.failure.take_if(|failure| due(failure)) else {
            return;
        };
        match self.disk.reopen() {
            Err(StoreError::Damaged(what)) => {
                failure.retry_due = None;
                failure.error = StoreError::Damaged(what);
                self.say_failure(Some(failure.error.clone()));
                self.failure = Some(failure);
            }
            Err(error) => {
                tracing::debug!(%error, "the store cannot continue yet");
                failure.retry_due = Some(now + FULL_RETRY_INTERVAL);
                self.failure = Some(failure);
            }
            Ok(result) => {
                let (written, before) = (failure.draft.revision, self.published_revision());
                let revision = result.counters.revision;
                assert!(
                    revision == written || revision == before,
                    "a group is written whole or not at all"
                );
                self.leases = result.leases;
                self.counters = result.counters;
                if revision > before {
                    self.publish(failure.draft);
                }
                self.say_failure(None);
                tracing::info!("the store takes writes again");
            }
        }
    }

    fn publish(&mut self, draft: GroupDraft) {
        let now = Instant::now();
        let newest = NewestKeys {
            live: draft.live,
            live_bytes: draft.live_bytes,
            revision: draft.revision,
        };
        if self.shared.published.publish(newest, &draft.commits, now) {
            self.progress_due
                .get_or_insert(now + self.progress_interval);
        }
    }

    fn run_timers(&mut self, now: Instant) {
        self.go_on(now);
        self.end_expired_leases(now);
        if self.progress_due.is_some_and(|due| due <= now) {
            self.progress_due = None;
            self.shared.published.mark_progress();
        }
        if self.space_check_due.is_some_and(|due| due <= now) {
            self.space_check_due = Some(now + SPACE_CHECK_INTERVAL);
            self.read_free_bytes();
            if self.failure.is_none() {
                self.disk.keep_ballast();
            }
        }
        self.shared.published.trim(now);
    }

    /// Reads the free space of the disk.
    fn read_free_bytes(&self) -> u64 {
        let free_bytes = self.disk.free_bytes();
        self.shared.free_bytes.store(free_bytes, Ordering::Relaxed);
        free_bytes
    }

    fn published_revision(&self) -> Revision {
        self.shared.published.revision()
    }

    fn end_expired_leases(&mut self, now: Instant) {
        let expired = self.leases.expired(now);
        if expired.is_empty() || self.failure.is_some() {
            return;
        }
        let mut draft = self.draft();
        for lease in expired {
            if let Err(error) = draft.end_lease(lease, &mut self.leases) {
                tracing::error!(%error, "an expired lease is not in the table");
            }
        }
        self.make_durable(draft);
    }

    /// The time at which the thread must wake up without a request.
    fn next_deadline(&self) -> Option<Instant> {
        let (leases, retry) = match &self.failure {
            None => (self.leases.next_deadline(), None),
            Some(failure) => (None, failure.retry_due),
        };
        // Each commit trims the history as well; between commits, once a second is often enough.
        let soon = Instant::now() + Duration::from_secs(1);
        let trim = self.shared.published.next_expiry();
        let trim = trim.map(|expiry| expiry.max(soon));
        [leases, retry, self.progress_due, self.space_check_due, trim]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Commits instead of the store's own thread, and only when called. It serves a simulation, which controls the order of
/// events.
pub struct Stepper(Committer);

impl Stepper {
    pub(crate) fn new(committer: Committer) -> Self {
        Self(committer)
    }

    /// Commits the submitted requests as one group, and performs due work (progress marks, expired
    /// leases). Does not block.
    pub fn step(&mut self) {
        let queue = &self.0.shared.queue;
        let work = queue.next_group(Some(Instant::now()), Gathering::NONE);
        self.0.step(work);
    }

    /// The time of the next due work that needs no request.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.next_deadline()
    }
}

#[cfg(test)]
mod tests;
