//! The common loop of all controllers: changes in caches queue keys, and workers reconcile the keys.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::queue::{Queue, ReconcileResult, Work, run_workers};

/// A controller. The trait covers input and output; the decision is a pure function elsewhere.
pub trait Controller: Send + Sync + 'static {
    /// The reconciled key, such as the namespace and name of an object.
    type Key: Work;
    /// The error of a reconciliation, after which the key is retried.
    type Error: std::error::Error + 'static;

    /// The number of keys that are reconciled concurrently.
    const WORKERS: usize;

    /// Waits until the first list of each cache is complete. Returns `false` if a cache ends before that.
    fn wait_synced(&self) -> impl Future<Output = bool> + Send;

    /// Adds the keys that each change concerns to the queue, until the caches end.
    fn feed(&self, queue: &Queue<Self::Key>) -> impl Future<Output = ()> + Send;

    /// Observes, plans and executes for one key. Calls for different keys are concurrent; calls for one key never are.
    /// After an error, the key is retried with a delay.
    fn reconcile(
        &self,
        key: &Self::Key,
    ) -> impl Future<Output = Result<ReconcileResult, Self::Error>> + Send;
}

/// Runs a controller until `shutdown` is cancelled, and then waits for reconciliations in progress.
pub async fn run_controller<C: Controller>(
    controller: Arc<C>,
    queue: Queue<C::Key>,
    shutdown: CancellationToken,
) {
    if !controller.wait_synced().await {
        return;
    }
    let (fed, wakes) = (queue.clone(), controller.clone());
    let feed = async move { fed.watched(wakes.feed(&fed)).await };
    // Boxed, so that the tasks of all controllers have one type, which is compiled once.
    let feed = tokio::spawn(feed.boxed());
    run_workers(queue, C::WORKERS, shutdown, move |key: C::Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
    feed.abort();
}
