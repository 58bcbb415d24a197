//! Parts of the program that run concurrently and stop together.

use command_output::output::warn;
use futures::FutureExt;
use futures::future::BoxFuture;
use process_telemetry::{Component, Health};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Components of the process that are stopped together.
pub struct TaskGroup {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    health: Health,
    failed: CancellationToken,
}

impl TaskGroup {
    /// A group without components. `failed` is cancelled when a component ends unexpectedly.
    pub fn new(health: &Health, failed: &CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            health: health.clone(),
            failed: failed.clone(),
        }
    }

    /// A component of the group: it ends with the group, and its health is recorded.
    pub fn component(&self, name: &'static str) -> Component {
        self.health.component(name, self.stop.clone())
    }

    /// Starts a component as a task. Its end before the stop of the group is reported as a failure.
    pub fn run<F, E>(
        &mut self,
        name: &'static str,
        start: impl FnOnce(Component) -> F,
    ) -> AbortHandle
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let task = start(self.component(name));
        let task = async move { task.await.map_err(anyhow::Error::new) };
        self.spawn(name, task.boxed())
    }

    /// Starts a component that cannot fail; its health is not recorded.
    pub fn keep<F>(&mut self, name: &'static str, start: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = start(self.stop.clone());
        self.follow(name, task);
    }

    /// Waits for a component that was started with [`TaskGroup::component`].
    pub fn follow(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = async move {
            task.await;
            Ok(())
        };
        self.spawn(name, task.boxed());
    }

    // The tasks are boxed, so that the code around them is compiled once.
    fn spawn(
        &mut self,
        name: &'static str,
        task: BoxFuture<'static, anyhow::Result<()>>,
    ) -> AbortHandle {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        self.tasks.spawn(watched(name, task, stop, failed))
    }

    /// Stops the components at once, each at its current await.
    pub async fn abort(mut self) {
        self.stop.cancel();
        self.tasks.shutdown().await;
    }

    /// Stops the components and waits for their end.
    pub async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Waits for a component; its end before the stop of the group is reported as a failure.
async fn watched(
    name: &'static str,
    component: BoxFuture<'static, anyhow::Result<()>>,
    stop: CancellationToken,
    failed: CancellationToken,
) {
    match component.await {
        Ok(()) if stop.is_cancelled() => tracing::debug!(component = name, "stopped"),
        Ok(()) => {
            warn(&format!("mainstay: the {name} ended unexpectedly"));
            failed.cancel();
        }
        Err(error) => {
            warn(&format!("mainstay: the {name} failed: {error:#}"));
            failed.cancel();
        }
    }
}
