//! The state that readers and watchers see: the live keys, their revision, the recent history, and the watchers
//! themselves. All of it is in memory, regardless of the engine.
//!
//! An engine is the only writer. The embedded engine publishes the transactions that are on its disk
//! ([`Published::publish`]); the engine over etcd publishes the events of etcd's watch ([`Published::apply`]).

mod history;
mod owners;
mod state;
mod watch;

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use futures::StreamExt as _;
use imbl::OrdMap;

pub use self::history::{Commit, KeyChange};
pub use self::owners::OwnerOf;
use self::{
    owners::OwnedBytes,
    state::PublishedState,
    watch::{SharedHub, SharedState, WatchHub},
};
use crate::{KeyValue, Limits, Range, RangeResult, Revision, StoreError, WatchStream};

/// The live keys. A clone is a snapshot: it takes constant time and shares memory.
pub type LiveKeys = OrdMap<Arc<[u8]>, Arc<KeyValue>>;

/// Approximate memory overhead of a live pair, in addition to the bytes of its key and value.
const PAIR_OVERHEAD_BYTES: u64 = 256;

/// The memory of a pair in bytes.
pub fn pair_bytes(key: &[u8], value_len: usize) -> u64 {
    PAIR_OVERHEAD_BYTES + (key.len() + value_len) as u64
}

/// The readable state of a store.
pub struct Published {
    state: SharedState,
    /// The published revision, readable without a lock.
    revision: AtomicU64,
    /// Lock order: the hub before `state`.
    hub: SharedHub,
    limits: Limits,
}

/// The newest live keys with their size and revision.
#[derive(Clone, Debug)]
pub struct NewestKeys {
    /// The live keys with their pairs.
    pub live: LiveKeys,
    /// The size of the pairs, as of [`pair_bytes`].
    pub live_bytes: u64,
    /// The revision of the newest commit.
    pub revision: Revision,
}

