//! The storage engine inside this process.
//!
//! All live objects are in memory in an ordered persistent map, so a range is read from a snapshot that blocks nobody.
//! One thread commits (`commit`). It decides transactions in order (`apply`, pure), makes a group of them durable with
//! one sync (`disk`), and publishes them to readers and watchers ([`published`](crate::published)), which never use the
//! disk. `directory` (lock, version stamp) and `journal` (damage or torn tail) protect the data on disk.

mod apply;
mod commit;
mod directory;
mod disk;
mod import;
mod journal;
mod leases;
mod limits;
mod queue;
mod record;
mod space;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures::future::{BoxFuture, ready};
use tokio::sync::oneshot;

pub use self::{commit::Stepper, import::import};
use self::{
    commit::{Committer, Shared},
    disk::{Disk, GroupStorage, Loaded, Memory},
    queue::{Queue, Reply, Request},
};
pub use crate::Limits;
use crate::{
    LeaseId, Range, RangeResult, Revision, Store, StoreError, StoreUsage, Txn, TxnResult,
    WatchStream,
    limits::check_lease,
    published::{OwnerOf, Published},
};

/// The options for opening a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// The directory of the store, which is created if it does not exist.
    pub dir: PathBuf,
    /// Bounds on memory and time.
    pub limits: Limits,
}

impl EmbeddedOptions {
    /// Default limits in the given directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            limits: Limits::default(),
        }
    }
}

/// A store in this process, on disk or in memory only.
///
/// Dropping it, or [`close`](Self::close), finishes submitted transactions and releases the
/// directory. A transaction whose future is dropped after the first poll may still be committed.
///
/// After a restart, history starts at the current revision, and leases start with their full
/// time to live.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens the store in a directory, or creates it. Blocks while it reads.
    ///
    /// *Errors.* `InUse` if another process has the store open, `NewerFormat` if a newer version of this program wrote
    /// it, `Damaged` if the data fails its checks, `Io` if the disk fails.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>, StoreError> {
        let (mut disk, loaded) = Disk::open(&options.dir)?;
        disk.note_durable(loaded.counters.revision);
        Self::start(Box::new(disk), loaded, &options.limits)
    }

    /// A store in memory without a disk.
    pub fn in_memory() -> Arc<Self> {
        Self::in_memory_with(&Limits::default())
    }

    /// An in-memory store with the given limits.
    ///
    /// *Panics* if no thread can be started.
    pub fn in_memory_with(limits: &Limits) -> Arc<Self> {
        Self::start(Box::new(Memory), Loaded::default(), limits).expect("a thread can be started")
    }

    /// An in-memory store without a commit thread: only the stepper commits.
    pub fn in_memory_stepped(limits: &Limits) -> (Arc<Self>, Stepper) {
        let (shared, committer) = Self::prepare(Box::new(Memory), Loaded::default(), limits);
        let store = Self {
            shared,
            committer: Mutex::new(None),
        };
        (Arc::new(store), Stepper::new(committer))
    }

    fn start(
        disk: Box<dyn GroupStorage>,
        loaded: Loaded,
        limits: &Limits,
    ) -> Result<Arc<Self>, StoreError> {
        let (shared, committer) = Self::prepare(disk, loaded, limits);
        let thread = thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(|error| StoreError::Io(format!("start the commit thread: {error}")))?;
        Ok(Arc::new(Self {
            shared,
            committer: Mutex::new(Some(thread)),
        }))
    }

    fn prepare(
        disk: Box<dyn GroupStorage>,
        loaded: Loaded,
        limits: &Limits,
    ) -> (Arc<Shared>, Committer) {
        let Loaded {
            live,
            leases,
            counters,
        } = loaded;
        let shared = Arc::new(Shared {
            queue: Queue::new(),
            published: Published::new(live, counters.revision, limits),
            syncs: AtomicU64::new(0),
            failure: RwLock::new(None),
            free_bytes: AtomicU64::new(u64::MAX),
            live_bytes_max: limits.live_bytes_max,
        });
        let committer = Committer::new(
            Arc::clone(&shared),
            disk,
            leases,
            counters,
            limits.progress_interval,
        );
        (shared, committer)
    }

    /// Completes submitted requests, ends all watches and releases the directory. Later writes fail with
    /// [`StoreError::Closed`]; reads still work. Blocks for at most a few syncs.
    pub fn close(&self) {
        self.shared.queue.close();
        let thread = self
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // The join cannot fail: a panic of the commit thread aborts the process.
            drop(thread.join());
        }
    }

    /// The number of disk syncs since the store was opened. Transactions of one group share a sync.
    pub fn syncs_total(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, reply_receiver) = oneshot::channel();
        self.shared.queue.submit(request(reply)).await?;
        reply_receiver.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for EmbeddedStore {
    fn current_revision(&self) -> Revision {
        self.shared.published.revision()
    }

    fn failure(&self) -> Option<StoreError> {
        let failure = self.shared.failure.read();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn occupancy(&self) -> StoreUsage {
        let (live_bytes, history_bytes) = self.shared.published.bytes();
        let space = self.shared.space();
        StoreUsage {
            live_bytes,
            history_bytes: u64::try_from(history_bytes).unwrap_or(u64::MAX),
            live_bytes_max: space.live_bytes_max,
            full: space
                .full(live_bytes)
                .or_else(|| self.failure().filter(StoreError::is_full)),
        }
    }

    fn count_by_owner(&self, owner_of: OwnerOf) {
        self.shared.published.count_by_owner(owner_of);
    }

    fn bytes_of_owner(&self, owner: &[u8]) -> u64 {
        self.shared.published.bytes_of_owner(owner)
    }

    fn largest_owner(&self) -> Option<(Arc<[u8]>, u64)> {
        self.shared.published.largest_owner()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        Box::pin(async move {
            apply::validate(&txn)?;
            self.ask(|reply| Request::Txn(txn, reply)).await
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        Box::pin(self.shared.published.range(range))
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(ready(Ok(self.current_revision())))
    }

    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let newest = self.current_revision();
        let is_reached = revision <= newest;
        Box::pin(ready(is_reached.then_some(()).ok_or(StoreError::Future {
            requested: revision,
            newest,
        })))
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        self.shared.published.watch(&prefix, from)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.shared.published.compact(revision) })
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            check_lease(ttl)?;
            self.ask(|reply| Request::Grant(ttl, reply)).await
        })
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.ask(move |reply| Request::KeepAlive(lease, reply)))
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.ask(move |reply| Request::Revoke(lease, reply)))
    }
}
