//! The store itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use mvcc_store::{
    LeaseId, Range, RangeResult, Revision, Store, StoreError, StoreUsage, Txn, TxnResult,
    WatchStream, limits, published::OwnerOf,
};
use service_protocols::etcdserverpb::{AlarmRequest, StatusRequest, lease, maintenance};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    compaction,
    connections::Connections,
    keys::Keys,
    leases, messages,
    mirror::Mirror,
    options::{ConnectError, EtcdOptions, unusable},
    origin::Origin,
    quota,
    read_index::ReadIndex,
    revision::EtcdRevision,
    txn,
    writer::Writer,
};

/// Maximum time of one attempt of a call about leases, and of all its attempts.
const ATTEMPT: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(15);
/// Longest wait for a revision that a client brought.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// Maximum wait of a fresh read, for the newest revision and for the events before it.
const FRESH_LIMIT: Duration = Duration::from_secs(10);
/// Interval of the requests for etcd's alarms and size.
const SPACE_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// A store in an etcd cluster.
///
/// Writes of other servers appear when their events arrive. After [`newest`](Store::newest), the store contains all
/// writes that were acknowledged before the call. Dropping the store stops its watches.
pub struct EtcdStore {
    connections: Arc<Connections>,
    mirror: Arc<Mirror>,
    writer: Arc<Writer>,
    read_index: ReadIndex,
    live_bytes_max: u64,
    /// The size of the database file of the member in use, in bytes; zero before the first read.
    size: Arc<AtomicU64>,
    /// Whether etcd has reported an older revision than the copy.
    is_older: AtomicBool,
    _tasks: [AbortOnDropHandle<()>; 5],
}

impl EtcdStore {
    /// Connects with a member and reads all keys.
    ///
    /// *Errors.* The options are invalid, no member responds, or all members have versions that lose events.
    pub fn connect(options: &EtcdOptions) -> BoxFuture<'_, Result<Arc<Self>, ConnectError>> {
        async move {
            let connections = Arc::new(Connections::from_options(options).await?);
            let keys = Keys::new(&options.prefix, &uuid::Uuid::new_v4().to_string());
            // A refused version is reported at once, not after all attempts.
            connections.current().await.map_err(unusable)?;
            let origin = Origin::read(&connections, &keys).await?;
            let mirror = Mirror::load(&connections, keys.clone(), origin, &options.limits).await;
            let mirror = Arc::new(mirror.map_err(unusable)?);
            let writer = Writer::new(Arc::clone(&connections), Arc::clone(&mirror), keys.clone());
            let writer = Arc::new(writer);
            let (read_index, revision_reader) =
                ReadIndex::new(Arc::clone(&connections), keys.compaction.clone(), origin);
            let following = Arc::clone(&mirror).run(Arc::clone(&connections));
            let size = Arc::default();
            let looking = check_free_space(
                Arc::clone(&connections),
                Arc::clone(&writer),
                Arc::clone(&size),
            );
            let renewing = Arc::clone(&writer).keep_session();
            let compacting = compaction::run(Arc::clone(&connections), keys);
            let tasks = [
                tokio::spawn(following),
                tokio::spawn(revision_reader),
                tokio::spawn(looking),
                tokio::spawn(compacting),
                tokio::spawn(renewing),
            ];
            Ok(Arc::new(Self {
                connections,
                mirror,
                writer,
                read_index,
                live_bytes_max: options.limits.live_bytes_max,
                size,
                is_older: AtomicBool::new(false),
                _tasks: tasks.map(AbortOnDropHandle::new),
            }))
        }
        .boxed()
    }

    /// Deletes the keys of this process in etcd, which would otherwise expire after an hour.
    pub async fn close(&self) {
        self.writer.end_session().await;
    }

    /// The size of the database file of the member in use at the last read, in bytes.
    pub fn size(&self) -> Option<u64> {
        let size = self.size.load(Ordering::Relaxed);
        (size > 0).then_some(size)
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.mirror.published.close();
    }
}

/// Observes the alarm for a full etcd, which an administrator clears, and the size of etcd.
async fn check_free_space(
    connections: Arc<Connections>,
    writer: Arc<Writer>,
    size: Arc<AtomicU64>,
) {
    loop {
        let deadline = Instant::now() + LIMIT;
        let request = AlarmRequest::default();
        let alarms = connections.call(maintenance::ALARM, &request, ATTEMPT, deadline);
        match alarms.await.map(|alarms| messages::has_no_space(&alarms)) {
            Ok(true) => writer.note_full(Some(StoreError::Full(
                "etcd's alarm NOSPACE is on; compact and defragment it, and clear the alarm"
                    .to_owned(),
            ))),
            Ok(false) => writer.note_full(None),
            Err(error) => tracing::debug!(%error, "etcd does not tell its alarms"),
        }
        let deadline = Instant::now() + LIMIT;
        let request = StatusRequest::default();
        let status = connections.call(maintenance::STATUS, &request, ATTEMPT, deadline);
        match status.await {
            Ok(status) => size.store(status.db_size.cast_unsigned(), Ordering::Relaxed),
            Err(error) => tracing::debug!(%error, "etcd does not tell its status"),
        }
        tokio::time::sleep(SPACE_CHECK_INTERVAL).await;
    }
}

