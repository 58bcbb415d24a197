//! Scratch directories for data that is being unpacked, and is not yet part of the store.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

use crate::store::{ImageStore, StoreError, io_error};

/// Distinguishes the concurrent scratch directories of this process.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A directory of this process in the store, which is removed when the value is dropped. Its lock marks the
/// directory as in use. A process id cannot be the mark: after a restart in a container, the next process
/// has an equal id.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.path) {
            // The content may have been moved to the store.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "scratch directory stays behind");
            }
            _ => {}
        }
    }
}

impl ImageStore {
    /// Creates a scratch directory of this process, on the file system of the store.
    pub(crate) fn scratch(&self) -> Result<Scratch, StoreError> {
        let temporary = self.directory().join("temporary");
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = temporary.join(format!("{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {}
                // A former process with this id has left the directory.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(io_error("make", &path)(error)),
            }
            // Another process that opens the store may remove the directory before it is locked.
            if let Some(lock) = lock_directory(&path).map_err(io_error("lock", &path))?
                && path.is_dir()
            {
                return Ok(Scratch { path, _lock: lock });
            }
        }
    }

    /// Removes scratch directories of exited processes, which are not locked.
    pub(crate) fn clear_abandoned(&self) -> Result<(), StoreError> {
        let temporary = self.directory().join("temporary");
        for entry in fs::read_dir(&temporary).map_err(io_error("read", &temporary))? {
            let path = entry.map_err(io_error("read", &temporary))?.path();
            let lock = lock_directory(&path).map_err(io_error("lock", &path))?;
            if lock.is_none() {
                cov_mark::hit!(findings_a14);
                continue;
            }
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Locks a directory for this process; `None` if another process has the lock, or if the directory does not
/// exist.
fn lock_directory(path: &Path) -> io::Result<Option<File>> {
    let directory = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(directory)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{config, layer};

    /// findings A14
    #[test]
    fn leftovers_of_a_process_with_the_same_id_go_and_what_is_in_use_stays() {
        cov_mark::check!(findings_a14);
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let temporary = directory.path().join("temporary");
        let used = store.scratch().unwrap();
        let next = COUNTER.load(Ordering::Relaxed);
        for number in next..next + 3 {
            let leftover = temporary.join(format!("{}-{number}", std::process::id()));
            fs::create_dir(&leftover).unwrap();
            fs::write(leftover.join("blob"), "half").unwrap();
        }
        // The remains are harmless, and are removed when the store is opened the next time.
        store
            .put_builtin("a", &layer("one"), &config(), "f")
            .unwrap();
        ImageStore::open(directory.path()).unwrap();
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 1);
        assert!(used.path().is_dir());
    }
}
