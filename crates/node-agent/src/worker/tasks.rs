use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::{AbortHandle, JoinError, JoinSet};

/// Tasks that are aborted when the value is dropped. Each task is boxed, so that the code of the async
/// runtime is compiled once and not once per kind of task.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    /// The tasks that start when the pod's record is stored.
    held: Vec<BoxFuture<'static, ()>>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.running.spawn(task.boxed())
    }

    /// Holds a task until the pod's record is stored.
    pub(super) fn hold(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.held.push(task.boxed());
    }

    /// Starts the held tasks.
    pub(super) fn release(&mut self) {
        for task in self.held.drain(..) {
            self.running.spawn(task);
        }
    }

    pub(super) fn drop_held(&mut self) {
        self.held.clear();
    }

    /// The result of the next finished task; `None` if there are no tasks.
    pub(super) async fn join_next(&mut self) -> Option<Result<(), JoinError>> {
        self.running.join_next().await
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}
