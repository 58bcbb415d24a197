//! The store of the API server, in which every write waits for a simulated disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, poll_immediate};
use mvcc_store::embedded::{EmbeddedStore, Limits, Stepper};
use mvcc_store::{LeaseId, Revision, Store, StoreError, StoreLayer, Txn, TxnResult, WatchEvents};
use tokio::sync::Notify;

use crate::random;

/// A store in memory with delayed writes. The store outlives the servers that use it.
pub struct Disk {
    store: Arc<EmbeddedStore>,
    submitted: Notify,
    /// Maximum time of a sync, in milliseconds.
    sync_millis: AtomicU64,
}

impl Disk {
    /// An empty store, and the task that commits to it. `step` gets every change right after its commit, before any
    /// watcher.
    pub fn new(
        mut step: impl FnMut(&WatchEvents) + Send + 'static,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send) {
        let (store, stepper) = EmbeddedStore::in_memory_stepped(&Limits::default());
        let everything = store.watch(Vec::new(), Revision(2));
        let disk = Arc::new(Self {
            store,
            submitted: Notify::new(),
            sync_millis: AtomicU64::new(3),
        });
        let spinning = disk.clone();
        let stepper = Arc::new(Mutex::new(stepper));
        let spin = async move {
            let Ok(mut changes) = everything else { return };
            loop {
                spinning.wait(&stepper).await;
                let slowest = spinning.sync_millis.load(Ordering::Relaxed);
                tokio::time::sleep(random::millis(0, slowest)).await;
                lock(&stepper).step();
                while let Some(Some(Ok(change))) =
                    futures::StreamExt::next(&mut changes).now_or_never()
                {
                    step(&change);
                }
            }
        };
        (disk, spin)
    }

    /// Sets the maximum time of a sync.
    pub fn set_slowest(&self, slowest: Duration) {
        let millis = u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX);
        self.sync_millis.store(millis, Ordering::Relaxed);
    }

    async fn wait(&self, stepper: &Mutex<Stepper>) {
        let due = lock(stepper).next_deadline();
        match due {
            None => self.submitted.notified().await,
            Some(due) => {
                let submitted = self.submitted.notified();
                let _either = tokio::time::timeout_at(due.into(), submitted).await;
            }
        }
    }

    /// Wakes the disk after a write was submitted.
    async fn submitting<T>(&self, mut request: BoxFuture<'_, T>) -> T {
        if let Some(result) = poll_immediate(&mut request).await {
            return result;
        }
        self.submitted.notify_one();
        request.await
    }
}

fn lock(stepper: &Mutex<Stepper>) -> std::sync::MutexGuard<'_, Stepper> {
    stepper
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl StoreLayer for Disk {
    fn inner(&self) -> &dyn Store {
        self.store.as_ref()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        self.submitting(self.store.txn(txn)).boxed()
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.submitting(self.store.lease_grant(ttl)).boxed()
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.submitting(self.store.lease_keep_alive(lease)).boxed()
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.submitting(self.store.lease_revoke(lease)).boxed()
    }
}
