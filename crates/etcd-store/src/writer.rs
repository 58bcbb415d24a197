//! The execution of a transaction in etcd, until its outcome is certain.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mvcc_store::{LeaseId, StoreError, Txn, TxnResult, limits};
use process_telemetry::backoff;
use rpc_channel::{Code, RpcError};
use service_protocols::etcdserverpb::{kv, lease};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    connections::{Connections, is_not_begun, is_without_effect},
    keys::Keys,
    leases, messages,
    mirror::{self, MarkState, Mirror},
    revision::EtcdRevision,
    session::{self, Session, Sessions},
    txn::{self, NewMark, TxnGuards, TxnOutcome},
};

/// Maximum time of one attempt. If the leader dies, etcd drops its pending transactions without a response after seven
/// seconds; the next leader is elected after one or two seconds.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Longest time until an attempt begins.
const LIMIT: Duration = Duration::from_secs(17);
/// Maximum time after that until the transaction is sent: sending needs a connection.
const SENDING: Duration = Duration::from_secs(3);
/// Maximum time to determine the outcome of an attempt, from the end of the attempt. On a busy machine, elections need
/// most of this time.
const FINDING_OUT: Duration = Duration::from_secs(10);
/// Maximum time of a transaction: a transaction that is sent at the last moment has the whole time for its response,
/// and for the search for its outcome if there is no response.
const LONGEST: Duration = LIMIT
    .saturating_add(SENDING)
    .saturating_add(ATTEMPT)
    .saturating_add(FINDING_OUT);
/// Pause before a transaction that was not sent is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends transactions, and determines their outcome.
pub(crate) struct Writer {
    connections: Arc<Connections>,
    mirror: Arc<Mirror>,
    keys: Keys,
    sessions: Sessions,
    /// Held while the fence is written.
    fencing: Mutex<()>,
    next_mark: AtomicU64,
    /// The reason why etcd refuses new keys.
    full: RwLock<Option<StoreError>>,
}

/// The result of one attempt.
enum Attempt {
    Done(Result<TxnResult, StoreError>),
    /// The transaction was not executed and will not be executed; the next attempt may be executed.
    Again,
}

impl Writer {
    pub(crate) fn new(connections: Arc<Connections>, mirror: Arc<Mirror>, keys: Keys) -> Self {
        Self {
            sessions: Sessions::new(Arc::clone(&connections)),
            connections,
            mirror,
            keys,
            fencing: Mutex::new(()),
            next_mark: AtomicU64::new(1),
            full: RwLock::new(None),
        }
    }

    /// The reason why etcd refuses new keys.
    pub(crate) fn full(&self) -> Option<StoreError> {
        let full = self.full.read().unwrap_or_else(PoisonError::into_inner);
        full.clone()
    }

    pub(crate) fn note_full(&self, full: Option<StoreError>) {
        *self.full.write().unwrap_or_else(PoisonError::into_inner) = full;
    }

