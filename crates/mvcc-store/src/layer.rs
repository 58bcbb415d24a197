//! A store on top of another store: the frame of stores that change some calls and forward the others.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    LeaseId, Range, RangeResult, Revision, Store, StoreError, StoreUsage, Txn, TxnResult,
    WatchStream, published::OwnerOf,
};

/// A [`Store`] on top of another store. Each call is forwarded to the inner store, unless the layer overrides it.
pub trait StoreLayer: Send + Sync + 'static {
    /// The inner store.
    fn inner(&self) -> &dyn Store;

    /// See [`Store::current_revision`].
    fn current_revision(&self) -> Revision {
        self.inner().current_revision()
    }

    /// See [`Store::newest`].
    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.inner().newest()
    }

    /// See [`Store::reached`].
    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner().reached(revision)
    }

    /// See [`Store::failure`].
    fn failure(&self) -> Option<StoreError> {
        self.inner().failure()
    }

    /// See [`Store::occupancy`].
    fn occupancy(&self) -> StoreUsage {
        self.inner().occupancy()
    }

    /// See [`Store::txn`].
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        self.inner().txn(txn)
    }

    /// See [`Store::range`].
    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        self.inner().range(range)
    }

    /// See [`Store::watch`].
    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner().watch(prefix, from)
    }

    /// See [`Store::lease_grant`].
    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.inner().lease_grant(ttl)
    }

    /// See [`Store::lease_keep_alive`].
    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner().lease_keep_alive(lease)
    }

    /// See [`Store::lease_revoke`].
    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner().lease_revoke(lease)
    }
}

impl<L: StoreLayer> Store for L {
    fn current_revision(&self) -> Revision {
        StoreLayer::current_revision(self)
    }

    fn newest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        StoreLayer::newest(self)
    }

    fn reached(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        StoreLayer::reached(self, revision)
    }

    fn failure(&self) -> Option<StoreError> {
        StoreLayer::failure(self)
    }

    fn occupancy(&self) -> StoreUsage {
        StoreLayer::occupancy(self)
    }

    fn count_by_owner(&self, owner_of: OwnerOf) {
        self.inner().count_by_owner(owner_of);
    }

    fn bytes_of_owner(&self, owner: &[u8]) -> u64 {
        self.inner().bytes_of_owner(owner)
    }

    fn largest_owner(&self) -> Option<(Arc<[u8]>, u64)> {
        self.inner().largest_owner()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, StoreError>> {
        StoreLayer::txn(self, txn)
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        StoreLayer::range(self, range)
    }

    fn watch(&self, prefix: Vec<u8>, from: Revision) -> Result<WatchStream, StoreError> {
        StoreLayer::watch(self, prefix, from)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner().compact(revision)
    }

    fn lease_grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        StoreLayer::lease_grant(self, ttl)
    }

    fn lease_keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        StoreLayer::lease_keep_alive(self, lease)
    }

    fn lease_revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        StoreLayer::lease_revoke(self, lease)
    }
}