impl Published {
    /// The state directly after opening. Earlier history is unknown, except in a new store.
    pub fn new(live: LiveKeys, revision: Revision, limits: &Limits) -> Self {
        Self {
            state: Arc::new(RwLock::new(PublishedState::new(
                live, revision, limits, None,
            ))),
            revision: AtomicU64::new(revision.0),
            hub: Arc::new(Mutex::new(WatchHub::new(limits))),
            limits: limits.clone(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, PublishedState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, PublishedState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision of the newest commit that readers see.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// The newest state, which later writes do not change.
    pub fn newest(&self) -> NewestKeys {
        let state = self.read();
        NewestKeys {
            live: state.live.clone(),
            live_bytes: state.live_bytes,
            revision: state.revision,
        }
    }

    /// Bytes of live pairs, and of the history.
    pub fn bytes(&self) -> (u64, usize) {
        let state = self.read();
        (state.live_bytes, state.history.bytes())
    }

    /// Starts to count the bytes of the live pairs by owner.
    pub fn count_by_owner(&self, owner_of: OwnerOf) {
        let mut state = self.write();
        state.owned = OwnedBytes::count(Some(owner_of), &state.live);
    }

    /// The bytes of the live pairs of an owner.
    pub fn bytes_of_owner(&self, owner: &[u8]) -> u64 {
        self.read().owned.owned_bytes(owner)
    }

    /// The owner with the most bytes.
    pub fn largest_owner(&self) -> Option<(Arc<[u8]>, u64)> {
        self.read().owned.largest()
    }

    /// Reads a range as [`Store::range`](crate::Store::range) does. The snapshot is taken at the call, and read when
    /// the future is polled.
    pub fn range(
        &self,
        range: Range,
    ) -> impl Future<Output = Result<RangeResult, StoreError>> + Send + 'static {
        let snapshot = self.read().snapshot(range.revision);
        async move { Ok(snapshot?.range(&range).await) }
    }

    /// Opens a watch as [`Store::watch`](crate::Store::watch) does.
    ///
    /// *Errors.* `Compacted` or `Future`.
    pub fn watch(&self, prefix: &[u8], from: Revision) -> Result<WatchStream, StoreError> {
        // Locked while the history is read, so that no commit is lost between the replay and the stream.
        let mut hub = watch::lock(&self.hub);
        let state = self.read();
        if from.0 > state.revision.0 + 1 {
            return Err(StoreError::Future {
                requested: from,
                newest: state.revision,
            });
        }
        let replay = state.history.from(from)?;
        let replay = replay
            .filter(|commit| commit.concerns(prefix))
            .cloned()
            .collect();
        let revision = state.revision;
        drop(state);
        let watch = hub.register(&self.hub, &self.state, prefix, replay, revision);
        Ok(watch.boxed())
    }

    /// Drops the history up to and including `revision`.
    ///
    /// *Errors.* `Future`.
    pub fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.write();
        if revision > state.revision {
            return Err(StoreError::Future {
                requested: revision,
                newest: state.revision,
            });
        }
        state.history.compact(revision);
        Ok(())
    }

    /// Publishes the state after these commits. Returns whether there are watchers.
    pub fn publish(&self, newest: NewestKeys, commits: &[Arc<Commit>], now: Instant) -> bool {
        let mut hub = watch::lock(&self.hub);
        {
            let mut state = self.write();
            state.live = newest.live;
            state.live_bytes = newest.live_bytes;
            state.revision = newest.revision;
            for commit in commits {
                state.owned.apply(commit);
                state.history.push(Arc::clone(commit));
            }
            state.history.trim(now);
        }
        self.revision.store(newest.revision.0, Ordering::Release);
        for commit in commits {
            hub.publish(commit);
        }
        !hub.is_empty()
    }

    /// Publishes one revision that sets or deletes the given keys. A deletion of an absent key is no change. Without
    /// changes, only the revision advances.
    pub fn apply(
        &self,
        revision: Revision,
        changed: Vec<(Arc<[u8]>, Option<KeyValue>)>,
        now: Instant,
    ) -> Arc<Commit> {
        let mut newest = self.newest();
        let mut changes = Vec::with_capacity(changed.len());
        for (key, pair) in changed {
            let previous = newest.live.get(&key).cloned();
            // The key of the former pair is reused, so that only one copy of a key exists.
            let key = previous.as_ref().map_or(key, |pair| Arc::clone(&pair.key));
            let current = pair.map(|pair| {
                let key = Arc::clone(&key);
                Arc::new(KeyValue { key, ..pair })
            });
            let size = |pair: &Option<Arc<KeyValue>>| {
                let pair = pair.as_ref();
                pair.map_or(0, |pair| pair_bytes(&key, pair.value.len()))
            };
            let without = newest.live_bytes.saturating_sub(size(&previous));
            newest.live_bytes = without + size(&current);
            match &current {
                Some(pair) => drop(newest.live.insert(Arc::clone(&key), Arc::clone(pair))),
                None if previous.is_none() => continue,
                None => drop(newest.live.remove(&key)),
            }
            changes.push(KeyChange {
                key,
                current,
                previous,
            });
        }
        newest.revision = revision;
        let commit = Arc::new(Commit::new(revision, now, changes));
        match commit.changes.is_empty() {
            true => self.publish(newest, &[], now),
            false => self.publish(newest, &[Arc::clone(&commit)], now),
        };
        commit
    }

    /// Replaces the whole state. The history in between is unknown, so all watchers are cut off.
    pub fn replace(&self, live: LiveKeys, revision: Revision) {
        let mut hub = watch::lock(&self.hub);
        let mut state = self.write();
        let owner_of = state.owned.owner_of();
        *state = PublishedState::new(live, revision, &self.limits, owner_of);
        drop(state);
        self.revision.store(revision.0, Ordering::Release);
        hub.cut();
    }

    /// Sends a progress mark to every watcher that is behind only because no commit concerned it.
    pub fn mark_progress(&self) {
        let mut hub = watch::lock(&self.hub);
        hub.mark_progress(self.revision());
    }

    /// Drops history beyond its limits.
    pub fn trim(&self, now: Instant) {
        self.write().history.trim(now);
    }

    /// The time at which the oldest commit leaves the history.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.read().history.next_expiry()
    }

    /// Ends the streams of all watches.
    pub fn close(&self) {
        watch::lock(&self.hub).close();
    }
}
