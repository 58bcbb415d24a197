//! The store's directory: its lock and its format version.
//!
//! ```text
//! <dir>/lock           held by flock as long as the store is open
//! <dir>/data/format    version stamp
//! <dir>/data/durable   a revision known to be durable: less than that on disk means loss
//! <dir>/data/engine/   the engine's files
//! <dir>/data/torn-tail bytes cut off a journal at the last start that found a torn one
//! <dir>/ballast         nothing, given up when the disk is full
//! <dir>/data.partial/  the same while being made; renamed when complete, else thrown away
//! ```

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use super::limits::{BALLAST_BYTES, BALLAST_FREE_BYTES_MIN, WORKING_BYTES_MIN};
use crate::{Revision, StoreError};

/// The format that this program writes, which is also the newest format that it reads.
const FORMAT_VERSION: u32 = 1;
const FORMAT_PREFIX: &str = "mainstay-store ";

/// Maximum wait for the lock of a process that is about to exit.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A locked store directory. Dropping it releases the lock.
#[derive(Debug)]
pub(crate) struct Directory {
    data: PathBuf,
    ballast: PathBuf,
    /// The file of the durable revision; `None` before its first write.
    durable: Option<File>,
    lock: File,
}

impl Directory {
    /// Locks the directory, which is created if it does not exist. `create` fills a new, empty engine directory.
    pub(crate) fn open(
        dir: &Path,
        create: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        make_dir(dir)?;
        let lock = lock(dir)?;
        let data = dir.join("data");
        if !data
            .try_exists()
            .map_err(|error| failed("inspect", &data, &error))?
        {
            create_data(dir, &data, create)?;
        }
        check_format(&data)?;
        let ballast = dir.join("ballast");
        Ok(Self {
            data,
            ballast,
            durable: None,
            lock,
        })
    }

    /// The directory of the engine's files.
    pub(crate) fn engine(&self) -> PathBuf {
        self.data.join("engine")
    }

    /// The directory for the last torn tail of a journal.
    pub(crate) fn torn_tail(&self) -> PathBuf {
        self.data.join("torn-tail")
    }

    /// Free bytes on the disk. A file system that does not report them counts as never full.
    pub(crate) fn free_bytes(&self) -> u64 {
        fstatvfs(&self.lock).map_or(u64::MAX, |stat| stat.f_bavail * stat.f_frsize)
    }

    /// Removes the ballast file if the disk is full.
    pub(crate) fn make_room(&self) {
        if self.free_bytes() >= WORKING_BYTES_MIN {
            return;
        }
        match fs::remove_file(&self.ballast) {
            Ok(()) => tracing::warn!("the disk of the store is full: its reserve is used"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the reserve of the store cannot be used"),
        }
    }

    /// Creates the ballast file if it does not exist and the disk has plenty of space.
    pub(crate) fn keep_ballast(&self) {
        let is_there = self.ballast.try_exists().unwrap_or(true);
        if is_there || self.free_bytes() < BALLAST_FREE_BYTES_MIN + BALLAST_BYTES {
            return;
        }
        let laid = File::create(&self.ballast).and_then(|file| {
            fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES)?;
            Ok(())
        });
        if let Err(error) = laid {
            // A file system without preallocation has no ballast.
            tracing::debug!(%error, "no reserve for a full disk");
        }
    }

    /// Records a durable revision before the responses of its group. The record is not synced: it survives the process
    /// at once, and a power loss after some seconds. It has a fixed length and overwrites the previous record, so it
    /// needs no space.
    pub(crate) fn note_durable(&mut self, revision: Revision) {
        let open = || {
            let mut options = File::options();
            let options = options.create(true).truncate(false).write(true);
            options.open(self.data.join("durable"))
        };
        let noted = self.durable.take().map_or_else(open, Ok).and_then(|file| {
            file.write_all_at(format!("{:020}\n", revision.0).as_bytes(), 0)?;
            Ok(file)
        });
        match noted {
            Ok(file) => self.durable = Some(file),
            Err(error) => tracing::warn!(%error, "could not note the durable revision"),
        }
    }

    /// The recorded revision, if any.
    pub(crate) fn noted_durable(&self) -> Option<Revision> {
        let text = fs::read_to_string(self.data.join("durable")).ok()?;
        text.trim().parse().ok().map(Revision)
    }
}

/// Takes the lock. A child of a recently killed process may still hold the lock between `fork` and `exec`, so the call
/// waits up to [`LOCK_PATIENCE`].
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let opened = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = opened.map_err(|error| failed("open", &path, &error))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse(dir.display().to_string()));
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path, &error)),
        }
    }
}

/// Creates the data directory under a temporary name first, so that a crash leaves nothing that looks like a store.
fn create_data(
    dir: &Path,
    data: &Path,
    create: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let partial = dir.join("data.partial");
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &partial, &error));
        }
        _ => {}
    }
    make_dir(&partial)?;
    create(&partial.join("engine"))?;
    let format = partial.join("format");
    File::create_new(&format)
        .and_then(|mut file| {
            file.write_all(format!("{FORMAT_PREFIX}{FORMAT_VERSION}\n").as_bytes())?;
            file.sync_all()
        })
        .map_err(|error| failed("write", &format, &error))?;
    sync_dir(&partial)?;
    fs::rename(&partial, data).map_err(|error| failed("rename", &partial, &error))?;
    sync_dir(dir)
}

fn check_format(data: &Path) -> Result<(), StoreError> {
    let path = data.join("format");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData
            ) =>
        {
            return Err(damaged_format(&path));
        }
        Err(error) => return Err(failed("read", &path, &error)),
    };
    let stored_format = text.trim_end();
    let version = stored_format
        .strip_prefix(FORMAT_PREFIX)
        .and_then(|text| text.parse::<u32>().ok());
    match version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(version) if version > FORMAT_VERSION => Err(StoreError::NewerFormat {
            stored: version.to_string(),
            supported: FORMAT_VERSION.to_string(),
        }),
        _ => Err(damaged_format(&path)),
    }
}

fn damaged_format(path: &Path) -> StoreError {
    StoreError::Damaged(format!(
        "version stamp {} is missing or unreadable",
        path.display()
    ))
}

/// Creates a directory without access for other users, because objects include secrets.
fn make_dir(path: &Path) -> Result<(), StoreError> {
    let result = DirBuilder::new().recursive(true).mode(0o700).create(path);
    result.map_err(|error| failed("create", path, &error))
}

fn sync_dir(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| failed("sync", path, &error))
}

fn failed(action: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io(format!("{action} {}: {error}", path.display()))
}
