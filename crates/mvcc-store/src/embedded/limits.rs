//! Bounds of the embedded engine. What happens at each bound is said where it is applied.

use std::time::Duration;

/// Longest key. The engine's journal stores key lengths in 16 bits; API keys are far shorter.
pub(crate) const KEY_BYTES_MAX: usize = 16 * 1024;

/// Longest value. API servers refuse request bodies long before this.
pub(crate) const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most operations or comparisons in one transaction.
pub(crate) const OPERATIONS_PER_TXN_MAX: usize = 4096;

/// Requests that may wait for the commit thread; more callers wait for room.
pub(crate) const QUEUED_REQUESTS_MAX: usize = 4096;

/// Requests that share one sync of the disk. Past some hundreds the sync no longer dominates,
/// and a larger group only makes its first member wait longer.
pub(crate) const REQUESTS_PER_GROUP_MAX: usize = 512;

/// What a change costs in the history besides the bytes of keys and former values.
pub(crate) const COMMIT_OVERHEAD_BYTES: usize = 256;

/// What a live pair takes in memory besides the bytes of its key and value, roughly.
pub(crate) const PAIR_OVERHEAD_BYTES: u64 = 256;

/// A file of nothing beside the data, given up when the disk is full: a start needs some room, and
/// so do deletions.
pub(crate) const BALLAST_BYTES: u64 = 16 * 1024 * 1024;

/// The ballast is laid when so much would be free besides it.
pub(crate) const BALLAST_FREE_BYTES_MIN: u64 = 2 * FREE_BYTES_MIN;

/// With less than this the ballast goes, and without it the store waits for room.
pub(crate) const WORKING_BYTES_MIN: u64 = 1024 * 1024;

/// How often the store looks how much is free on its disk when nothing is written.
pub(crate) const ROOM_LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Free bytes on the disk below which nothing new is stored. What is left is for changes and
/// deletions: it lasts for hours of them, and for the engine to put its files in order.
pub(crate) const FREE_BYTES_MIN: u64 = 32 * 1024 * 1024;

/// How often a store that found no room on its disk looks whether there is some.
pub(crate) const FULL_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Size of the engine's write buffer before it goes to a table. Small, as every live object is
/// in memory anyway; at a few writes per second it takes an hour to fill.
pub(crate) const MEMTABLE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Size of the engine's data blocks; tables are only ever read in sequence.
pub(crate) const DATA_BLOCK_BYTES: u32 = 32 * 1024;

/// Flushed tables that pile up before the engine merges them. It slows writers down at 20.
pub(crate) const L0_TABLES_MAX: u8 = 8;

/// The engine's block cache. Blocks are read once, when the store opens.
pub(crate) const BLOCK_CACHE_BYTES: u64 = 256 * 1024;

/// Table files the engine keeps open.
pub(crate) const OPEN_FILES_MAX: usize = 64;

/// Longest time to live of a lease; keeps deadlines far from the end of the clock.
pub(crate) const LEASE_TTL_MAX: Duration = Duration::from_secs(400 * 86_400);

/// Bounds that the owner of a store may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long history is kept for watches and reads at older revisions.
    pub history_window: Duration,
    /// Memory that the history may hold on to, whatever its age.
    pub history_bytes_max: usize,
    /// Commits that may wait for one watcher before it is cut off.
    pub watcher_commits_max: usize,
    /// Bytes that may wait for one watcher before it is cut off.
    pub watcher_bytes_max: usize,
    /// Bytes of live keys and values, all of which are in memory, beyond which nothing new is
    /// stored.
    pub live_bytes_max: u64,
    /// Longest time from a commit to a progress mark for watchers that it did not concern.
    pub progress_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            history_window: Duration::from_secs(300),
            history_bytes_max: 16 * 1024 * 1024,
            watcher_commits_max: 8192,
            watcher_bytes_max: 8 * 1024 * 1024,
            live_bytes_max: 1 << 30,
            progress_interval: Duration::from_secs(5),
        }
    }
}
