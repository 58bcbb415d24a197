//! What a backup needs of the volumes: how the pool's are at one moment, and a place for them
//! elsewhere.

use std::path::{Path, PathBuf};

use resource_kinds::storage::Driver;

use super::super::ProvisionerError as Error;
use super::super::decide::Form;
use super::super::directories::failed;
use super::super::subvolumes::Content;
use super::Storage;

/// What the names of the snapshots begin with that are only there for a backup.
const PREFIX: &str = "backup-";

/// The kinds of volumes, by the class that makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Directories of the host's file system.
    Local,
    /// Subvolumes of the pool.
    LocalCow,
}

impl Class {
    fn driver(self) -> Driver {
        match self {
            Self::Local => Driver::Local,
            Self::LocalCow => Driver::LocalCow,
        }
    }
}

/// A volume of the pool as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The volume's name.
    pub volume: String,
    /// Where the snapshot is.
    pub path: PathBuf,
    /// The most that the volume may hold, in bytes.
    pub bytes: u64,
}

impl Storage {
    /// Makes a snapshot of each volume of the pool, each as after a loss of power, until they are
    /// [let go](Self::thaw).
    ///
    /// # Errors
    /// When the host's disk has no room for what they may come to hold.
    pub async fn freeze(&self) -> Result<Vec<Frozen>, Error> {
        self.thaw().await?;
        if !self.is_used(Driver::LocalCow) {
            return Ok(Vec::new());
        }
        let root = self.pool.pool.root();
        // Mounts the pool where it is not.
        self.on(Driver::LocalCow, |_, _| Ok(())).await?;
        let mut frozen = Vec::new();
        for volume in names(&root.join("volumes"))? {
            if volume.starts_with('.') {
                continue; // being made or removed
            }
            let count = self.count(Driver::LocalCow, &volume).await?;
            let snapshot = format!("{PREFIX}{volume}");
            self.snapshot(Driver::LocalCow, &volume, &snapshot).await?;
            frozen.push(Frozen {
                path: root.join("snapshots").join(snapshot),
                bytes: count.and_then(|count| count.limit).unwrap_or(u64::MAX),
                volume,
            });
        }
        Ok(frozen)
    }

    /// Removes the snapshots of a backup, also of one that was cut off.
    ///
    /// # Errors
    /// Of the kernel.
    pub async fn thaw(&self) -> Result<(), Error> {
        if !self.is_used(Driver::LocalCow) {
            return Ok(());
        }
        self.on(Driver::LocalCow, |_, _| Ok(())).await?;
        for snapshot in names(&self.pool.pool.root().join("snapshots"))? {
            if snapshot.starts_with(PREFIX) {
                self.remove_snapshot(Driver::LocalCow, &snapshot).await?;
            }
        }
        Ok(())
    }

    /// Makes an empty volume to be filled from a backup, and says where it is.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn make_empty(
        &self,
        class: Class,
        volume: &str,
        bytes: u64,
    ) -> Result<PathBuf, Error> {
        let form = Form::Directory;
        self.make(class.driver(), volume, bytes, Content::Empty, form)
            .await
    }
}

/// The names in a directory, in their order.
fn names(directory: &Path) -> Result<Vec<String>, Error> {
    let entries = std::fs::read_dir(directory).map_err(failed("read", directory))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", directory))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
