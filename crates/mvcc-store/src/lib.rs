//! Revisioned keys on disk: transactions, snapshots at a revision, watches, compaction, leases.
//!
//! The semantics are etcd's, reduced to what an API server needs. The store knows bytes, keys
//! and revisions, and nothing of Kubernetes. Start with [`Store`], the trait; [`embedded`] is the
//! engine that lives in this process.

pub mod embedded;
mod model;

pub use model::{
    Compare, Event, EventKind, KeyValue, LeaseId, Occupancy, Operation, OperationResult, Range,
    RangeResult, Revision, StoreError, Txn, TxnResult, Value, WatchEvents, WatchStream,
};

use std::time::Duration;

use futures::future::BoxFuture;

/// A revisioned key-value store.
///
/// *Guarantees.* A write that returned `Ok` is on disk. Revisions are assigned one per
/// transaction, without gaps seen by readers going backwards. A watch delivers every revision
/// from its start, in order, once. A range at a revision sees exactly the writes up to it.
pub trait Store: Send + Sync + 'static {
    /// The revision of the newest committed write (1 for a fresh store).
    fn current_revision(&self) -> Revision;

    /// Why no writes are taken, if that is so.
    fn failure(&self) -> Option<StoreError>;

    /// How much is stored, and why nothing new is taken, if that is so.
    fn occupancy(&self) -> Occupancy {
        Occupancy::default()
    }

    /// Applies all operations atomically under one new revision if every comparison holds,
    /// otherwise applies nothing. Returns after the commit is durable. A transaction that
    /// changes nothing (no operations, or deletions of absent keys) makes no revision.
    ///
    /// *Errors.* After `Io` the writes may or may not be durable; the embedded engine then takes
    /// no more of them until it is opened again. After `Full` it goes on by itself once there is
    /// room; when little is left, or the quota is used up (`Quota`), what makes new keys is refused
    /// so that others can still be changed and deleted.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>>;

    /// Reads a range of keys, by default at the newest revision, which includes every write
    /// that had returned before the call.
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>>;

    /// Streams every change under `prefix` with a revision of at least `from`, and progress
    /// marks in between, until the watcher falls too far behind or is dropped.
    ///
    /// `from` is at most the revision after the current one. The first mark comes right after
    /// the changes that had happened before the call, with the revision current at the call.
    ///
    /// *Errors.* `Compacted` or `Future` for a revision that cannot be watched from. The stream
    /// itself ends with `WatcherTooSlow`, and what was buffered is dropped at once, or without
    /// an error, after everything that was buffered, when the store closes.
    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets history up to and including `revision`; older reads and watches get
    /// [`StoreError::Compacted`].
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Creates a lease: keys put with it are deleted when it runs out.
    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>>;

    /// Renews a lease for its full time to live.
    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends a lease now and deletes its keys.
    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;
}
