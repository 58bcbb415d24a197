//! The store's directory: blobs, layers, records, locks. Everything here blocks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::compression;
use crate::digest::{Digest, Hashing};
use crate::error::StoreError;
use crate::image::Image;
use crate::limits::{DOCUMENT_BYTES_MAX, UnpackLimits};
use crate::manifest;
use crate::unpack::{self, UnpackError};

const VERSION: &str = "1";

/// Which image a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub reference: String,
    /// Digest of the configuration.
    pub id: Digest,
    /// Digest of the manifest, when there is one.
    pub manifest: Option<Digest>,
    /// `repository@digest` it may also be asked for by.
    pub digests: Vec<String>,
    /// Digests of the unpacked layers, topmost last.
    pub layers: Vec<Digest>,
    pub size: u64,
}

/// Why a layer was not added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error(transparent)]
    Unpack(UnpackError),
    #[error("layer has digest {found}, expected {expected}")]
    Mismatch { expected: Digest, found: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    limits: UnpackLimits,
}

/// Something under `tmp`, removed unless it was moved away.
#[derive(Debug)]
pub(crate) struct Temporary(PathBuf);

impl Temporary {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Whatever stays is removed when the store is opened next.
        if fs::remove_file(&self.0).is_err() {
            fs::remove_dir_all(&self.0).ok();
        }
    }
}

impl Disk {
    pub fn open(dir: &Path, limits: UnpackLimits) -> Result<Disk, StoreError> {
        let disk = Disk {
            dir: dir.to_owned(),
            limits,
        };
        for sub in ["blobs/sha256", "layers", "images", "tmp"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(StoreError::io("make", path))?;
        }
        disk.check_version()?;
        // Nobody else is at work: what is unfinished stays so.
        if let Some(_lock) = disk.try_lock_exclusive()? {
            let tmp = dir.join("tmp");
            for entry in fs::read_dir(&tmp)
                .map_err(StoreError::io("list", &tmp))?
                .flatten()
            {
                drop(Temporary(entry.path()));
            }
        }
        Ok(disk)
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let path = self.dir.join("version");
        match fs::read_to_string(&path) {
            Ok(found) if found.trim() == VERSION => Ok(()),
            Ok(found) => {
                let found = found.trim().to_owned();
                Err(StoreError::Version {
                    path: self.dir.clone(),
                    found,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write(&path, VERSION.as_bytes())
            }
            Err(error) => Err(StoreError::io("read", path)(error)),
        }
    }

    /// Held by whoever adds; waits for a removal in progress.
    pub fn lock_shared(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        let file = self.lock_file(&path)?;
        file.lock_shared().map_err(StoreError::io("lock", path))?;
        Ok(file)
    }

    /// Held by whoever removes; `None` while somebody adds.
    pub fn try_lock_exclusive(&self) -> Result<Option<File>, StoreError> {
        let path = self.dir.join("lock");
        let file = self.lock_file(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
        }
    }

    fn lock_file(&self, path: &Path) -> Result<File, StoreError> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        options.open(path).map_err(StoreError::io("open", path))
    }

    /// A name nobody else has.
    pub fn temporary(&self) -> Temporary {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Temporary(
            self.dir
                .join("tmp")
                .join(format!("{}-{number}", std::process::id())),
        )
    }

    /// Writes a small file so that it is there completely or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temporary = self.temporary();
        let failed = || StoreError::io("write", path);
        let mut file = File::create(temporary.path()).map_err(failed())?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(failed())?;
        self.move_in(&temporary, path)
    }

    fn move_in(&self, temporary: &Temporary, path: &Path) -> Result<(), StoreError> {
        fs::rename(temporary.path(), path).map_err(StoreError::io("write", path))?;
        match path.parent() {
            Some(parent) => File::open(parent)
                .and_then(|dir| dir.sync_all())
                .map_err(StoreError::io("sync", parent)),
            None => Ok(()),
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Keeps a manifest or configuration.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let path = self.blob_path(&digest);
        if !path.exists() {
            self.write(&path, bytes)?;
        }
        Ok(digest)
    }

    /// Reads a manifest or configuration; one that was damaged on disk is not there.
    pub fn read_blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        let file = File::open(self.blob_path(digest)).ok()?;
        let mut bytes = Vec::new();
        file.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    /// The unpacked layer: overlayfs' lower directory.
    pub fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.layer_path(diff_id).join("fs")
    }

