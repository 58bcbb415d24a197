//! Revisioned keys on disk: transactions, snapshots at a revision, watches, compaction, leases.
//!
//! The semantics are etcd's, reduced to the needs of an API server. The store knows bytes, keys and
//! revisions, and nothing of Kubernetes. Start with [`Store`], the trait; [`embedded`] is the
//! engine inside this process, [`published`] the readable state that every engine has.

pub mod embedded;
mod layer;
pub mod limits;
mod model;
pub mod published;

pub use layer::StoreLayer;
pub use limits::Limits;
pub use model::{
    Compare, Event, EventKind, KeyValue, LeaseId, Omittable, Operation, OperationResult, Range,
    RangeResult, Revision, StoreError, StoreUsage, Txn, TxnResult, Value, WatchEvents, WatchStream,
};

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use published::OwnerOf;

/// A revisioned key-value store.
///
/// *Guarantees.* A write that returned `Ok` is on disk. Each transaction gets the next revision;
/// readers never see revisions go backwards. A watch delivers every revision from its start, in
/// order, once. A range at a revision contains exactly the writes up to it.
pub trait Store: Send + Sync + 'static {
    /// The revision that reads see (1 for a fresh store). It includes every write through this store that has returned.
    /// A store that several servers share may already have newer revisions.
    fn current_revision(&self) -> Revision;

    /// Waits until reads through this server include the newest write of all servers. Returns the revision of that
    /// write.
    ///
    /// *Errors.* `Unavailable` if the other servers of a shared store do not respond.
    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// Waits until reads include a revision that a client knows, perhaps from another server.
    ///
    /// *Errors.* `Future` if the revision does not exist, or does not arrive within three seconds.
    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The reason why writes are refused; `None` if they are accepted.
    fn failure(&self) -> Option<StoreError>;

    /// The number of stored bytes, and the reason why new keys are refused, if they are.
    fn occupancy(&self) -> StoreUsage {
        StoreUsage::default()
    }

    /// Starts to count the stored bytes by owner; `owner_of` returns the part of a key that names its owner.
    fn count_by_owner(&self, owner_of: OwnerOf);

    /// The bytes of live keys and values of an owner, with their overhead; zero if owners are not counted.
    fn bytes_of_owner(&self, owner: &[u8]) -> u64;

    /// The owner with the most bytes, and the number of these bytes.
    fn largest_owner(&self) -> Option<(Arc<[u8]>, u64)>;

    /// Applies all operations atomically under one new revision if every comparison holds,
    /// otherwise applies nothing. Returns after the commit is durable. A transaction that
    /// changes nothing (no operations, or deletions of absent keys) makes no revision.
    ///
    /// *Errors.* `TooLarge` beyond the [`limits`]. After `Unavailable` nothing was written; after
    /// `OutcomeUnknown` the write may have been carried out, or may be later. After `Io` the writes
    /// may or may not be durable; the embedded engine then refuses writes until it is opened
    /// again. After `Full` it resumes automatically once there is space.
    /// When little space is left, or the quota is used up (`Quota`), only new keys are refused, so
    /// that existing ones can still be changed and deleted.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>>;

    /// Reads a range of keys, by default at the current revision, which includes every write
    /// through this store that had returned before the call. Writes of other servers are included
    /// after [`newest`](Self::newest).
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>>;

    /// Streams every change under `prefix` with a revision of at least `from`, and progress marks
    /// in between, until the watcher falls further behind than the history or is dropped.
    ///
    /// `from` is at most the current revision plus one. The first mark follows the changes before
    /// the call, with the revision at the call.
    ///
    /// *Errors.* `Compacted` or `Future` for a revision that cannot be watched. The stream ends
    /// with `WatcherTooSlow`, without its buffered events, or without an error, after its buffered
    /// events, when the store closes.
    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets history up to and including `revision`; older reads and watches get
    /// [`StoreError::Compacted`].
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Creates a lease: its keys are deleted when it expires.
    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>>;

    /// Renews a lease for its full time to live.
    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends a lease now and deletes its keys.
    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;
}
