//! The store as one of several servers has it: a copy in memory, which follows the shared store over a link that
//! may be slow or cut, as that of the engine over etcd does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::{StreamExt, TryFutureExt};
use mvcc_store::published::Published;
use mvcc_store::{
    EventKind, LeaseId, Limits, Range, RangeResult, Revision, Store, StoreError, Txn, TxnResult,
    WatchEvents, WatchStream,
};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use crate::disk::Disk;
use crate::random;

/// The longest time after which a call to the store fails, as in the engine over etcd.
const CALL: Duration = Duration::from_secs(10);
/// The shortest one, in milliseconds: a call may also fail because its connection breaks.
const BROKEN_CALL_MILLIS: u64 = 500;
/// The time for a revision that a client knows from another server.
const KNOWN_REVISION: Duration = Duration::from_secs(3);
/// Pause before another look at a link that is cut.
const LOOK: Duration = Duration::from_millis(50);

/// The way between a server and the shared store.
#[derive(Default)]
pub struct StoreLink {
    is_cut: AtomicBool,
    /// Longest time of one way, in milliseconds.
    slowest: AtomicU64,
}

impl StoreLink {
    /// Cuts the link, or mends it.
    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Sets how long one way takes at most.
    pub fn set_slowest(&self, slowest: Duration) {
        let millis = u64::try_from(slowest.as_millis()).unwrap_or(u64::MAX);
        self.slowest.store(millis, Ordering::Relaxed);
    }

    /// Goes one way; nothing arrives while the link is cut.
    async fn travel(&self) {
        sleep(random::millis(0, self.slowest.load(Ordering::Relaxed))).await;
        while self.is_cut.load(Ordering::Relaxed) {
            sleep(LOOK).await;
        }
    }

    /// Goes one way, if that takes no longer than a call.
    async fn reach(&self) -> Result<(), StoreError> {
        let longest = u64::try_from(CALL.as_millis()).unwrap_or(u64::MAX);
        let patience = random::millis(BROKEN_CALL_MILLIS, longest);
        let gone = timeout(patience, self.travel()).await;
        gone.map_err(|_| StoreError::Unavailable("the link is cut".to_owned()))
    }
}

/// The copy of one server.
pub struct Replica {
    disk: Arc<Disk>,
    link: Arc<StoreLink>,
    published: Published,
    reached: watch::Sender<Revision>,
}

impl Replica {
    /// Reads everything, as a server does when it starts.
    ///
    /// # Errors
    /// The link is cut, or of the store.
    pub async fn load(disk: Arc<Disk>, link: Arc<StoreLink>) -> Result<Arc<Self>, StoreError> {
        link.reach().await?;
        let everything = Range {
            end: Some(vec![u8::MAX]),
            ..Range::default()
        };
        let read = disk.range(everything).await?;
        let pairs = read.items.into_iter();
        let live = pairs.map(|pair| (Arc::clone(&pair.key), Arc::new(pair)));
        Ok(Arc::new(Self {
            published: Published::new(live.collect(), read.revision, &Limits::default()),
            reached: watch::Sender::new(read.revision),
            disk,
            link,
        }))
    }

    /// Follows the shared store, until it has moved on so far that only a new copy helps.
    pub async fn follow(self: Arc<Self>) {
        let next = Revision(self.published.revision().0 + 1);
        let Ok(mut changes) = self.disk.watch(Vec::new(), next) else {
            return;
        };
        let mut progress = interval(Limits::default().progress_interval);
        loop {
            let change = tokio::select! {
                biased;
                change = changes.next() => change,
                _ = progress.tick() => {
                    self.published.mark_progress();
                    continue;
                }
            };
            let Some(Ok(change)) = change else { return };
            self.link.travel().await;
            self.apply(change);
            while let Some(Some(Ok(change))) = changes.next().now_or_never() {
                self.apply(change);
            }
        }
    }

    fn apply(&self, change: WatchEvents) {
        let WatchEvents::Events(events) = change else {
            return;
        };
        let Some(revision) = events.first().map(|event| event.revision) else {
            return;
        };
        let changed = events.into_iter().map(|event| match event.kind {
            EventKind::Put(pair) => (event.key, Some(pair)),
            EventKind::Delete => (event.key, None),
        });
        let now = Instant::now();
        self.published.apply(revision, changed.collect(), now);
        self.published.trim(now);
        self.reached.send_replace(revision);
    }

    /// Waits until reads of this server include the revision.
    async fn wait(&self, revision: Revision, within: Duration) -> bool {
        let mut reached = self.reached.subscribe();
        let arrival = reached.wait_for(|now| *now >= revision);
        matches!(timeout(within, arrival).await, Ok(Ok(_)))
    }

    /// A write. Once it is on its way it is carried out, also if nobody waits for it any more.
    async fn write(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        let (disk, link) = (Arc::clone(&self.disk), Arc::clone(&self.link));
        let work = tokio::spawn(async move {
            link.reach().await?;
            let result = disk.txn(txn).await?;
            let back = link.reach().await;
            back.map_err(|_| unknown()).map(|()| result)
        });
        let result = work.await.map_err(|_| unknown())??;
        let revision = match &result {
            TxnResult::Committed { revision, .. } | TxnResult::Refused { revision, .. } => {
                *revision
            }
        };
        match self.wait(revision, CALL).await {
            true => Ok(result),
            false => Err(unknown()),
        }
    }
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown("the answer did not come".to_owned())
}

impl Store for Replica {
    fn current_revision(&self) -> Revision {
        self.published.revision()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async {
            self.link.reach().await?;
            let revision = self.disk.current_revision();
            self.link.reach().await?;
            match self.wait(revision, CALL).await {
                true => Ok(revision),
                false => Err(StoreError::Unavailable("the copy is behind".to_owned())),
            }
        }
        .boxed()
    }

    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            match self.wait(revision, KNOWN_REVISION).await {
                true => Ok(()),
                false => Err(StoreError::Future {
                    asked: revision,
                    newest: self.current_revision(),
                }),
            }
        }
        .boxed()
    }

    fn failure(&self) -> Option<StoreError> {
        None
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        self.write(txn).boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        let read = self.published.range(range);
        async { read() }.boxed()
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        self.published.watch(&prefix, from)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        let compacted = self.published.compact(revision);
        async { compacted }.boxed()
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        let granted = self.link.reach();
        granted
            .and_then(move |()| self.disk.lease_grant(ttl))
            .boxed()
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        let sent = self.link.reach();
        sent.and_then(move |()| self.disk.lease_keep_alive(lease))
            .boxed()
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        let sent = self.link.reach();
        sent.and_then(move |()| self.disk.lease_revoke(lease))
            .boxed()
    }
}
