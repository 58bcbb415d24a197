//! The engine on disk: one fjall keyspace, one synced batch per group of transactions.
//!
//! The first byte of a key is its type: `k` for a live key, `l` for a lease, `m` for the revision counter. All types
//! are in one keyspace, so that a journal can be deleted after one flush.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode,
    compaction::Leveled,
    config::{BlockSizePolicy, FilterPolicy, PinningPolicy},
};

use super::{
    apply::Writes,
    directory::Directory,
    journal,
    leases::Leases,
    limits::{
        BLOCK_CACHE_BYTES, DATA_BLOCK_BYTES, L0_TABLES_MAX, MEMTABLE_BYTES_MAX, MEMTABLE_BYTES_MIN,
        OPEN_FILES_MAX, TABLES_PER_MEMTABLE, WORKING_BYTES_MIN,
    },
    record,
};
use crate::{LeaseId, Revision, StoreError, published::LiveKeys};

const KEYSPACE: &str = "store";
const TAG_KEY: u8 = b'k';
const TAG_LEASE: u8 = b'l';
const COUNTERS: &[u8] = b"m/counters";

/// The counters that must never decrease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The revision of the newest commit.
    pub(crate) revision: Revision,
    /// The id of the next lease.
    pub(crate) next_lease: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            revision: Revision(1),
            next_lease: 1,
        }
    }
}

/// The durable storage of a group of transactions.
pub(crate) trait GroupStorage: Send {
    /// Writes everything atomically. Returns when the write survives a power loss.
    ///
    /// *Errors.* After an error the state of this write is unknown. No other write may follow before a
    /// [`reopen`](Self::reopen).
    fn write(&mut self, writes: &Writes, counters: Counters) -> Result<(), StoreError>;

    /// Opens the storage again after a write to a full disk, and returns the durable state.
    ///
    /// *Errors.* `Full` while the disk is still full, and the errors of opening.
    fn reopen(&mut self) -> Result<Loaded, StoreError>;

    /// Free bytes on the disk; the maximum for storage without a disk.
    fn free_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Creates the ballast file, a reserve for a full disk, if there is plenty of space.
    fn keep_ballast(&mut self) {}

    /// Records outside of the engine's data that the revision is durable.
    fn note_durable(&mut self, _revision: Revision) {}
}

/// Storage in memory: the data is lost with the process.
pub(crate) struct Memory;

impl GroupStorage for Memory {
    fn write(&mut self, _: &Writes, _: Counters) -> Result<(), StoreError> {
        Ok(())
    }

    fn reopen(&mut self) -> Result<Loaded, StoreError> {
        Err(StoreError::Closed)
    }
}

/// The state read from disk.
#[derive(Default)]
pub(crate) struct Loaded {
    pub(crate) live: LiveKeys,
    pub(crate) leases: Leases,
    pub(crate) counters: Counters,
}

/// The data directory with its lock and its storage engine.
pub(crate) struct Disk {
    // The order matters: the engine must be closed before the lock is released.
    engine: Option<Engine>,
    directory: Directory,
}

struct Engine {
    keyspace: Keyspace,
    database: Database,
    /// The size above which the write buffer is written to a table.
    memtable_bytes: u64,
    /// The thread that replaces a full write buffer.
    exchange: Option<JoinHandle<Result<bool, fjall::Error>>>,
}

impl Engine {
    /// Writes a full write buffer to a table. A merge rewrites most tables, so a buffer in proportion to the size of
    /// all tables keeps the cost of a write independent of the size of the store.
    ///
    /// The replacement of the buffer frees former buffers, which takes milliseconds, so it has a separate thread.
    ///
    /// The error of the previous replacement.
    fn flush_if_full(&mut self) -> Result<(), fjall::Error> {
        if let Some(ended) = self.exchange.take_if(|thread| thread.is_finished()) {
            ended.join().map_err(|_| fjall::Error::Poisoned)??;
            self.memtable_bytes = memtable_bytes(self.keyspace.disk_space());
        }
        if self.exchange.is_none()
            && self.keyspace.tree.active_memtable().size() > self.memtable_bytes
        {
            let keyspace = self.keyspace.clone();
            let thread = std::thread::Builder::new().name("store-flush".to_owned());
            // If no thread can be started, a later write tries again.
            self.exchange = thread.spawn(move || keyspace.rotate_memtable()).ok();
        }
        Ok(())
    }
}

impl Drop for Engine {
    /// Closes the engine after its last use.
    fn drop(&mut self) {
        if let Some(thread) = self.exchange.take() {
            let _ = thread.join();
        }
    }
}

/// The size of a write buffer for tables of the given total size.
fn memtable_bytes(tables: u64) -> u64 {
    (tables / TABLES_PER_MEMTABLE).clamp(MEMTABLE_BYTES_MIN, MEMTABLE_BYTES_MAX)
}

