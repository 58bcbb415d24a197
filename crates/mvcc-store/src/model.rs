//! The data types of a [`Store`](crate::Store)'s interface.

use std::ops;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

/// A point in the store's history. Grows by one per committed transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// The id of a lease. A store never uses an id twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A key with its value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key's bytes.
    pub key: Arc<[u8]>,
    /// The value's bytes; they include the revision of a stamped value.
    pub value: Bytes,
    /// Revision of the write that created the key.
    pub create_revision: Revision,
    /// Revision of the newest write to the key.
    pub mod_revision: Revision,
    /// The lease of the key, if any.
    pub lease: Option<LeaseId>,
    /// The range of the value that its writer has marked as omittable.
    pub omittable: Omittable,
}

/// A range of a value that many readers omit. The writer of the value marks it, so that the readers need not search for
/// it. The store passes the range on and does not use it. It is not stored on disk, so a value that was read from disk
/// has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Omittable {
    start: u32,
    end: u32,
}

impl Omittable {
    /// No known range.
    pub const UNKNOWN: Self = Self { start: 0, end: 0 };

    /// The given range; unknown if it is empty, or extends beyond 4 GiB.
    pub fn at(range: ops::Range<usize>) -> Self {
        let ends = (u32::try_from(range.start), u32::try_from(range.end));
        match ends {
            (Ok(start), Ok(end)) if start < end => Self { start, end },
            _ => Self::UNKNOWN,
        }
    }

    /// The range of the bytes, if it is known.
    pub fn range(self) -> Option<ops::Range<usize>> {
        let range = self.start as usize..self.end as usize;
        (!range.is_empty()).then_some(range)
    }

    /// The range after an edit in front of it, which replaced `before` bytes by `after` bytes.
    pub fn moved(self, before: usize, after: usize) -> Self {
        let moved = |at: usize| (at + after).saturating_sub(before);
        let range = self
            .range()
            .map(|range| moved(range.start)..moved(range.end));
        range.map_or(Self::UNKNOWN, Self::at)
    }
}

/// A value to write, which may contain the revision of the write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The bytes are stored unchanged.
    Plain(Bytes),
    /// The stored value is `before`, then the commit's revision in decimal, then `after`. A document can thus contain
    /// its own revision without a second encoding.
    Stamped {
        /// Bytes in front of the revision.
        before: Bytes,
        /// Bytes after the revision.
        after: Bytes,
        /// The omittable range of `after`.
        omittable: Omittable,
    },
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key's newest write has exactly this revision.
    ModRevision(Vec<u8>, Revision),
    /// The key does not exist.
    Absent(Vec<u8>),
    /// The key exists.
    Exists(Vec<u8>),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates or replaces a key.
    Put {
        key: Vec<u8>,
        value: Value,
        /// Lease to attach, if any.
        lease: Option<LeaseId>,
    },
    /// Removes a key; removing an absent key does nothing.
    Delete { key: Vec<u8> },
}

/// Comparisons and the writes that they guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// Comparisons; if one does not hold, nothing is written.
    pub compare: Vec<Compare>,
    /// The writes, which are applied together. Each key may appear once.
    pub operations: Vec<Operation>,
}

/// The result of one operation of a committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// The key after the write.
    Put(KeyValue),
    /// The key as it was before the deletion, if it existed.
    Delete(Option<KeyValue>),
}

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnResult {
    /// All comparisons held and the writes are durable.
    Committed {
        /// The revision of the writes.
        revision: Revision,
        /// One result per operation, in order.
        results: Vec<OperationResult>,
    },
    /// A comparison failed, so nothing was written. Contains the current state of every compared key, in the order of
    /// the comparisons.
    Refused {
        /// The revision of the comparisons.
        revision: Revision,
        /// The compared keys.
        present: Vec<Option<KeyValue>>,
    },
}

