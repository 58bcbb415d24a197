//! The volumes of a backup: snapshots of the volumes at one moment, and directories for the volumes of a restore.

use std::path::{Path, PathBuf};

use controller_planners::volume_provisioning::local::VolumeMode;
use host_kernel::blocking;
use resource_kinds::storage::Driver;
use serde::{Deserialize, Serialize};

use crate::directories::{Directories, failed};
use crate::error::StorageError as Error;
use crate::pool::Pool;
use crate::storage::Storage;
use crate::subvolumes::{self, InitialContents};

/// The name prefix of snapshots that exist only for a backup.
const PREFIX: &str = "backup-";

/// The classes of volumes, by the class that creates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Directories of the host's file system.
    Local,
    /// Subvolumes of the pool.
    LocalCow,
}

impl Class {
    /// The name of the StorageClass.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::LocalCow => "local-cow",
        }
    }

    fn driver(self) -> Driver {
        match self {
            Self::Local => Driver::Local,
            Self::LocalCow => Driver::LocalCow,
        }
    }
}

/// A consistent snapshot of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The class of the volume.
    pub class: Class,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The path of the snapshot.
    pub path: PathBuf,
    /// The most that the volume may hold, in bytes.
    pub bytes: u64,
}

/// A snapshot that a user has requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSnapshot {
    /// The class of the volume of the snapshot.
    pub class: Class,
    /// Name of the snapshot.
    pub name: String,
    /// The path of the snapshot's files.
    pub path: PathBuf,
    /// The used bytes, if they are counted.
    pub bytes: Option<u64>,
}

impl Storage {
    /// Creates a snapshot of each volume of the classes that support snapshots, each with the contents that a loss of
    /// power would leave. The snapshots exist until [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// The host's disk has no space for their maximum size.
    pub async fn freeze(&self, classes: &[Class]) -> Result<Vec<Frozen>, Error> {
        self.thaw().await?;
        let mut frozen = Vec::new();
        for &class in classes {
            let Some(listing) = self.listing(class).await? else {
                continue;
            };
            for volume in listing.volumes {
                if volume.starts_with('.') {
                    continue; // being made or removed
                }
                let count = self.count(class.driver(), &volume).await?;
                let snapshot = format!("{PREFIX}{volume}");
                match self.snapshot(class.driver(), &volume, &snapshot).await {
                    // Its file system has no snapshots.
                    Err(Error::NoCopies { .. }) => continue,
                    result => result?,
                }
                frozen.push(Frozen {
                    class,
                    path: listing.snapshots_dir.join(snapshot),
                    bytes: count.and_then(|count| count.limit).unwrap_or(u64::MAX),
                    volume,
                });
            }
        }
        Ok(frozen)
    }

    /// Removes the snapshots of a backup, also of an interrupted one.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub async fn thaw(&self) -> Result<(), Error> {
        for (class, name, _) in self.all_snapshots().await? {
            if name.starts_with(PREFIX) {
                self.remove_snapshot(class.driver(), &name).await?;
            }
        }
        Ok(())
    }

    /// The snapshots that users have requested.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub async fn user_snapshots(&self) -> Result<Vec<UserSnapshot>, Error> {
        let mut user_snapshots = Vec::new();
        for (class, name, path) in self.all_snapshots().await? {
            if name.starts_with(PREFIX) || name.starts_with('.') {
                continue;
            }
            let counted = path.clone();
            let count = blocking(move || {
                let count = subvolumes::count(&counted);
                count.map_err(failed("count what is in", &counted))
            })
            .await?;
            user_snapshots.push(UserSnapshot {
                class,
                name,
                path,
                bytes: count.map(|count| count.referenced),
            });
        }
        Ok(user_snapshots)
    }

    async fn all_snapshots(&self) -> Result<Vec<(Class, String, PathBuf)>, Error> {
        let mut all = Vec::new();
        for class in [Class::LocalCow, Class::Local] {
            let Some(listing) = self.listing(class).await? else {
                continue;
            };
            all.extend(listing.snapshots.into_iter().map(|name| {
                let path = listing.snapshots_dir.join(&name);
                (class, name, path)
            }));
        }
        Ok(all)
    }

    /// The volumes and snapshots of a class; `None` if there are none. A pool is mounted if necessary.
    async fn listing(&self, class: Class) -> Result<Option<Listing>, Error> {
        if !self.is_used(class.driver()).await? {
            return Ok(None);
        }
        let driver = class.driver();
        self.on(driver, |directories, _| Listing::read(directories))
            .await
            .map(Some)
    }

    /// Makes a snapshot of a volume and removes the volume. Says whether its file system can have
    /// snapshots.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub async fn turn_into_snapshot(
        &self,
        class: Class,
        volume: &str,
        snapshot: &str,
    ) -> Result<bool, Error> {
        let created = match self.snapshot(class.driver(), volume, snapshot).await {
            Ok(()) => true,
            Err(Error::NoCopies { .. }) => false,
            Err(error) => return Err(error),
        };
        let volume = volume.to_owned();
        let remove = move |directories: &Directories, _: Option<&Pool>| directories.remove(&volume);
        self.on(class.driver(), remove).await?;
        Ok(created)
    }

    /// Makes an empty volume for the contents of a backup; returns its path.
    ///
    /// # Errors
    /// It cannot be created.
    pub async fn make_empty(
        &self,
        class: Class,
        volume: &str,
        bytes: u64,
    ) -> Result<PathBuf, Error> {
        let mode = VolumeMode::Filesystem;
        self.make(class.driver(), volume, bytes, InitialContents::Empty, mode)
            .await
    }
}

/// The names of a class's volumes and snapshots.
struct Listing {
    volumes: Vec<String>,
    snapshots: Vec<String>,
    snapshots_dir: PathBuf,
}

impl Listing {
    fn read(directories: &Directories) -> Result<Self, Error> {
        let (volumes, snapshots) = directories.roots();
        Ok(Self {
            volumes: names(volumes)?,
            // Only a file system that can have snapshots has the directory.
            snapshots: match snapshots.exists() {
                true => names(snapshots)?,
                false => Vec::new(),
            },
            snapshots_dir: snapshots.to_owned(),
        })
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
    names.sort_unstable();
    Ok(names)
}
