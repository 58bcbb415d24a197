//! The tasks of a worker.

use futures::FutureExt;
use tokio::task::{AbortHandle, JoinError, JoinSet};

/// Tasks that are aborted when this is dropped. Each is in a box, so that the async runtime's code
/// for a task is compiled once, in place of once for each kind of task.
#[derive(Default)]
pub(super) struct Tasks(JoinSet<()>);

impl Tasks {
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.0.spawn(task.boxed())
    }

    /// The end of a task; `None` if there is none.
    pub(super) async fn join_next(&mut self) -> Option<Result<(), JoinError>> {
        self.0.join_next().await
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