    /// Carries a transaction out, as [`Store::txn`](mvcc_store::Store::txn).
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        limits::check(&txn)?;
        let begun = Instant::now();
        let attempts = self.attempts(txn, begun + LIMIT);
        let done = tokio::time::timeout_at(begun + LONGEST, attempts).await;
        done.unwrap_or_else(|_| {
            Err(StoreError::OutcomeUnknown(
                "etcd did not answer in time".to_owned(),
            ))
        })
    }

    /// Repeats attempts until the outcome of an attempt is certain. No attempt begins after the deadline.
    async fn attempts(&self, txn: Txn, deadline: Instant) -> Result<TxnResult, StoreError> {
        // A full etcd carries out what only deletes, but no mark.
        let mut marked = txn::always_changes(&txn);
        loop {
            let done = match self.attempt(&txn, marked, deadline).await {
                Attempt::Done(done) => done,
                Attempt::Again if Instant::now() + PAUSE >= deadline => {
                    return Err(StoreError::Unavailable(
                        "etcd did not carry the transaction out in time".to_owned(),
                    ));
                }
                Attempt::Again => {
                    tokio::time::sleep(backoff::jittered(PAUSE)).await;
                    continue;
                }
            };
            match &done {
                Err(error @ StoreError::Full(_)) => {
                    self.note_full(Some(error.clone()));
                    if marked && txn::only_deletes(&txn) {
                        marked = false;
                        continue;
                    }
                }
                Ok(_) if marked && self.full().is_some() => self.note_full(None),
                _ => {}
            }
            return done;
        }
    }

    async fn attempt(&self, txn: &Txn, marked: bool, deadline: Instant) -> Attempt {
        let number = self.next_mark.fetch_add(1, Ordering::Relaxed);
        let begun = match marked {
            true => {
                let begun = self.sessions.begun(deadline);
                let begun = tokio::time::timeout_at(deadline + SENDING, begun).await;
                let in_time = "no member answers in time".to_owned();
                let begun = begun.unwrap_or(Err(StoreError::Unavailable(in_time)));
                begun.map(|(session, lease)| (session, Some(NewMark { number, lease })))
            }
            false => Ok((self.sessions.present(), None)),
        };
        let (session, mark) = match begun {
            Ok(begun) => begun,
            Err(error) => return Attempt::Done(Err(error)),
        };
        let base = TxnGuards {
            keys: &self.keys,
            origin: self.mirror.origin,
            fence: session.fence,
        };
        let expected = marked.then(|| self.mirror.expect(number));
        let live = self.mirror.published.newest().live;
        let request = match txn::request(txn, base, &live, mark) {
            Ok(request) => request,
            Err(error) => return Attempt::Done(Err(error)),
        };
        // The attempt gets its full time: an attempt that is cancelled early has an unknown outcome instead of no
        // effect.
        let sent = self
            .connections
            .send(txn, deadline + SENDING, &request, ATTEMPT);
        let response = sent.await;
        let deadline = (deadline + SENDING).max(Instant::now() + FINDING_OUT);
        let outcome = response.and_then(|response| txn::outcome(txn, base, &response.into()));
        match outcome {
            Ok(TxnOutcome::Committed(revision, former)) => {
                if !self.mirror.wait_with_progress(revision, deadline).await {
                    return Attempt::Done(Err(no_event()));
                }
                let Some(expected) = expected else {
                    return Attempt::Done(Ok(txn::deletions(revision, former)));
                };
                Attempt::Done(
                    observed_result(txn, &expected.mark()).unwrap_or_else(|| Err(no_event())),
                )
            }
            // A reader that reads again gets the state that refused the transaction.
            Ok(TxnOutcome::Refused(refused)) => {
                let (TxnResult::Refused { revision, .. } | TxnResult::Committed { revision, .. }) =
                    &refused;
                match self.mirror.wait_with_progress(*revision, deadline).await {
                    true => Attempt::Done(Ok(refused)),
                    false => Attempt::Done(Err(StoreError::Unavailable(
                        "the events of etcd do not arrive".to_owned(),
                    ))),
                }
            }
            Ok(TxnOutcome::Fenced(now)) => {
                match session.lease {
                    // The fence does not exist any more, because its lease has expired.
                    Some(lease) if now == EtcdRevision(0) => self.sessions.record_end(lease),
                    lease => self.sessions.fenced(lease, now),
                }
                Attempt::Again
            }
            Ok(TxnOutcome::Replaced) => {
                self.mirror.note_replaced();
                Attempt::Done(Err(mirror::replaced()))
            }
            Err(RpcError::Status { code, message }) if code == Code::NOT_FOUND => {
                self.without_lease(txn, mark, message).await
            }
            Err(error @ RpcError::Status { .. }) if is_without_effect(&error) => {
                Attempt::Done(Err(txn::refusal(&error, txn::lease_of(txn))))
            }
            Err(error) if is_not_begun(&error) => {
                tracing::debug!(%error, "a transaction was not started");
                Attempt::Again
            }
            Err(error) => {
                tracing::warn!(%error, "etcd did not say whether it carried a transaction out");
                let mark = expected.as_ref().map(|expected| || expected.mark());
                self.find_out(txn, session, mark, &error, deadline).await
            }
        }
    }

    /// etcd refused the transaction because a lease does not exist: the lease of this process, or the lease in the
    /// transaction.
    async fn without_lease(&self, txn: &Txn, mark: Option<NewMark>, message: String) -> Attempt {
        if let Some(mark) = mark {
            match self.sessions.exists(mark.lease).await {
                Ok(true) => {}
                // The next attempt begins a session, or finds etcd away.
                Ok(false) | Err(_) => return Attempt::Again,
            }
        }
        let code = Code::NOT_FOUND;
        let error = RpcError::Status { code, message };
        Attempt::Done(Err(txn::refusal(&error, txn::lease_of(txn))))
    }

    /// Finds out whether a transaction was carried out that was sent in a session.
    async fn find_out(
        &self,
        txn: &Txn,
        sent_in: Session,
        mark: Option<impl Fn() -> MarkState>,
        error: &RpcError,
        deadline: Instant,
    ) -> Attempt {
        let unknown = || Attempt::Done(Err(StoreError::OutcomeUnknown(error.to_string())));
        let Some(mark) = mark else {
            return match txn::is_repeatable(txn) {
                true => Attempt::Again,
                false => unknown(),
            };
        };
        let Some(fence) = self.move_fence(sent_in, deadline).await else {
            return unknown();
        };
        let fence = self.mirror.origin.in_store(fence);
        if !self.mirror.wait_with_progress(fence, deadline).await {
            return unknown();
        }
        match mark() {
            MarkState::Awaited => Attempt::Again,
            mark @ MarkState::Arrived(_) => {
                observed_result(txn, &mark).map_or_else(unknown, Attempt::Done)
            }
            MarkState::Missed => unknown(),
        }
    }

    /// Writes the fence, unless it was written after a transaction was sent: no transaction that was sent before can be
    /// executed after the returned revision.
    async fn move_fence(&self, sent_in: Session, deadline: Instant) -> Option<EtcdRevision> {
        let _one_at_a_time = self.fencing.lock().await;
        loop {
            let (session, lease) = self.sessions.begun(deadline).await.ok()?;
            // The fence of a later session was written after the lease of the earlier session had expired.
            if session.fence > EtcdRevision(0) && session != sent_in {
                return Some(session.fence);
            }
            match self.write_fence(lease, deadline).await {
                Ok(revision) => return Some(revision),
                Err(RpcError::Status { code, .. })
                    if code == Code::NOT_FOUND && Instant::now() < deadline =>
                {
                    self.sessions.record_end(lease);
                }
                Err(error) => {
                    tracing::warn!(%error, "the outcome of a transaction cannot be found out");
                    return None;
                }
            }
        }
    }

    async fn write_fence(
        &self,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<EtcdRevision, RpcError> {
        let request = messages::put(self.keys.fence.clone(), Vec::new(), Some(lease));
        let call = self.connections.call(kv::PUT, &request, ATTEMPT, deadline);
        let revision = messages::revision_of(call.await?.header.as_ref());
        self.sessions.fenced(Some(lease), revision);
        Ok(revision)
    }

    /// Renews the lease of this process until the task is aborted.
    pub(crate) async fn keep_session(self: Arc<Self>) {
        loop {
            tokio::time::sleep(session::RENEWAL).await;
            if let Some(lease) = self.sessions.present().lease
                && let Err(error) = self.sessions.exists(lease).await
            {
                tracing::debug!(%error, "the lease of this process was not renewed");
            }
        }
    }

    /// Revokes the lease of this process, which deletes its keys.
    pub(crate) async fn end_session(&self) {
        let Some(lease) = self.sessions.present().lease else {
            return;
        };
        let request = leases::revocation(lease);
        let ended = self
            .connections
            .call_once(lease::LEASE_REVOKE, &request, ATTEMPT);
        match tokio::time::timeout(ATTEMPT, ended).await {
            Ok(Ok(_)) => self.sessions.record_end(lease),
            _ => tracing::debug!("the lease of this process in etcd expires by itself"),
        }
    }
}

/// The result of a transaction whose mark was observed.
fn observed_result(txn: &Txn, mark: &MarkState) -> Option<Result<TxnResult, StoreError>> {
    match mark {
        MarkState::Arrived(commit) => txn::committed(txn, commit).map(Ok),
        MarkState::Awaited | MarkState::Missed => None,
    }
}

/// The error for a write that etcd has, and the copy has not.
fn no_event() -> StoreError {
    StoreError::OutcomeUnknown("the write was carried out, but its event did not arrive".to_owned())
}