impl Store for EtcdStore {
    fn current_revision(&self) -> Revision {
        self.mirror.published.revision()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        async move {
            if let Some(replaced) = self.mirror.failure_for_ever() {
                return Err(replaced);
            }
            let deadline = Instant::now() + FRESH_LIMIT;
            let current = self.current_revision();
            let revision = self.read_index.newest(deadline).await?;
            if revision < current {
                self.is_older.store(true, Ordering::Relaxed);
                return Err(older());
            }
            match self.mirror.wait_with_progress(revision, deadline).await {
                true => Ok(revision),
                false => Err(StoreError::Unavailable(
                    "the events of etcd do not arrive".to_owned(),
                )),
            }
        }
        .boxed()
    }

    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let deadline = Instant::now() + REACH_LIMIT;
            match self.mirror.wait_with_progress(revision, deadline).await {
                true => Ok(()),
                false => Err(StoreError::Future {
                    requested: revision,
                    newest: self.current_revision(),
                }),
            }
        }
        .boxed()
    }

    fn failure(&self) -> Option<StoreError> {
        let is_older = self.is_older.load(Ordering::Relaxed);
        is_older.then(older).or_else(|| self.mirror.failure())
    }

    fn occupancy(&self) -> StoreUsage {
        let (live_bytes, history_bytes) = self.mirror.published.bytes();
        StoreUsage {
            live_bytes,
            history_bytes: u64::try_from(history_bytes).unwrap_or(u64::MAX),
            live_bytes_max: self.live_bytes_max,
            full: self
                .writer
                .full()
                .or(used_up(live_bytes, self.live_bytes_max)),
        }
    }

    fn count_by_owner(&self, owner_of: OwnerOf) {
        self.mirror.published.count_by_owner(owner_of);
    }

    fn bytes_of_owner(&self, owner: &[u8]) -> u64 {
        self.mirror.published.bytes_of_owner(owner)
    }

    fn largest_owner(&self) -> Option<(Arc<[u8]>, u64)> {
        self.mirror.published.largest_owner()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        async move {
            if let Some(replaced) = self.mirror.failure_for_ever() {
                return Err(replaced);
            }
            quota::check(&txn, &self.mirror.published.newest(), self.live_bytes_max)?;
            self.writer.txn(txn).await
        }
        .boxed()
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        self.mirror.published.range(range).boxed()
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        self.mirror.published.watch(&prefix, from)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            self.mirror.published.compact(revision)?;
            let revision = self.mirror.origin.in_etcd(revision);
            if revision == EtcdRevision(0) {
                return Ok(());
            }
            let compacted = compaction::compact(&self.connections, revision).await;
            compacted.map_err(|error| txn::refusal(&error, None))
        }
        .boxed()
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        async move {
            limits::check_lease(ttl)?;
            // In whole seconds, rounded up.
            let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            leases::grant(&self.connections, seconds, Instant::now() + LIMIT).await
        }
        .boxed()
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        leases::keep_alive(&self.connections, lease).boxed()
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let request = leases::revocation(lease);
            let deadline = Instant::now() + LIMIT;
            let call = self
                .connections
                .call(lease::LEASE_REVOKE, &request, ATTEMPT, deadline);
            let response = call.await;
            let response = response.map_err(|error| txn::refusal(&error, Some(lease)))?;
            let revision = messages::revision_of(response.header.as_ref());
            let revision = self.mirror.origin.in_store(revision);
            let deadline = Instant::now() + FRESH_LIMIT;
            match self.mirror.wait_with_progress(revision, deadline).await {
                true => Ok(()),
                false => Err(StoreError::OutcomeUnknown(
                    "the lease has ended, but its events did not arrive".to_owned(),
                )),
            }
        }
        .boxed()
    }
}

/// The error after a restore of etcd: this server has read and sent changes that etcd does not have.
fn older() -> StoreError {
    StoreError::Replaced(
        "etcd has an older state than this server has seen; after a restore, restart all servers"
            .to_owned(),
    )
}

/// The reason why the store refuses new keys at this number of bytes; `None` if it accepts new keys.
fn used_up(stored: u64, max: u64) -> Option<StoreError> {
    (stored >= max).then_some(StoreError::Quota { stored, max })
}