impl Disk {
    /// Opens the store in `dir` and reads everything.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Loaded), StoreError> {
        let directory = Directory::open(dir, |engine| open_engine(engine).map(drop))?;
        directory.make_room();
        verify(&directory)?;
        let (engine, loaded) = open_and_read(&directory)?;
        directory.keep_ballast();
        let disk = Self {
            engine: Some(engine),
            directory,
        };
        Ok((disk, loaded))
    }
}

fn verify(directory: &Directory) -> Result<(), StoreError> {
    let (engine, tail) = (directory.engine(), directory.torn_tail());
    journal::verify(&engine, &tail, COUNTERS, directory.noted_durable())
}

fn open_and_read(directory: &Directory) -> Result<(Engine, Loaded), StoreError> {
    let engine = directory.engine();
    // The engine panics on some damaged files, because it asserts some of its invariants while reading.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let opened = open_engine(&engine)?;
        let loaded = load(&opened.keyspace)?;
        Ok((opened, loaded))
    }));
    let (opened, loaded) = opened.unwrap_or_else(|_| {
        Err(StoreError::Damaged(format!(
            "files in {} contradict each other",
            engine.display()
        )))
    })?;
    let revision = loaded.counters.revision;
    if let Some(noted) = directory.noted_durable().filter(|noted| *noted > revision) {
        return Err(StoreError::Damaged(format!(
            "the newest revision in {} is {}, but {} was durable before: files are missing \
             or were replaced by older ones",
            engine.display(),
            revision.0,
            noted.0
        )));
    }
    Ok((opened, loaded))
}

impl GroupStorage for Disk {
    fn write(&mut self, writes: &Writes, counters: Counters) -> Result<(), StoreError> {
        let engine = self.engine.as_mut().ok_or(StoreError::Closed)?;
        let keyspace = &engine.keyspace;
        let mut batch = engine
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        for (key, record) in &writes.keys {
            let key = tagged(TAG_KEY, key);
            match record {
                Some(record) => batch.insert(keyspace, key, record.clone()),
                None => batch.remove(keyspace, key),
            }
        }
        for (lease, ttl) in &writes.leases {
            let key = tagged(TAG_LEASE, &lease.0.to_be_bytes());
            match ttl {
                Some(ttl) => {
                    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    batch.insert(keyspace, key, &millis.to_le_bytes()[..]);
                }
                None => batch.remove(keyspace, key),
            }
        }
        let mut encoded = [0; 16];
        encoded[..8].copy_from_slice(&counters.revision.0.to_le_bytes());
        encoded[8..].copy_from_slice(&counters.next_lease.to_le_bytes());
        batch.insert(keyspace, COUNTERS, &encoded[..]);
        let written = batch.commit().and_then(|()| engine.flush_if_full());
        written.map_err(|error| match &error {
            fjall::Error::Io(cause) if is_full(cause) => {
                StoreError::Full(format!("write to the journal: {cause}"))
            }
            // One of the engine's threads has failed before; a full disk is the likely cause.
            fjall::Error::Poisoned if self.free_bytes() < WORKING_BYTES_MIN => {
                StoreError::Full("the engine has stopped".to_owned())
            }
            _ => StoreError::Io(format!("write to the journal: {error}")),
        })
    }

    fn reopen(&mut self) -> Result<Loaded, StoreError> {
        self.directory.make_room();
        if self.free_bytes() < WORKING_BYTES_MIN {
            return Err(StoreError::Full("not a mebibyte is free".to_owned()));
        }
        self.engine = None;
        let directory = &self.directory;
        verify(directory)?;
        journal::write_again(&directory.engine())?;
        let (engine, loaded) = open_and_read(directory)?;
        self.engine = Some(engine);
        Ok(loaded)
    }

    fn free_bytes(&self) -> u64 {
        self.directory.free_bytes()
    }

    fn keep_ballast(&mut self) {
        self.directory.keep_ballast();
    }

    fn note_durable(&mut self, revision: Revision) {
        self.directory.note_durable(revision);
    }
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(rest.len() + 1);
    key.push(tag);
    key.extend_from_slice(rest);
    key
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

fn open_engine(path: &Path) -> Result<Engine, StoreError> {
    let database = Database::builder(path)
        .cache_size(BLOCK_CACHE_BYTES)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .max_journaling_size(64 * 1024 * 1024)
        // With several threads, one of them does not merge: it puts the request back into the queue and takes it again,
        // without a pause, until the other thread has finished the merge before.
        .worker_threads(1)
        .open()
        .map_err(|error| open_error(path, error))?;
    // Tables are only read from start to end when the store opens. Filters and pinned indexes would be useless, and
    // early merges would be wasted work.
    let keyspace = database
        .keyspace(KEYSPACE, || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(MEMTABLE_BYTES_MAX)
                .compaction_strategy(Arc::new(
                    Leveled::default().with_l0_threshold(L0_TABLES_MAX),
                ))
                .data_block_size_policy(BlockSizePolicy::all(DATA_BLOCK_BYTES))
                .filter_policy(FilterPolicy::disabled())
                .index_block_pinning_policy(PinningPolicy::disabled())
                .filter_block_pinning_policy(PinningPolicy::disabled())
        })
        .map_err(|error| open_error(path, error))?;
    let memtable_bytes = memtable_bytes(keyspace.disk_space());
    Ok(Engine {
        keyspace,
        database,
        memtable_bytes,
        exchange: None,
    })
}

