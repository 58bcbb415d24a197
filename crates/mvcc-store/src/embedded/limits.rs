//! Bounds of the embedded engine. The behaviour at each bound is documented where it is applied.

use std::time::Duration;

/// Longest value. The limit serves objects that were stored when the limit on requests was higher; API servers refuse
/// request bodies far below it.
pub(crate) const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Maximum number of requests in the queue of the commit thread. Further callers wait.
pub(crate) const QUEUED_REQUESTS_MAX: usize = 4096;

/// Maximum number of requests per sync of the disk. Beyond some hundreds, the sync is a small part of the time, and a
/// larger group only delays its first request.
pub(crate) const REQUESTS_PER_GROUP_MAX: usize = 512;

/// The number of writers from which a group waits for all of them. Measured with two processors: with 16 writers, the
/// creation of a pod takes a tenth less processor time; 4 writers would make a tenth fewer requests.
pub(crate) const MANY_WRITERS: usize = 8;

/// Longest wait of the first request of a group for further requests.
pub(crate) const GATHERING_TIME_MAX: Duration = Duration::from_millis(2);

/// Longest wait for the next request of a group. Writers that have stopped delay one group by this time.
pub(crate) const GATHERING_PAUSE_MAX: Duration = Duration::from_micros(300);

/// Size of the ballast file, which is removed when the disk is full. Its space serves a start and deletions.
pub(crate) const BALLAST_BYTES: u64 = 16 * 1024 * 1024;

/// Free bytes that must remain after the creation of the ballast.
pub(crate) const BALLAST_FREE_BYTES_MIN: u64 = 2 * FREE_BYTES_MIN;

/// Free bytes below which the ballast is removed. Without ballast the store waits for space.
pub(crate) const WORKING_BYTES_MIN: u64 = 1024 * 1024;

/// Interval between two checks of the free disk space while nothing is written.
pub(crate) const SPACE_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Free bytes on the disk below which no new keys are stored. The rest lasts for hours of changes and deletions, and
/// for the compactions of the engine.
pub(crate) const FREE_BYTES_MIN: u64 = 32 * 1024 * 1024;

/// Interval between two checks of a full disk.
pub(crate) const FULL_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Size of a full write buffer in a small store. It is small because every live object is in memory anyway. At a few
/// writes per second, it is full after an hour.
pub(crate) const MEMTABLE_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// Size of a full write buffer in a large store.
pub(crate) const MEMTABLE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Ratio of the size of all tables to the size of a write buffer, between these two limits.
pub(crate) const TABLES_PER_MEMTABLE: u64 = 8;

/// Size of the engine's data blocks. Tables are only read in sequence.
pub(crate) const DATA_BLOCK_BYTES: u32 = 32 * 1024;

/// Number of flushed tables at which the engine merges them. At 20 tables the engine slows writers down.
pub(crate) const L0_TABLES_MAX: u8 = 8;

/// The engine's block cache. Blocks are read once, when the store opens.
pub(crate) const BLOCK_CACHE_BYTES: u64 = 256 * 1024;

/// Table files the engine keeps open.
pub(crate) const OPEN_FILES_MAX: usize = 64;
