//! The newest revision of the cluster: one read for all waiting callers (the "read index" of Raft).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mvcc_store::{Revision, StoreError};
use process_telemetry::backoff;
use rpc_channel::RpcError;
use service_protocols::etcdserverpb::{RangeRequest, kv};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    connections::{Connections, is_without_effect},
    messages,
    origin::Origin,
    txn,
};

/// Longest time for an attempt.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Pause after an attempt without a response.
const PAUSE: Duration = Duration::from_millis(100);

type NewestRevision = Result<Revision, StoreError>;

/// The reason why the last attempt failed.
type Failure = Arc<Mutex<String>>;

/// Asks etcd for its newest revision.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    requests: mpsc::UnboundedSender<oneshot::Sender<NewestRevision>>,
    failure: Failure,
}

impl ReadIndex {
    /// The handle for requests, and the task that responds to them.
    pub(crate) fn new(
        connections: Arc<Connections>,
        key: Vec<u8>,
        origin: Origin,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (requests, received) = mpsc::unbounded_channel();
        let failure = Failure::default();
        let handle = Self {
            requests,
            failure: Arc::clone(&failure),
        };
        let reader = RevisionReader {
            connections,
            key,
            origin,
            failure,
        };
        (handle, reader.run(received))
    }

    /// A revision that includes every write that was acknowledged before the call.
    ///
    /// *Errors.* `Unavailable`, at the latest at the deadline; `Closed`.
    pub(crate) async fn newest(&self, deadline: Instant) -> NewestRevision {
        let (reply, response) = oneshot::channel();
        self.requests.send(reply).map_err(|_| StoreError::Closed)?;
        match tokio::time::timeout_at(deadline, response).await {
            Ok(response) => response.unwrap_or(Err(StoreError::Closed)),
            Err(_) => {
                let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                Err(StoreError::Unavailable(format!(
                    "etcd does not tell its newest revision: {failure}"
                )))
            }
        }
    }
}

/// The task that reads the newest revision.
struct RevisionReader {
    connections: Arc<Connections>,
    key: Vec<u8>,
    origin: Origin,
    failure: Failure,
}

impl RevisionReader {
    /// Responds to all waiting callers with one read, which begins after all requests have arrived. Requests that
    /// arrive during an attempt wait for the next attempt.
    async fn run(self, mut requests: mpsc::UnboundedReceiver<oneshot::Sender<NewestRevision>>) {
        let request = RangeRequest {
            key: self.key.clone(),
            count_only: true,
            ..RangeRequest::default()
        };
        let mut waiting = Vec::new();
        loop {
            // Each waiting caller has its own deadline.
            waiting.retain(|reply: &oneshot::Sender<NewestRevision>| !reply.is_closed());
            if waiting.is_empty() && requests.recv_many(&mut waiting, usize::MAX).await == 0 {
                return;
            }
            while let Ok(reply) = requests.try_recv() {
                waiting.push(reply);
            }
            match self.read(&request).await {
                Some(newest) => {
                    for reply in waiting.drain(..) {
                        drop(reply.send(newest.clone()));
                    }
                }
                None => tokio::time::sleep(backoff::jittered(PAUSE)).await,
            }
        }
    }

    /// One attempt; `None` if the next one may succeed.
    async fn read(&self, request: &RangeRequest) -> Option<NewestRevision> {
        let range = self.connections.call_once(kv::RANGE, request, ATTEMPT);
        match range.await {
            Ok(range) => {
                let revision = messages::revision_of(range.header.as_ref());
                Some(Ok(self.origin.in_store(revision)))
            }
            Err(error @ RpcError::Malformed(_)) => Some(Err(txn::refusal(&error, None))),
            Err(error @ RpcError::Status { .. }) if is_without_effect(&error) => {
                Some(Err(txn::refusal(&error, None)))
            }
            Err(error) => {
                let text = error.to_string();
                tracing::debug!(error = text, "etcd did not tell its newest revision");
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = text;
                None
            }
        }
    }
}
