//! The steps of a volume's move to another node.

use std::path::PathBuf;

use btrfs_send_stream::Uuid;
use controller_planners::volume_move::{CopyExtent, Detachment, Inspection};
use resource_kinds::storage::Driver;

use crate::directories::Directories;
use crate::error::StorageError as Error;
use crate::pool::Pool;
use crate::storage::Storage;
use crate::volume_move::directories::CopyLocation;
use crate::volume_move::first_copies::{FirstCopy, Snapshots};

/// A volume of this node and the id of its move.
#[derive(Clone, Copy, Debug)]
pub struct MovedVolume<'a> {
    /// The driver that created the volume.
    pub driver: Driver,
    /// The id of the move.
    pub id: &'a str,
    /// Name of the PersistentVolume.
    pub volume: &'a str,
}

/// The steps of a move on this node. Volumes of the class `local` are sent as files, volumes of `local-cow` as streams
/// of snapshots.
impl Storage {
    /// Measures a volume and the free space.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn inspect_move(&self, of: MovedVolume<'_>) -> Result<Inspection, Error> {
        if !self.is_used(of.driver).await? {
            return Ok(Inspection {
                used: None,
                free: self.free_without_pool().await?,
                limit: None,
                has_first_copy: false,
            });
        }
        self.step(of, |directories, pool, id, volume| match pool {
            None => directories.inspect(id, volume),
            Some(pool) => {
                directories.inspect_in_pool(|reserved| pool.free_capacity(reserved), id, volume)
            }
        })
        .await
    }

    /// Renames the directory of the volume, so that no pod can mount it, unless a process uses it.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn detach_volume(&self, of: MovedVolume<'_>) -> Result<Detachment, Error> {
        self.step(of, |directories, _, id, volume| {
            directories.detach(id, volume)
        })
        .await
    }

    /// The detached directory.
    ///
    /// # Errors
    /// The volume is not detached, or a process uses it.
    pub async fn detached_volume(&self, of: MovedVolume<'_>) -> Result<PathBuf, Error> {
        self.step(of, |directories, _, id, volume| {
            directories.detached(id, volume)
        })
        .await
    }

    /// The snapshots that are sent. They are created now, except for an existing first snapshot.
    ///
    /// # Errors
    /// Errors of the disk; the volume is not detached (except for the first snapshot), or the move has ended.
    pub async fn snapshots_of_move(
        &self,
        of: MovedVolume<'_>,
        extent: CopyExtent,
    ) -> Result<Snapshots, Error> {
        self.step(of, move |directories, pool, id, volume| {
            if let Some(pool) = pool
                && extent == CopyExtent::First
            {
                // When all files of the volume have changed, the snapshot alone occupies all these bytes.
                let holds = directories.first_snapshot_holds(id, volume)?;
                pool.ensure_capacity(directories.reserved()?.saturating_add(holds))?;
            }
            directories.snapshots_of_move(id, volume, extent)
        })
        .await
    }

    /// A directory for a copy, with this limit in bytes if the file system supports limits: empty, or with the files of
    /// the first copy.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn begin_arrival(
        &self,
        of: MovedVolume<'_>,
        bytes: u64,
        extent: CopyExtent,
    ) -> Result<CopyLocation, Error> {
        self.step(of, move |directories, pool, id, volume| match pool {
            None => directories.begin_arrival(id, volume, bytes),
            Some(pool) => {
                let ensure_capacity = |reserved| pool.ensure_capacity(reserved);
                directories.begin_stream(ensure_capacity, id, volume, bytes, extent)
            }
        })
        .await
    }

    /// The complete first copy of a move.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn first_copy(&self, of: MovedVolume<'_>) -> Result<Option<FirstCopy>, Error> {
        self.step(of, |directories, _, id, volume| {
            directories.first_copy(id, volume)
        })
        .await
    }

    /// Stores a stream as the first copy, when it is durable; returns the future path of the volume.
    ///
    /// # Errors
    /// Errors of the disk, or the move has ended.
    pub async fn finish_first_copy(
        &self,
        of: MovedVolume<'_>,
        snapshot: Uuid,
    ) -> Result<PathBuf, Error> {
        self.step(of, move |directories, _, id, volume| {
            directories.finish_first_copy(id, volume, snapshot)
        })
        .await
    }

    /// Removes a first copy that no difference belongs to.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn forget_first_copy(&self, of: MovedVolume<'_>) -> Result<(), Error> {
        self.step(of, |directories, _, id, volume| {
            directories.forget_first_copy(id, volume)
        })
        .await
    }

    /// Marks a copy as complete, when it is durable; returns the future path of the volume.
    ///
    /// # Errors
    /// Errors of the disk, or the move has ended.
    pub async fn finish_arrival(&self, of: MovedVolume<'_>, bytes: u64) -> Result<PathBuf, Error> {
        self.step(of, move |directories, pool, id, volume| match pool {
            None => directories.finish_arrival(id, volume),
            Some(_) => directories.finish_stream(id, volume, bytes),
        })
        .await
    }

    /// Renames a complete copy to the name of the volume.
    ///
    /// # Errors
    /// Errors of the disk, or there is no copy.
    pub async fn place_arrival(&self, of: MovedVolume<'_>) -> Result<(), Error> {
        self.ending(of, Directories::install_arrival).await
    }

    /// Removes a detached directory.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn discard_detached(&self, of: MovedVolume<'_>) -> Result<(), Error> {
        self.ending(of, Directories::discard).await
    }

    /// Ends a move: a detached directory gets its name back, a copy is removed.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn abandon_move(&self, of: MovedVolume<'_>) -> Result<(), Error> {
        if !self.is_used(of.driver).await? {
            // The pool does not exist, so there are no remains.
            return Ok(());
        }
        self.ending(of, Directories::abandon).await
    }

    /// Removes the snapshots and incomplete copies of moves that are over.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn sweep_moves(
        &self,
        is_moving: impl Fn(&str, &str) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        if !self.is_used(Driver::LocalCow).await? {
            return Ok(());
        }
        let sweep =
            move |directories: &Directories, _: Option<&Pool>| directories.sweep_moves(is_moving);
        self.on(Driver::LocalCow, sweep).await
    }

    /// A step that removes subvolumes.
    async fn ending(
        &self,
        of: MovedVolume<'_>,
        work: impl FnOnce(&Directories, &str, &str) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        self.step(of, move |directories, pool, id, volume| {
            work(directories, id, volume)?;
            match pool {
                Some(pool) => directories.forget_removed(&pool.root()),
                None => Ok(()),
            }
        })
        .await
    }

    async fn step<T: Send + 'static>(
        &self,
        of: MovedVolume<'_>,
        work: impl FnOnce(&Directories, Option<&Pool>, &str, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (id, volume) = (of.id.to_owned(), of.volume.to_owned());
        self.on(of.driver, move |directories, pool| {
            work(directories, pool, &id, &volume)
        })
        .await
    }
}
