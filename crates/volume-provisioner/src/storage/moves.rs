//! The steps of a volume's move to another node.

use std::path::PathBuf;

use planners::volume_move::{Detachment, Inspection};

use super::{Storage, blocking};
use crate::ProvisionerError as Error;
use crate::directories::Directories;
use crate::moves::Arrival;

/// The steps of a move on this node. Volumes of the class `local` only.
impl Storage {
    /// Measures a volume and the free space.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn inspect_move(&self, id: &str, volume: &str) -> Result<Inspection, Error> {
        self.step(id, volume, Directories::inspect).await
    }

    /// Takes the volume's name from its directory, unless a process uses it.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn detach_volume(&self, id: &str, volume: &str) -> Result<Detachment, Error> {
        self.step(id, volume, Directories::detach).await
    }

    /// The detached directory.
    ///
    /// # Errors
    /// It is not detached, or a process uses it.
    pub async fn detached_volume(&self, id: &str, volume: &str) -> Result<PathBuf, Error> {
        self.step(id, volume, Directories::detached).await
    }

    /// An empty directory for a copy, with a limit of so many bytes where volumes have limits.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn begin_arrival(
        &self,
        id: &str,
        volume: &str,
        bytes: u64,
    ) -> Result<Arrival, Error> {
        let begin = move |directories: &Directories, id: &str, volume: &str| {
            directories.begin_arrival(id, volume, bytes)
        };
        self.step(id, volume, begin).await
    }

    /// Marks a copy as complete, when it is on disk; the path that the volume will have.
    ///
    /// # Errors
    /// Of the disk, or the move has ended.
    pub async fn finish_arrival(&self, id: &str, volume: &str) -> Result<PathBuf, Error> {
        self.step(id, volume, Directories::finish_arrival).await
    }

    /// Gives a complete copy the name of the volume.
    ///
    /// # Errors
    /// Of the disk, or there is no copy.
    pub async fn place_arrival(&self, id: &str, volume: &str) -> Result<(), Error> {
        self.step(id, volume, Directories::place).await
    }

    /// Removes a detached directory.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn discard_detached(&self, id: &str, volume: &str) -> Result<(), Error> {
        self.step(id, volume, Directories::discard).await
    }

    /// Ends a move: a detached directory gets its name back, a copy is removed.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn abandon_move(&self, id: &str, volume: &str) -> Result<(), Error> {
        self.step(id, volume, Directories::abandon).await
    }

    async fn step<T: Send + 'static>(
        &self,
        id: &str,
        volume: &str,
        work: impl FnOnce(&Directories, &str, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (local, id, volume) = (self.local.clone(), id.to_owned(), volume.to_owned());
        blocking(move || work(&local, &id, &volume)).await
    }
}
