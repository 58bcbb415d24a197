//! The storage of the record of silent nodes, and its format.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controller_planners::node_lifecycle::silence::{LeaseState, ObservedSilence, SilenceRecord};
use host_kernel::blocking;
use host_kernel::durable_file::{self, Durability};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The version of the format; a record with another version is ignored.
const FORMAT: u32 = 1;

/// A write that takes longer is not awaited, because the disk does not respond.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The storage in which a server keeps the observed silence of nodes for its next run.
#[derive(Clone, Debug)]
pub struct SilenceStorage {
    storage: Arc<Storage>,
    /// The lock of a write; locked until the disk has responded.
    write_lock: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
enum Storage {
    File(PathBuf),
    Memory(Mutex<Option<Vec<u8>>>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRecord {
    format: u32,
    written: Timestamp,
    nodes: BTreeMap<String, StoredSilence>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredSilence {
    lease: String,
    length_millis: i64,
    unchanged_millis: i64,
    signs: Vec<Timestamp>,
    silent_millis: i64,
}

fn millis(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(0)
}

fn encode(record: &SilenceRecord) -> serde_json::Result<Vec<u8>> {
    let stored = |silence: &ObservedSilence| StoredSilence {
        lease: silence.lease.as_str().to_owned(),
        length_millis: millis(silence.length),
        unchanged_millis: millis(silence.unchanged_for),
        signs: silence.signs.clone(),
        silent_millis: millis(silence.silent_for),
    };
    let nodes = record.nodes.iter();
    serde_json::to_vec(&StoredRecord {
        format: FORMAT,
        written: record.written,
        nodes: nodes
            .map(|(name, one)| (name.clone(), stored(one)))
            .collect(),
    })
}

fn decode(bytes: &[u8]) -> Option<SilenceRecord> {
    let stored: StoredRecord = serde_json::from_slice(bytes).ok()?;
    let observed = |stored: StoredSilence| ObservedSilence {
        lease: LeaseState::recorded(stored.lease),
        length: SignedDuration::from_millis(stored.length_millis),
        unchanged_for: SignedDuration::from_millis(stored.unchanged_millis),
        signs: stored.signs,
        silent_for: SignedDuration::from_millis(stored.silent_millis),
    };
    let nodes = stored.nodes.into_iter();
    (stored.format == FORMAT).then(|| SilenceRecord {
        written: stored.written,
        nodes: nodes.map(|(name, one)| (name, observed(one))).collect(),
    })
}

impl Default for SilenceStorage {
    /// The memory of the process, for simulated servers.
    fn default() -> Self {
        Self::of(Storage::Memory(Mutex::default()))
    }
}

impl SilenceStorage {
    /// The name of the file in a data directory.
    pub const FILE: &str = "node-silence.json";

    /// A file in this data directory.
    pub fn in_directory(data: &Path) -> Self {
        Self::of(Storage::File(data.join(Self::FILE)))
    }

    fn of(storage: Storage) -> Self {
        Self {
            storage: Arc::new(storage),
            write_lock: Arc::default(),
        }
    }

    /// The record of the former run, if it is valid at `now`. A file that cannot be read gives no record.
    pub(super) async fn read(&self, now: Timestamp) -> Option<SilenceRecord> {
        let bytes = match self.run(Storage::read).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "the record of silent nodes is not read");
                return None;
            }
        };
        decode(&bytes).filter(|record| record.is_usable(now))
    }

    /// Writes the record, and returns whether the record is on disk. A disk that does not respond delays the caller by
    /// a second, but only once: until the disk responds, further records are skipped.
    pub(super) async fn replace(&self, record: &SilenceRecord) -> bool {
        let Ok(lock) = self.write_lock.clone().try_lock_owned() else {
            return false;
        };
        let bytes = match encode(record) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, "the record of silent nodes is not written");
                return false;
            }
        };
        let write = self.run(move |storage| {
            let written = storage.replace(bytes);
            drop(lock);
            written
        });
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the record of silent nodes is not written");
                false
            }
            Err(_) => {
                tracing::warn!(
                    "the record of silent nodes is not written: the disk does not answer"
                );
                false
            }
        }
    }

    /// Removes the record, because it does not describe the nodes of this store.
    ///
    /// # Errors
    ///
    /// The error of the file system.
    pub async fn clear(&self) -> io::Result<()> {
        self.run(Storage::clear).await
    }

    /// Runs a file operation on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Storage) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let storage = self.storage.clone();
        match *storage {
            Storage::Memory(_) => work(&storage),
            Storage::File(_) => blocking(move || work(&storage)).await,
        }
    }
}

impl Storage {
    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::File(path) => match std::fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                read => read.map(Some),
            },
            Self::Memory(bytes) => Ok(bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    fn clear(&self) -> io::Result<()> {
        match self {
            Self::File(path) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Self::Memory(record) => {
                *record.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Ok(())
            }
        }
    }

    fn replace(&self, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::File(path) => durable_file::replace(path, &bytes, 0o600, Durability::Content),
            Self::Memory(record) => {
                *record.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> SilenceRecord {
        let at = |second| Timestamp::from_second(second).unwrap();
        let silence = ObservedSilence {
            lease: LeaseState::recorded("uid 7 time".to_owned()),
            length: SignedDuration::from_secs(38),
            unchanged_for: SignedDuration::from_millis(20_500),
            signs: vec![at(10), at(20)],
            silent_for: SignedDuration::from_secs(21),
        };
        SilenceRecord {
            written: at(1_000),
            nodes: [("n1".to_owned(), silence)].into(),
        }
    }

    // findings-2 R36
    #[tokio::test]
    async fn a_record_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        for storage in [
            SilenceStorage::default(),
            SilenceStorage::in_directory(directory.path()),
        ] {
            let record = record();
            assert_eq!(storage.read(record.written).await, None);
            assert!(storage.replace(&record).await);
            assert_eq!(storage.read(record.written).await, Some(record.clone()));
            let later = record.written + SignedDuration::from_hours(1);
            assert_eq!(storage.read(later).await, None);
            storage.clear().await.unwrap();
            storage.clear().await.unwrap();
            assert_eq!(storage.read(record.written).await, None);
        }
    }

    // findings-2 R36
    #[tokio::test]
    async fn a_file_that_cannot_be_read_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let storage = SilenceStorage::in_directory(directory.path());
        let file = directory.path().join(SilenceStorage::FILE);
        let whole = String::from_utf8(encode(&record()).unwrap()).unwrap();
        let half = whole.split_at(whole.len() / 2).0;
        let other = whole.replace("\"format\":1", "\"format\":2");
        assert_ne!(other, whole);
        for text in [half, &other, "", "{}"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(storage.read(record().written).await, None, "{text}");
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert_eq!(storage.read(record().written).await, None);
    }

    // findings-2 R36
    #[tokio::test]
    async fn a_disk_that_does_not_answer_holds_nobody_up_twice() {
        let directory = tempfile::tempdir().unwrap();
        let storage = SilenceStorage::in_directory(directory.path());
        // The lock of a write to which the disk has not responded yet.
        let lock = storage.write_lock.clone().try_lock_owned().unwrap();
        assert!(!storage.replace(&record()).await);
        assert_eq!(storage.read(record().written).await, None);
        drop(lock);
        assert!(storage.replace(&record()).await);
    }
}
