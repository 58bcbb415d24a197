//! The newest revision of the cluster: one read for all that wait (the "read index" of Raft).

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
/// Pause after an attempt without an answer.
const PAUSE: Duration = Duration::from_millis(100);

type Answer = Result<Revision, StoreError>;

/// The reason why the last attempt failed.
type Failure = Arc<Mutex<String>>;

/// Asks etcd for its newest revision.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    asking: mpsc::UnboundedSender<oneshot::Sender<Answer>>,
    failure: Failure,
}

impl ReadIndex {
    /// The asking side, and the task that answers it.
    pub(crate) fn new(
        connections: Arc<Connections>,
        key: Vec<u8>,
        origin: Origin,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (asking, asked) = mpsc::unbounded_channel();
        let failure = Failure::default();
        let own = Self {
            asking,
            failure: Arc::clone(&failure),
        };
        let answering = Answering {
            connections,
            key,
            origin,
            failure,
        };
        (own, answering.run(asked))
    }

    /// A revision that includes every write that was acknowledged before the call.
    ///
    /// *Errors.* `Unavailable`, at the latest at the deadline; `Closed`.
    pub(crate) async fn newest(&self, deadline: Instant) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.asking.send(reply).map_err(|_| StoreError::Closed)?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => answer.unwrap_or(Err(StoreError::Closed)),
            Err(_) => {
                let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                Err(StoreError::Unavailable(format!(
                    "etcd does not tell its newest revision: {failure}"
                )))
            }
        }
    }
}

/// The answering side.
struct Answering {
    connections: Arc<Connections>,
    key: Vec<u8>,
    origin: Origin,
    failure: Failure,
}

impl Answering {
    /// Answers all that wait with one read, which begins after all of them came. Those who come during an
    /// attempt wait for the next one.
    async fn run(self, mut asked: mpsc::UnboundedReceiver<oneshot::Sender<Answer>>) {
        let request = RangeRequest {
            key: self.key.clone(),
            count_only: true,
            ..RangeRequest::default()
        };
        let mut waiting = Vec::new();
        loop {
            // Each that waits gives up by itself.
            waiting.retain(|reply: &oneshot::Sender<Answer>| !reply.is_closed());
            if waiting.is_empty() && asked.recv_many(&mut waiting, usize::MAX).await == 0 {
                return;
            }
            while let Ok(reply) = asked.try_recv() {
                waiting.push(reply);
            }
            match self.ask(&request).await {
                Some(answer) => {
                    for reply in waiting.drain(..) {
                        drop(reply.send(answer.clone()));
                    }
                }
                None => tokio::time::sleep(backoff::jittered(PAUSE)).await,
            }
        }
    }

    /// One attempt; `None` if the next one may succeed.
    async fn ask(&self, request: &RangeRequest) -> Option<Answer> {
        let range = self.connections.call_once(kv::RANGE, request, ATTEMPT);
        match range.await {
            Ok(range) => {
                let revision = messages::revision_of(range.header.as_ref());
                Some(Ok(self.origin.shown(revision)))
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
