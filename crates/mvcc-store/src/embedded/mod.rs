//! The engine inside this process.
//!
//! All live objects are in memory in an ordered persistent map, so that a range is a snapshot
//! that blocks nobody. One thread commits (`commit`): it decides transactions in order (`apply`,
//! pure), makes a group of them durable with one sync (`disk`), and hands them to watchers
//! (`watch`). Reads (`published`) never touch the disk. `directory` (lock, version stamp) and
//! `journal` (damage or torn tail) guard the data on disk.

mod apply;
mod commit;
mod directory;
mod disk;
mod history;
mod import;
mod journal;
mod leases;
mod limits;
mod published;
mod queue;
mod record;
mod room;
mod watch;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures::{StreamExt as _, future::BoxFuture};
use tokio::sync::oneshot;

pub use self::{commit::Stepper, import::import, limits::Limits};
use self::{
    commit::{Committer, Shared},
    disk::{Disk, Durable, Loaded, Memory},
    published::Published,
    queue::{Queue, Reply, Request},
    watch::Hub,
};
use crate::{
    LeaseId, Occupancy, Range, RangeResult, Revision, Store, StoreError, Txn, TxnResult,
    WatchStream,
};

/// The options for opening a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// The store's own directory; made if it does not exist.
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
/// Dropping it, or [`close`](Self::close), finishes what was submitted and releases the
/// directory. A transaction whose future is dropped after the first poll may still be committed.
///
/// After a restart, history starts at the current revision, and leases start with their full
/// time to live.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedStore {
    /// Opens the store in a directory, and makes it if there is none. Blocks while it reads.
    ///
    /// *Errors.* `InUse` if another process has it open, `NewerFormat` if a newer version of this
    /// program wrote it, `Damaged` if the data fails its checks, `Io` if the disk fails.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>, StoreError> {
        let (mut disk, loaded) = Disk::open(&options.dir)?;
        disk.note_durable(loaded.counters.revision);
        Self::start(Box::new(disk), loaded, &options.limits)
    }

    /// A store that keeps everything in memory and nothing on disk.
    pub fn in_memory() -> Arc<Self> {
        Self::in_memory_with(&Limits::default())
    }

    /// An in-memory store with other limits than the default ones.
    ///
    /// *Panics* if the system has no thread left.
    pub fn in_memory_with(limits: &Limits) -> Arc<Self> {
        Self::start(Box::new(Memory), Loaded::default(), limits).expect("a thread can be started")
    }

    /// An in-memory store without a thread: only the stepper commits.
    pub fn in_memory_stepped(limits: &Limits) -> (Arc<Self>, Stepper) {
        let (shared, committer) = Self::prepare(Box::new(Memory), Loaded::default(), limits);
        let store = Self {
            shared,
            committer: Mutex::new(None),
        };
        (Arc::new(store), Stepper::new(committer))
    }

    fn start(
        disk: Box<dyn Durable>,
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
        disk: Box<dyn Durable>,
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
            published: RwLock::new(Published::new(live, counters.revision, limits)),
            revision: AtomicU64::new(counters.revision.0),
            hub: Arc::new(Mutex::new(Hub::new(limits))),
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

    /// Completes submitted requests, ends all watches and releases the directory. Later writes get
    /// [`StoreError::Closed`]; reads still work. Blocks for at most a few syncs.
    pub fn close(&self) {
        self.shared.queue.close();
        let thread = self
            .committer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of that thread has already aborted the process.
            drop(thread.join());
        }
    }

    /// The number of disk syncs since the store was opened. Transactions that waited together share
    /// one.
    pub fn syncs_total(&self) -> u64 {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.submit(request(reply)).await?;
        answer.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for EmbeddedStore {
    fn current_revision(&self) -> Revision {
        Revision(self.shared.revision.load(Ordering::Acquire))
    }

    fn failure(&self) -> Option<StoreError> {
        let failure = self.shared.failure.read();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn occupancy(&self) -> Occupancy {
        let (live_bytes, history_bytes) = {
            let published = self.shared.published.read();
            let published = published.unwrap_or_else(PoisonError::into_inner);
            (published.live_bytes, published.history.bytes())
        };
        let room = self.shared.room();
        Occupancy {
            live_bytes,
            history_bytes: u64::try_from(history_bytes).unwrap_or(u64::MAX),
            live_bytes_max: room.live_bytes_max,
            full: room
                .full(live_bytes)
                .or_else(|| self.failure().filter(StoreError::is_full)),
        }
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        Box::pin(async move {
            apply::validate(&txn)?;
            self.ask(|reply| Request::Txn(txn, reply)).await
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        let snapshot = {
            let published = self
                .shared
                .published
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            published.snapshot(range.revision)
        };
        Box::pin(async move { Ok(snapshot?.range(&range)) })
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        // Held while reading the history, so that no commit falls between replay and stream.
        let mut hub = watch::lock(&self.shared.hub);
        let published = self
            .shared
            .published
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if from.0 > published.revision.0 + 1 {
            return Err(StoreError::Future {
                asked: from,
                newest: published.revision,
            });
        }
        let replay = published.history.from(from)?;
        let replay = replay
            .filter(|commit| commit.concerns(&prefix))
            .cloned()
            .collect();
        let revision = published.revision;
        drop(published);
        Ok(hub
            .register(&self.shared.hub, &prefix, replay, revision)
            .boxed())
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut published = self
                .shared
                .published
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if revision > published.revision {
                return Err(StoreError::Future {
                    asked: revision,
                    newest: published.revision,
                });
            }
            published.history.compact(revision);
            Ok(())
        })
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            if ttl.is_zero() || ttl > limits::LEASE_TTL_MAX {
                return Err(StoreError::Invalid(format!(
                    "a lease's time to live must be above zero and at most {} days",
                    limits::LEASE_TTL_MAX.as_secs() / 86_400
                )));
            }
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