    /// Bytes of a layer that is there.
    pub fn layer_bytes(&self, diff_id: &Digest) -> Option<u64> {
        fs::read_to_string(self.layer_path(diff_id).join("bytes"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Unpacks a layer, compressed or not; gives its bytes.
    pub fn add_layer(&self, diff_id: &Digest, archive: impl Read) -> Result<u64, LayerError> {
        if let Some(bytes) = self.layer_bytes(diff_id) {
            return Ok(bytes);
        }
        let read = |error| LayerError::Unpack(UnpackError::Read(error));
        let mut hashing = Hashing::new(compression::decompressed(archive).map_err(read)?);
        let limits = self.limits;
        self.fill_layer(diff_id, |dir| {
            let bytes = unpack::unpack(&mut hashing, dir, limits).map_err(LayerError::Unpack)?;
            let found = hashing.finish();
            match found == *diff_id {
                true => Ok(bytes),
                false => Err(LayerError::Mismatch {
                    expected: diff_id.clone(),
                    found,
                }),
            }
        })
    }

    /// Lets `fill` make a layer's contents, then puts it in its place.
    pub fn fill_layer(
        &self,
        diff_id: &Digest,
        fill: impl FnOnce(&Path) -> Result<u64, LayerError>,
    ) -> Result<u64, LayerError> {
        let path = self.layer_path(diff_id);
        let temporary = self.temporary();
        let contents = temporary.path().join("fs");
        fs::create_dir_all(&contents).map_err(StoreError::io("make", &contents))?;
        let bytes = fill(&contents)?;
        let note = temporary.path().join("bytes");
        fs::write(&note, bytes.to_string()).map_err(StoreError::io("write", &note))?;
        // Thousands of files: one sync of the file system instead of one of each.
        let dir = File::open(temporary.path()).map_err(StoreError::io("open", &path))?;
        rustix::fs::syncfs(&dir).map_err(|errno| StoreError::io("sync", &path)(errno.into()))?;
        match self.move_in(&temporary, &path) {
            // Another process was faster with the same layer.
            Err(_) if self.layer_bytes(diff_id).is_some() => Ok(bytes),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(bytes),
        }
    }

    fn record_path(&self, reference: &str) -> PathBuf {
        let name = Digest::of(reference.as_bytes());
        self.dir.join("images").join(format!("{}.json", name.hex()))
    }

    pub fn write_record(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.record_path(&record.reference);
        let text = serde_json::to_vec(record)
            .map_err(|error| StoreError::io("write", &path)(error.into()))?;
        self.write(&path, &text)
    }

    pub fn read_record(&self, reference: &str) -> Option<Record> {
        let bytes = fs::read(self.record_path(reference)).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        (record.reference == reference).then_some(record)
    }

    /// Removes a record; tells whether there was one.
    pub fn remove_record(&self, reference: &str) -> Result<bool, StoreError> {
        let path = self.record_path(reference);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("remove", path)(error)),
        }
    }

    /// All records in order of their references; unreadable ones are left out.
    pub fn records(&self) -> Vec<Record> {
        let Ok(entries) = fs::read_dir(self.dir.join("images")) else {
            return Vec::new();
        };
        let mut records: Vec<Record> = entries
            .flatten()
            .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
            .collect();
        records.sort_by(|a, b| a.reference.cmp(&b.reference));
        records
    }

    /// The image of a record, if everything of it is there.
    pub fn image(&self, record: &Record) -> Option<Image> {
        let bytes = self.read_blob(&record.id)?;
        let configuration = manifest::parse_configuration(&bytes, record.layers.len()).ok()?;
        let complete = record
            .layers
            .iter()
            .all(|layer| self.layer_bytes(layer).is_some());
        complete.then(|| Image {
            id: record.id.to_string(),
            reference: record.reference.clone(),
            digests: record.digests.clone(),
            config: configuration.run_config(),
            layers: record
                .layers
                .iter()
                .map(|layer| self.layer_dir(layer))
                .collect(),
            size: record.size,
        })
    }

    /// Names of the layers and blobs on disk.
    pub fn contents(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let list = |sub: &str| {
            let entries = fs::read_dir(self.dir.join(sub))
                .into_iter()
                .flatten()
                .flatten();
            let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
            paths.sort();
            paths
        };
        (list("layers"), list("blobs/sha256"))
    }

    /// Takes a layer out of sight; its files go when the result is dropped.
    pub fn take_away(&self, path: &Path) -> Result<Temporary, StoreError> {
        let temporary = self.temporary();
        fs::rename(path, temporary.path()).map_err(StoreError::io("remove", path))?;
        Ok(temporary)
    }
}
