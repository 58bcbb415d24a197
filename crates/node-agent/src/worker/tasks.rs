//! The tasks of a worker.

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::{AbortHandle, JoinError, JoinSet};

/// Tasks that are aborted when this is dropped. Each is in a box, so that the async runtime's code
/// for a task is compiled once, in place of once for each kind of task.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    /// Those that begin when the pod's record is stored.
    held: Vec<BoxFuture<'static, ()>>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.running.spawn(task.boxed())
    }

    /// Keeps a task until the pod's record is stored.
    pub(super) fn hold(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.held.push(task.boxed());
    }

    /// Begins the tasks that were held.
    pub(super) fn release(&mut self) {
        for task in self.held.drain(..) {
            self.running.spawn(task);
        }
    }

    /// Drops the tasks that were held.
    pub(super) fn drop_held(&mut self) {
        self.held.clear();
    }

    /// The end of a task; `None` if there is none.
    pub(super) async fn join_next(&mut self) -> Option<Result<(), JoinError>> {
        self.running.join_next().await
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}
