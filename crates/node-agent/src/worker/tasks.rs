use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::{AbortHandle, JoinError, JoinSet};

/// Tasks that are aborted when the value is dropped. Each task is boxed, so that the code of the async
/// runtime is compiled once and not once per kind of task.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    /// The tasks that start when the pod's record is stored.
    delayed: Vec<BoxFuture<'static, ()>>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.running.spawn(task.boxed())
    }

    /// Delays a task until the pod's record is stored.
    pub(super) fn delay(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.delayed.push(task.boxed());
    }

    pub(super) fn start_delayed(&mut self) {
        for task in self.delayed.drain(..) {
            self.running.spawn(task);
        }
    }

    pub(super) fn drop_delayed(&mut self) {
        self.delayed.clear();
    }

    /// The result of the next finished task; `None` if there are no tasks.
    pub(super) async fn join_next(&mut self) -> Option<Result<(), JoinError>> {
        self.running.join_next().await
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}