/// A read of a range of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First key of the range.
    pub start: Vec<u8>,
    /// End of the range, exclusive; `None` reads just the key `start`.
    pub end: Option<Vec<u8>>,
    /// The revision at which the range is read; `None` for the newest.
    pub revision: Option<Revision>,
    /// Maximum number of keys; `None` for all.
    pub limit: Option<usize>,
}

/// The keys of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// The revision of the response.
    pub revision: Revision,
    /// The pairs in the order of their keys, at most `limit`.
    pub items: Vec<KeyValue>,
    /// The number of keys in the whole range, regardless of the limit.
    pub count: usize,
}

/// The kind of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The key was created or replaced.
    Put(KeyValue),
    /// The key was removed.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The changed key.
    pub key: Arc<[u8]>,
    /// The revision of the commit.
    pub revision: Revision,
    /// Whether the key was put or deleted.
    pub kind: EventKind,
    /// The key before the change, if it existed.
    pub previous: Option<KeyValue>,
}

/// An item of a watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvents {
    /// The changes of one revision under the prefix, never empty.
    Events(Vec<Event>),
    /// Everything up to this revision has been delivered.
    Progress(Revision),
}

/// The amount of stored data.
#[derive(Clone, Debug, Default)]
pub struct StoreUsage {
    /// Bytes of live keys and values, with their overhead.
    pub live_bytes: u64,
    /// Bytes of recent changes that are kept for watches and reads at older revisions.
    pub history_bytes: u64,
    /// The quota on the live bytes; zero if unknown.
    pub live_bytes_max: u64,
    /// The reason why new keys are refused; `None` if they are accepted.
    pub full: Option<StoreError>,
}

/// A stream of changes. Ends with an error, or when the store closes.
pub type WatchStream = BoxStream<'static, Result<WatchEvents, StoreError>>;

/// The error of a read or write of the store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The requested revision has been compacted.
    #[error("revision {} has been compacted; the oldest kept is {}", .requested.0, .oldest.0)]
    Compacted {
        /// The requested revision.
        requested: Revision,
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The requested revision does not exist yet.
    #[error("revision {} is in the future; the newest is {}", .requested.0, .newest.0)]
    Future {
        /// The requested revision.
        requested: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The watcher was too slow and was cut off.
    #[error("the watcher fell too far behind and was cut off")]
    WatcherTooSlow,
    /// The lease does not exist.
    #[error("lease {0:?} not found")]
    LeaseNotFound(LeaseId),
    /// The request breaks a rule of the interface (for instance, it writes one key twice).
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The request is beyond the limits of the store.
    #[error("request too large for the store: {0}")]
    TooLarge(String),
    /// The store does not respond. Nothing was written.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// The store has other data than this server has read, so the server must be restarted. Nothing was written.
    #[error("the store does not answer: {0}")]
    Replaced(String),
    /// The store did not respond, and it is impossible to find out whether the write was executed.
    #[error("the store did not say whether the write was carried out: {0}")]
    OutcomeUnknown(String),
    /// Another process holds the data directory.
    #[error("data directory {0} is in use by another process")]
    InUse(String),
    /// The data was written by a newer version.
    #[error("data format {stored} is newer than this program understands ({supported})")]
    NewerFormat {
        /// The version on disk.
        stored: String,
        /// The newest version that this program reads.
        supported: String,
    },
    /// The data on disk is damaged beyond a torn tail.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The disk is full. The writes are not visible. If they are on the disk nevertheless, they become visible when the
    /// store resumes.
    #[error("no room on the disk of the store: {0}")]
    Full(String),
    /// The quota is used up. Existing keys can be deleted, and changed if they do not grow.
    #[error("the quota of the store is used up: {stored} bytes of {max}; delete unneeded objects")]
    Quota {
        /// The number of bytes with this write.
        stored: u64,
        /// The quota.
        max: u64,
    },
    /// The disk or the engine failed. The write may or may not be durable.
    #[error("storage failed: {0}")]
    Io(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether there is no space for the write, on the disk or in the quota. The store works, and accepts deletions.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full(_) | Self::Quota { .. })
    }

    /// Whether the store does not respond now, but may respond later without a restart of the server.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
