//! The steps of a volume with a replica on another node.

use std::collections::BTreeSet;

use btrfs_send_stream::Uuid;
use controller_planners::volume_replication::{CommonSnapshot, Role, VolumeCopies};
use resource_kinds::storage::Driver;

use crate::directories::Directories;
use crate::error::StorageError as Error;
use crate::pool::Pool;
use crate::storage::Storage;
use crate::volume_move::directories::CopyLocation;
use crate::volume_move::first_copies::{FirstCopy, Snapshots};

/// A volume with a replica, in an epoch.
#[derive(Clone, Debug)]
pub struct ReplicatedVolume {
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The epoch of the step.
    pub epoch: u32,
}

/// A copy of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOf {
    /// Its name: the time of its snapshot, in milliseconds since 1970.
    pub time: i64,
    /// The copy that is the base of the difference.
    pub base: Option<i64>,
}

impl Storage {
    /// The snapshots and copies of a volume on this node.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn holdings(&self, of: &ReplicatedVolume) -> Result<VolumeCopies, Error> {
        if !self.is_used(Driver::LocalCow).await? {
            return Ok(VolumeCopies::default());
        }
        self.replica_step(of, |directories, _, of| directories.holdings(&of.volume))
            .await
    }

    /// The snapshots that are sent. The snapshot with this time is created now, unless it exists.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over, or the node is not the primary.
    pub async fn snapshot_to_send(
        &self,
        of: &ReplicatedVolume,
        copy: CopyOf,
    ) -> Result<Snapshots, Error> {
        self.replica_step(of, move |directories, pool, of| {
            let holds = directories.snapshot_to_send_holds(&of.volume, copy.time)?;
            pool.ensure_capacity(directories.reserved()?.saturating_add(holds))?;
            directories.snapshot_to_send(&of.volume, of.epoch, copy.time, copy.base)
        })
        .await
    }

    /// A directory for a copy of a volume of this size.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over, or the node is not the replica.
    pub async fn begin_copy(
        &self,
        of: &ReplicatedVolume,
        copy: CopyOf,
        bytes: u64,
    ) -> Result<CopyLocation, Error> {
        self.replica_step(of, move |directories, pool, of| {
            let ensure_capacity = |reserved| pool.ensure_capacity(reserved);
            let CopyOf { time, base } = copy;
            directories.begin_copy(ensure_capacity, &of.volume, of.epoch, time, base, bytes)
        })
        .await
    }

    /// The complete copy of a time.
    ///
    /// # Errors
    /// Errors of the disk.
    pub async fn copy_of(
        &self,
        of: &ReplicatedVolume,
        time: i64,
    ) -> Result<Option<FirstCopy>, Error> {
        self.replica_step(of, move |directories, _, of| {
            directories.copy(&of.volume, time)
        })
        .await
    }

    /// Stores a stream as the copy with this time, when it is durable.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over.
    pub async fn finish_copy(
        &self,
        of: &ReplicatedVolume,
        time: i64,
        snapshot: Uuid,
    ) -> Result<(), Error> {
        self.replica_step(of, move |directories, _, of| {
            directories.finish_copy(&of.volume, of.epoch, time, snapshot)
        })
        .await
    }

    /// Removes a copy that no difference belongs to.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over.
    pub async fn forget_copy(&self, of: &ReplicatedVolume, time: i64) -> Result<(), Error> {
        self.replica_step(of, move |directories, _, of| {
            directories.forget_copy(&of.volume, of.epoch, time)
        })
        .await
    }

    /// Removes other snapshots of the primary, or other copies, than these.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over, or the node has another role.
    pub async fn keep_copies(
        &self,
        of: &ReplicatedVolume,
        role: Role,
        retained: BTreeSet<i64>,
    ) -> Result<(), Error> {
        self.replica_step(of, move |directories, pool, of| {
            directories.keep_copies(&of.volume, of.epoch, role, &retained)?;
            directories.forget_removed(&pool.root())
        })
        .await
    }

    /// Refuses later copies of earlier epochs.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over.
    pub async fn seal_copies(&self, of: &ReplicatedVolume) -> Result<VolumeCopies, Error> {
        self.replica_step(of, |directories, _, of| {
            directories.seal(&of.volume, of.epoch)
        })
        .await
    }

    /// Retains the volume of a former primary as a read-only snapshot. The snapshot that is common to both nodes is
    /// converted into a copy.
    ///
    /// # Errors
    /// Errors of the disk; a process uses it; the epoch is over, or the node is its primary.
    pub async fn demote_volume(
        &self,
        of: &ReplicatedVolume,
        common: Option<CommonSnapshot>,
    ) -> Result<(), Error> {
        self.replica_step(of, move |directories, pool, of| {
            directories.demote(&of.volume, of.epoch, common.as_ref())?;
            directories.forget_removed(&pool.root())
        })
        .await
    }

    /// Removes the copies of a node that another node has replaced. The volume of a former primary is retained as a
    /// read-only snapshot. Returns the remaining snapshots and copies.
    ///
    /// # Errors
    /// Errors of the disk; a process uses the volume; the epoch is over, or the node is its primary.
    pub async fn retire_copies(&self, of: &ReplicatedVolume) -> Result<VolumeCopies, Error> {
        if !self.is_used(Driver::LocalCow).await? {
            return Ok(VolumeCopies::default());
        }
        self.replica_step(of, |directories, pool, of| {
            let holdings = directories.retire(&of.volume, of.epoch)?;
            directories.forget_removed(&pool.root())?;
            Ok(holdings)
        })
        .await
    }

    /// Renames a copy to the name of the volume, with this limit in bytes.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over.
    pub async fn promote_copy(
        &self,
        of: &ReplicatedVolume,
        time: i64,
        bytes: u64,
    ) -> Result<(), Error> {
        self.replica_step(of, move |directories, pool, of| {
            let ensure_capacity = |reserved| pool.ensure_capacity(reserved);
            directories.promote(ensure_capacity, &of.volume, of.epoch, time, bytes)?;
            directories.forget_removed(&pool.root())
        })
        .await
    }

    /// Removes all copies permanently.
    ///
    /// # Errors
    /// Errors of the disk; the epoch is over, or the node is the primary.
    pub async fn forget_copies(&self, of: &ReplicatedVolume) -> Result<(), Error> {
        if !self.is_used(Driver::LocalCow).await? {
            return Ok(());
        }
        self.replica_step(of, |directories, pool, of| {
            directories.forget_copies(&of.volume, of.epoch)?;
            directories.forget_removed(&pool.root())
        })
        .await
    }

    async fn replica_step<T: Send + 'static>(
        &self,
        of: &ReplicatedVolume,
        work: impl FnOnce(&Directories, &Pool, &ReplicatedVolume) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let of = of.clone();
        self.on(Driver::LocalCow, move |directories, pool| match pool {
            Some(pool) => work(directories, pool, &of),
            None => Err(Error::Unsupported("copies need a pool".to_owned())),
        })
        .await
    }
}
