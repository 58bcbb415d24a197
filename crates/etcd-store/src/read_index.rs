//! The newest revision of the cluster: one read for all that wait (the "read index" of Raft).

use std::{sync::Arc, time::Duration};

use mvcc_store::{Revision, StoreError};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    connections::Connections,
    messages::{self, RANGE, RangeRequest},
    origin::Origin,
    txn,
};

/// Longest time for an attempt, and for all of them.
const ATTEMPT: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(10);

type Answer = Result<Revision, StoreError>;

/// Asks etcd for its newest revision.
#[derive(Clone)]
pub(crate) struct ReadIndex(mpsc::UnboundedSender<oneshot::Sender<Answer>>);

impl ReadIndex {
    /// The asking side, and the task that answers it.
    pub(crate) fn new(
        connections: Arc<Connections>,
        key: Vec<u8>,
        origin: Origin,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (asking, asked) = mpsc::unbounded_channel();
        (Self(asking), answer(connections, key, origin, asked))
    }

    /// A revision that includes every write that was acknowledged before the call.
    ///
    /// *Errors.* `Unavailable`, `Closed`.
    pub(crate) async fn newest(&self) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).map_err(|_| StoreError::Closed)?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Answers all that wait with one read, which begins after all of them came.
async fn answer(
    connections: Arc<Connections>,
    key: Vec<u8>,
    origin: Origin,
    mut asked: mpsc::UnboundedReceiver<oneshot::Sender<Answer>>,
) {
    let request = RangeRequest {
        key: &key,
        count_only: true,
        ..RangeRequest::default()
    };
    let request = request.write();
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, usize::MAX).await > 0 {
        let deadline = Instant::now() + LIMIT;
        let found = connections.call(RANGE, &request, ATTEMPT, deadline).await;
        let answer = match found.map(|answer| messages::revision_of(&answer)) {
            Ok(Ok(revision)) => Ok(origin.shown(revision)),
            Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
            Err(error) => Err(txn::refusal(&error, None)),
        };
        for reply in waiting.drain(..) {
            // Those who no longer wait need no answer.
            drop(reply.send(answer.clone()));
        }
    }
}
