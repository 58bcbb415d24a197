//! The frame of every controller: changes in caches queue keys, and workers reconcile them.

use std::future::Future;
use std::sync::Arc;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::queue::{Queue, ReconcileResult, Work, run_workers};

/// A controller. Its decision is a pure function elsewhere; this trait covers its input and output.
pub trait Controller: Send + Sync + 'static {
    /// The reconciled key, such as the namespace and name of an object.
    type Key: Work;
    /// The error that makes a key be retried.
    type Error: std::error::Error + 'static;

    /// Keys that are worked on at once.
    const WORKERS: usize;

    /// Waits until the caches have been filled once; `false` when they have ended instead.
    fn wait_synced(&self) -> impl Future<Output = bool> + Send;

    /// Adds the keys that a change concerns to the queue, until the caches end.
    fn feed(&self, queue: &Queue<Self::Key>) -> impl Future<Output = ()> + Send;

    /// Observes, plans and executes for one key. It may be called for different keys at once, for one
    /// key never. A failure brings the key back after a delay.
    fn reconcile(
        &self,
        key: &Self::Key,
    ) -> impl Future<Output = Result<ReconcileResult, Self::Error>> + Send;
}

/// Runs a controller until `shutdown` is cancelled; reconciliations in progress are finished.
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
    // In a box, tasks of all controllers are of one type, which is compiled once.
    let feed = tokio::spawn(feed.boxed());
    run_workers(queue, C::WORKERS, shutdown, move |key: C::Key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
    .await;
    feed.abort();
}