fn load(keyspace: &Keyspace) -> Result<Loaded, StoreError> {
    let now = Instant::now();
    let mut loaded = Loaded::default();
    let mut leased = Vec::new();
    for guard in keyspace.iter() {
        let (key, value) = guard
            .into_inner()
            .map_err(|error| open_error(keyspace.path(), error))?;
        let decoded = match key.split_first() {
            Some((&TAG_KEY, key)) => record::decode(key, &value).map(|pair| {
                if let Some(lease) = pair.lease {
                    leased.push((Arc::clone(&pair.key), lease));
                }
                loaded.live.insert(Arc::clone(&pair.key), Arc::new(pair));
            }),
            Some((&TAG_LEASE, id)) => {
                decode_lease(id, &value).map(|(lease, ttl)| loaded.leases.insert(lease, ttl, now))
            }
            _ if *key == *COUNTERS => decode_counters(&value).map(|counters| {
                loaded.counters = counters;
            }),
            _ => None,
        };
        decoded.ok_or_else(|| {
            StoreError::Damaged(format!("entry {} cannot be decoded", key.escape_ascii()))
        })?;
    }
    for (key, lease) in leased {
        if !loaded.leases.contains(lease) {
            let key = key.escape_ascii();
            return Err(StoreError::Damaged(format!("key {key} refers to no lease")));
        }
        loaded.leases.attach(&key, None, Some(lease));
    }
    Ok(loaded)
}

fn decode_lease(id: &[u8], value: &[u8]) -> Option<(LeaseId, Duration)> {
    let id = u64::from_be_bytes(id.try_into().ok()?);
    let (millis, _) = record::split_u64(value)?;
    Some((LeaseId(id), Duration::from_millis(millis)))
}

fn decode_counters(value: &[u8]) -> Option<Counters> {
    let (revision, rest) = record::split_u64(value)?;
    let (next_lease, _) = record::split_u64(rest)?;
    Some(Counters {
        revision: Revision(revision),
        next_lease,
    })
}

/// Converts an error of opening: an unreadable disk differs from damaged data.
fn open_error(path: &Path, error: fjall::Error) -> StoreError {
    let path = path.display();
    let io = match &error {
        fjall::Error::Locked => return StoreError::InUse(path.to_string()),
        fjall::Error::Io(io) | fjall::Error::Storage(fjall::LsmError::Io(io)) => Some(io),
        _ => None,
    };
    match io.map(std::io::Error::kind) {
        None
        | Some(
            std::io::ErrorKind::NotFound
            | std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::InvalidInput,
        ) => StoreError::Damaged(format!("open {path}: {error}")),
        Some(_) => StoreError::Io(format!("open {path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_write_buffer_grows_with_the_tables() {
        assert_eq!(memtable_bytes(0), MEMTABLE_BYTES_MIN);
        let tables = 10 * MEMTABLE_BYTES_MIN * TABLES_PER_MEMTABLE / 5;
        assert_eq!(memtable_bytes(tables), 2 * MEMTABLE_BYTES_MIN);
        assert_eq!(memtable_bytes(u64::MAX), MEMTABLE_BYTES_MAX);
    }

    #[test]
    fn a_full_write_buffer_becomes_a_table() {
        let dir = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(dir.path()).unwrap();
        let mut write = |number: u8| {
            let mut writes = Writes::default();
            let value = Bytes::from(vec![number; 1024 * 1024]);
            writes.keys.insert([number].as_slice().into(), Some(value));
            let counters = Counters {
                revision: Revision(u64::from(number) + 2),
                next_lease: 1,
            };
            disk.write(&writes, counters).unwrap();
            disk.engine.as_ref().unwrap().keyspace.disk_space()
        };
        let buffer = u8::try_from(MEMTABLE_BYTES_MIN / (1024 * 1024)).unwrap();
        for number in 1..buffer {
            assert_eq!(write(number), 0, "the buffer is not full");
        }
        write(buffer);
        let end = Instant::now() + Duration::from_secs(60);
        let tables = || disk.engine.as_ref().unwrap().keyspace.disk_space();
        while tables() == 0 {
            assert!(Instant::now() < end, "no table was made");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
