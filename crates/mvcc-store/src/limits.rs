//! The limits of every [`Store`](crate::Store), regardless of its engine.

use std::{collections::BTreeSet, time::Duration};

use crate::{Compare, Operation, StoreError, Txn, Value};

/// Longest key. The embedded engine's journal stores key lengths in 16 bits; keys of the API are far shorter.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// Maximum number of operations in one transaction: etcd's `--max-txn-ops` (128), of which the engine over etcd needs
/// one for itself.
pub const OPERATIONS_PER_TXN_MAX: usize = 127;

/// Maximum number of comparisons in one transaction. The engine over etcd may need two for each, and two for itself.
pub const COMPARISONS_PER_TXN_MAX: usize = 63;

/// Bytes of keys and values in one transaction that every engine accepts: etcd's
/// `--max-request-bytes` (1.5 MiB) without the space for the frame of the message.
pub const TXN_BYTES_MAX: usize = 1_500_000;

/// Longest time to live of a lease. It keeps deadlines far from the end of the clock.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(400 * 86_400);

/// Checks the rules that depend neither on the state nor on the engine: the length of keys, the number of operations,
/// and that each key is written once.
///
/// *Errors.* `TooLarge` or `Invalid`.
pub fn check(txn: &Txn) -> Result<(), StoreError> {
    if txn.operations.len() > OPERATIONS_PER_TXN_MAX || txn.compare.len() > COMPARISONS_PER_TXN_MAX
    {
        return Err(StoreError::TooLarge(format!(
            "a transaction may have at most {OPERATIONS_PER_TXN_MAX} operations and \
             {COMPARISONS_PER_TXN_MAX} comparisons"
        )));
    }
    let mut written = BTreeSet::new();
    for operation in &txn.operations {
        let (Operation::Put { key, .. } | Operation::Delete { key }) = operation;
        check_key(key)?;
        if !written.insert(key) {
            return Err(StoreError::Invalid(format!(
                "key {} appears twice in one transaction",
                key.escape_ascii()
            )));
        }
    }
    txn.compare
        .iter()
        .try_for_each(|compare| check_key(compare.key()))
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    match key.len() {
        0 => Err(StoreError::Invalid("a key must not be empty".to_owned())),
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(StoreError::TooLarge(format!(
            "a key of {len} bytes is longer than the limit of {KEY_BYTES_MAX}"
        ))),
    }
}

/// Checks the time to live of a new lease.
///
/// *Errors.* `Invalid`.
pub fn check_lease(ttl: Duration) -> Result<(), StoreError> {
    if ttl.is_zero() || ttl > LEASE_TTL_MAX {
        return Err(StoreError::Invalid(format!(
            "a lease's time to live must be above zero and at most {} days",
            LEASE_TTL_MAX.as_secs() / 86_400
        )));
    }
    Ok(())
}

impl Value {
    /// The length without the revision of a stamped value.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.len(),
            Self::Stamped { before, after, .. } => before.len() + after.len(),
        }
    }

    /// Whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Compare {
    /// The key whose state is compared.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::ModRevision(key, _) | Self::Absent(key) | Self::Exists(key) => key,
        }
    }
}

/// Bounds that the owner of a store may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for which history is kept for watches and for reads at older revisions.
    pub history_window: Duration,
    /// Maximum memory of the history, regardless of its age.
    pub history_bytes_max: usize,
    /// Maximum number of commits in the buffer of one watcher. Above it, the buffer is dropped and the watcher reads
    /// from the history; it is cut off if the history no longer has the commits.
    pub watcher_commits_max: usize,
    /// Maximum number of bytes in the buffer of one watcher; the same rule applies above it.
    pub watcher_bytes_max: usize,
    /// Maximum number of bytes of live keys and values (all in memory); above it no new keys are
    /// stored.
    pub live_bytes_max: u64,
    /// Maximum time from a commit to a progress mark for watchers of other prefixes.
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
