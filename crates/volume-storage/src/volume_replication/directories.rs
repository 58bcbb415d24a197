//! The snapshots and copies of a volume of `local-cow` that has a replica on another node.
//!
//! The primary has the newest snapshots that it has sent; the replica has the copies of these snapshots. Their names
//! contain their times. Each node stores the newest epoch that it knows and its role in the epoch, and refuses steps of
//! earlier epochs: a late copy never changes a promoted volume, and a former primary never sends again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use btrfs_send_stream::Uuid;
use controller_planners::volume_replication::{CommonSnapshot, Role, VolumeCopies};
use host_kernel::btrfs;
use host_kernel::durable_file::{self, Durability};

use crate::directories::{Directories, failed, remove_tree, sync_files};
use crate::error::StorageError as Error;
use crate::subvolumes::{self, InitialContents};
use crate::volume_move::directories::{ARRIVING, CopyLocation, is_there, user_of};
use crate::volume_move::first_copies::{FirstCopy, Snapshots, refuse_nested, with_slack};
use crate::volume_replication::common_snapshots::{read_identity, write_identity};

/// Prefix of the names of snapshots that the primary has sent.
pub(crate) const SENT: &str = ".sent-";
/// Prefix of the names of complete copies.
pub(crate) const COPY: &str = ".copy-";
/// Prefix of the names of files with the identities of copies.
pub(crate) const COPY_IDENTITY: &str = ".copyid-";
/// Prefix of the names of volumes of former primaries, until their snapshot is complete.
const DEMOTED: &str = ".demoted-";
/// Prefix of the names of files with the newest epoch.
const EPOCH: &str = ".epoch-";
/// The part of a name in place of a time, for directories and files that each volume has once.
const ONLY: &str = "0";
/// Prefix of the names of the retained snapshots of former primaries, in the directory of snapshots.
const DIVERGED: &str = "diverged-";
/// The epoch of a volume whose copies were removed permanently: no later step is admitted.
const OVER: u32 = u32::MAX;

/// The newest epoch that a node knows, and the role of the node in the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EpochRecord {
    epoch: u32,
    role: Role,
}

impl EpochRecord {
    fn parse(text: &str) -> Option<Self> {
        let (epoch, role) = text.trim().split_once(' ')?;
        let role = match role {
            "primary" => Role::Primary,
            "replica" => Role::Replica,
            _ => return None,
        };
        Some(Self {
            epoch: epoch.parse().ok()?,
            role,
        })
    }

    fn text(self) -> String {
        let role = match self.role {
            Role::Primary => "primary",
            Role::Replica => "replica",
        };
        format!("{} {role}\n", self.epoch)
    }
}

/// The reason why a step of an epoch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum EpochRefusal {
    #[error("the epoch {step} of the volume is over on this node, which knows {newest}")]
    Over { step: u32, newest: u32 },
    #[error("this node is the {role:?} in the epoch {epoch} of the volume")]
    OtherRole { role: Role, epoch: u32 },
}

/// Whether a requested step is admitted; `newest` is the newest epoch of the volume on this node.
fn admits(newest: Option<EpochRecord>, requested: EpochRecord) -> Result<(), EpochRefusal> {
    match newest {
        Some(newest) if requested.epoch < newest.epoch => Err(EpochRefusal::Over {
            step: requested.epoch,
            newest: newest.epoch,
        }),
        Some(newest) if requested.epoch == newest.epoch && requested.role != newest.role => {
            Err(EpochRefusal::OtherRole {
                role: newest.role,
                epoch: newest.epoch,
            })
        }
        _ => Ok(()),
    }
}

impl Directories {
    fn epoch_file(&self, volume: &str) -> Result<PathBuf, Error> {
        self.move_path(EPOCH, ONLY, volume)
    }

    fn epoch_record(&self, volume: &str) -> Result<Option<EpochRecord>, Error> {
        let path = self.epoch_file(volume)?;
        if !is_there(&path)? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
        let record = EpochRecord::parse(&text);
        // Without the epoch no step is safe.
        let unreadable = || Error::Source(format!("{} is damaged", path.display()));
        record.ok_or_else(unreadable).map(Some)
    }

    fn write_epoch(&self, volume: &str, record: EpochRecord) -> Result<(), Error> {
        if self.epoch_record(volume)? == Some(record) {
            return Ok(());
        }
        let path = self.epoch_file(volume)?;
        durable_file::replace(&path, record.text().as_bytes(), 0o600, Durability::Name)
            .map_err(failed("write", &path))
    }

    fn check_epoch(&self, volume: &str, epoch: u32, role: Role) -> Result<(), Error> {
        admits(self.epoch_record(volume)?, EpochRecord { epoch, role })
            .map_err(|refusal| Error::Source(refusal.to_string()))
    }

    /// Refuses a step of an epoch that is over, or of another role; otherwise the epoch is the newest.
    fn admit(&self, volume: &str, epoch: u32, role: Role) -> Result<(), Error> {
        self.check_epoch(volume, epoch, role)?;
        self.write_epoch(volume, EpochRecord { epoch, role })
    }

    pub(crate) fn at_time(&self, prefix: &str, time: i64, volume: &str) -> Result<PathBuf, Error> {
        self.move_path(prefix, &time.to_string(), volume)
    }

    /// The times in the names of a kind.
    pub(crate) fn times(&self, prefix: &str, volume: &str) -> Result<BTreeSet<i64>, Error> {
        let (root, _) = self.roots();
        let mut times = BTreeSet::new();
        for entry in std::fs::read_dir(root).map_err(failed("read", root))? {
            let name = entry.map_err(failed("read", root))?.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(prefix));
            if let Some((time, of)) = rest.and_then(|rest| rest.split_once('-'))
                && of == volume
            {
                times.extend(time.parse::<i64>().ok());
            }
        }
        Ok(times)
    }

    fn copies(&self, volume: &str) -> Result<BTreeSet<i64>, Error> {
        let mut copies = BTreeSet::new();
        for time in self.times(COPY, volume)? {
            if is_there(&self.at_time(COPY_IDENTITY, time, volume)?)? {
                copies.insert(time);
            }
        }
        Ok(copies)
    }

    fn diverged(&self, volume: &str) -> Result<BTreeSet<String>, Error> {
        let (_, snapshots) = self.roots();
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(snapshots).map_err(failed("read", snapshots))? {
            let name = entry.map_err(failed("read", snapshots))?.file_name();
            let name = name.to_string_lossy().into_owned();
            let rest = name.strip_prefix(DIVERGED);
            let of = rest.and_then(|rest| rest.split_once('-'));
            if of.is_some_and(|(_, of)| of == volume) {
                names.insert(name);
            }
        }
        Ok(names)
    }

    /// The snapshots and copies of a volume.
    pub(crate) fn holdings(&self, volume: &str) -> Result<VolumeCopies, Error> {
        let real = self.path(volume)?;
        let is_demoted = is_there(&self.move_path(DEMOTED, ONLY, volume)?)?;
        Ok(VolumeCopies {
            epoch: self.epoch_record(volume)?.map_or(0, |record| record.epoch),
            has_volume: is_there(&real)? || is_demoted,
            path: real.to_string_lossy().into_owned(),
            sent: self.times(SENT, volume)?,
            copies: self.copies(volume)?,
            common: self.common(volume)?,
            diverged: self.diverged(volume)?,
        })
    }

    /// The bytes that the pool needs for another snapshot; zero if the snapshot exists.
    pub(crate) fn snapshot_to_send_holds(&self, volume: &str, time: i64) -> Result<u64, Error> {
        if is_there(&self.at_time(SENT, time, volume)?)? {
            return Ok(0);
        }
        Ok(self.count(volume)?.map_or(0, |count| count.referenced))
    }

    /// The snapshot with this time and its base. The snapshot is created now, unless it exists.
    pub(crate) fn snapshot_to_send(
        &self,
        volume: &str,
        epoch: u32,
        time: i64,
        base: Option<i64>,
    ) -> Result<Snapshots, Error> {
        self.admit(volume, epoch, Role::Primary)?;
        let (real, sent) = (self.path(volume)?, self.at_time(SENT, time, volume)?);
        if !is_there(&sent)? {
            refuse_nested(&real)?;
            btrfs::snapshot(&real, &sent, true).map_err(failed("make", &sent))?;
            self.sync_root()?;
        }
        let base = base.map(|base| self.at_time(SENT, base, volume));
        Ok(Snapshots {
            snapshot: sent,
            base: base.transpose()?,
        })
    }

    fn arriving(&self, time: i64, volume: &str) -> Result<PathBuf, Error> {
        self.at_time(ARRIVING, time, volume)
    }

    /// Removes incomplete copies.
    fn remove_arriving(&self, volume: &str) -> Result<(), Error> {
        for time in self.times(ARRIVING, volume)? {
            remove_tree(&self.arriving(time, volume)?)?;
        }
        Ok(())
    }

    /// The directory for the copy with this time: empty, or with the files of its base. Grows the pool for it.
    pub(crate) fn begin_copy(
        &self,
        ensure_capacity: impl FnOnce(u64) -> Result<(), Error>,
        volume: &str,
        epoch: u32,
        time: i64,
        base: Option<i64>,
        bytes: u64,
    ) -> Result<CopyLocation, Error> {
        self.admit(volume, epoch, Role::Replica)?;
        let real = self.path(volume)?;
        if is_there(&real)? {
            let text = format!("{} is on this node already", real.display());
            return Ok(CopyLocation::Refused(text));
        }
        if self.copies(volume)?.contains(&time) {
            return Ok(CopyLocation::Complete(real));
        }
        self.remove_arriving(volume)?;
        let arriving = self.arriving(time, volume)?;
        let bytes = with_slack(bytes);
        let base = match base {
            None => None,
            Some(base) => match self.copy(volume, base)? {
                Some(copy) => Some(copy.path),
                None => {
                    let text = format!("the copy {base} is not on this node");
                    return Ok(CopyLocation::Refused(text));
                }
            },
        };
        ensure_capacity(self.reserved()?.saturating_add(bytes))?;
        match base {
            None => self.make_new(volume, &arriving, bytes, &InitialContents::Empty)?,
            Some(base) => self.make_clone(volume, &arriving, bytes, &base)?,
        }
        Ok(CopyLocation::Begun(arriving))
    }

    /// The complete copy of that time.
    pub(crate) fn copy(&self, volume: &str, time: i64) -> Result<Option<FirstCopy>, Error> {
        if !self.copies(volume)?.contains(&time) {
            return Ok(None);
        }
        let identity = read_identity(&self.at_time(COPY_IDENTITY, time, volume)?)?;
        let path = self.at_time(COPY, time, volume)?;
        Ok(identity.map(|snapshot| FirstCopy { snapshot, path }))
    }

    /// Stores a received stream as the copy with this time. The copy is durable when the call returns.
    pub(crate) fn finish_copy(
        &self,
        volume: &str,
        epoch: u32,
        time: i64,
        snapshot: Uuid,
    ) -> Result<(), Error> {
        let arriving = self.arriving(time, volume)?;
        sync_files(&arriving)?;
        self.admit(volume, epoch, Role::Replica)?;
        subvolumes::limit(&arriving, u64::MAX).map_err(failed("limit", &arriving))?;
        write_identity(&self.at_time(COPY_IDENTITY, time, volume)?, snapshot)?;
        self.rename(&arriving, &self.at_time(COPY, time, volume)?)
    }

    pub(crate) fn remove_copy(&self, volume: &str, time: i64) -> Result<(), Error> {
        // A copy without its identity is not complete.
        remove_tree(&self.at_time(COPY_IDENTITY, time, volume)?)?;
        remove_tree(&self.at_time(COPY, time, volume)?)
    }

    /// Removes a copy that no difference belongs to.
    pub(crate) fn forget_copy(&self, volume: &str, epoch: u32, time: i64) -> Result<(), Error> {
        self.admit(volume, epoch, Role::Replica)?;
        self.remove_copy(volume, time)
    }

    /// Removes other snapshots of the primary, or other copies, than these.
    pub(crate) fn keep_copies(
        &self,
        volume: &str,
        epoch: u32,
        role: Role,
        retained: &BTreeSet<i64>,
    ) -> Result<(), Error> {
        self.admit(volume, epoch, role)?;
        let all = match role {
            Role::Primary => self.times(SENT, volume)?,
            Role::Replica => self.times(COPY, volume)?,
        };
        for time in all.difference(retained) {
            match role {
                Role::Primary => self.remove_sent(volume, *time)?,
                Role::Replica => self.remove_copy(volume, *time)?,
            }
        }
        self.sync_root()
    }

    /// Takes no more copies of earlier epochs.
    pub(crate) fn seal(&self, volume: &str, epoch: u32) -> Result<VolumeCopies, Error> {
        self.admit(volume, epoch, Role::Replica)?;
        self.remove_arriving(volume)?;
        self.holdings(volume)
    }

    /// Renames the directory of a former primary, so that no pod can mount it; returns the new path.
    fn rename_demoted(&self, volume: &str) -> Result<PathBuf, Error> {
        let (real, demoted) = (self.path(volume)?, self.move_path(DEMOTED, ONLY, volume)?);
        if is_there(&real)? && !is_there(&demoted)? {
            self.rename(&real, &demoted)?;
        }
        match user_of(&demoted)? {
            Some(user) => {
                let text = format!("{}: in use by {user}", demoted.display());
                Err(Error::Source(text))
            }
            None => Ok(demoted),
        }
    }

    /// Retains the volume of a former primary as a read-only snapshot. No pod can use the volume any more. The snapshot
    /// of the recovery point is converted into a copy, as the base of the next difference.
    pub(crate) fn demote(
        &self,
        volume: &str,
        epoch: u32,
        common: Option<&CommonSnapshot>,
    ) -> Result<(), Error> {
        self.check_epoch(volume, epoch, Role::Replica)?;
        let demoted = self.rename_demoted(volume)?;
        if is_there(&demoted)? {
            let former = self.epoch_record(volume)?.map_or(0, |record| record.epoch);
            let (_, snapshots) = self.roots();
            let diverged = snapshots.join(format!("{DIVERGED}{former}-{volume}"));
            if !is_there(&diverged)? {
                sync_files(&demoted)?;
                btrfs::snapshot(&demoted, &diverged, true).map_err(failed("make", &diverged))?;
                self.sync_root()?;
            }
            // Those of earlier epochs are of another history.
            self.remove_arriving(volume)?;
            let base = match common {
                Some(common) => self.adopt_common_snapshot(volume, common)?,
                None => None,
            };
            for time in self.times(COPY, volume)? {
                if Some(time) != base {
                    self.remove_copy(volume, time)?;
                }
            }
            self.remove_all_sent(volume)?;
            remove_tree(&demoted)?;
            self.sync_root()?;
        }
        self.write_epoch(
            volume,
            EpochRecord {
                epoch,
                role: Role::Replica,
            },
        )
    }

    /// Removes the copies of a node that another node has replaced.
    pub(crate) fn retire(&self, volume: &str, epoch: u32) -> Result<VolumeCopies, Error> {
        self.demote(volume, epoch, None)?;
        self.remove_arriving(volume)?;
        for time in self.times(COPY, volume)? {
            self.remove_copy(volume, time)?;
        }
        self.remove_all_sent(volume)?;
        self.sync_root()?;
        self.holdings(volume)
    }

    /// Gives a copy the name of the volume.
    pub(crate) fn promote(
        &self,
        ensure_capacity: impl FnOnce(u64) -> Result<(), Error>,
        volume: &str,
        epoch: u32,
        time: i64,
        bytes: u64,
    ) -> Result<(), Error> {
        let primary = EpochRecord {
            epoch,
            role: Role::Primary,
        };
        let newest = self.epoch_record(volume)?;
        if newest == Some(primary) {
            return Ok(());
        }
        // The node was the replica of this epoch, which sealed its copies.
        let role = Role::Replica;
        admits(newest, EpochRecord { epoch, role })
            .map_err(|refusal| Error::Source(refusal.to_string()))?;
        let real = self.path(volume)?;
        if !is_there(&real)? {
            let copy = self.copy(volume, time)?;
            let missing = || Error::Source(format!("the copy {time} is not on this node"));
            let copy = copy.ok_or_else(missing)?;
            ensure_capacity(self.reserved()?.saturating_add(bytes))?;
            // This step is before the creation of the volume, because an interrupted promotion repeats it.
            self.keep_recovery_point(volume, time, &copy)?;
            self.make_clone(volume, &real, bytes, &copy.path)?;
            self.sync_root()?;
        }
        self.write_epoch(volume, primary)?;
        for time in self.times(COPY, volume)? {
            self.remove_copy(volume, time)?;
        }
        self.sync_root()
    }

    /// Removes all copies permanently.
    pub(crate) fn forget_copies(&self, volume: &str, epoch: u32) -> Result<(), Error> {
        let over = EpochRecord {
            epoch: OVER,
            role: Role::Replica,
        };
        if self.epoch_record(volume)? != Some(over) {
            self.check_epoch(volume, epoch, Role::Replica)?;
            // A former primary that returned after its claim was deleted has the volume still.
            let demoted = self.rename_demoted(volume)?;
            remove_tree(&demoted)?;
        }
        self.remove_replication(volume)?;
        self.write_epoch(volume, over)?;
        self.sync_root()
    }

    /// Removes directories of volumes that were never completed, and the epochs of deleted volumes.
    pub(crate) fn sweep_pool(&self, has_volume: impl Fn(&str) -> bool) -> Result<(), Error> {
        self.sweep(&has_volume)?;
        let (root, _) = self.roots();
        for entry in std::fs::read_dir(root).map_err(failed("read", root))? {
            let name = entry.map_err(failed("read", root))?.file_name();
            let rest = name.to_str().and_then(|name| name.strip_prefix(EPOCH));
            if let Some((_, volume)) = rest.and_then(|rest| rest.split_once('-'))
                && !has_volume(volume)
                && self
                    .epoch_record(volume)?
                    .is_some_and(|record| record.epoch == OVER)
            {
                remove_tree(&self.epoch_file(volume)?)?;
            }
        }
        Ok(())
    }

    /// Removes the snapshots, copies and retained states of a volume.
    pub(crate) fn remove_replication(&self, volume: &str) -> Result<(), Error> {
        if !is_there(&self.epoch_file(volume)?)? {
            return Ok(());
        }
        self.remove_arriving(volume)?;
        self.remove_all_sent(volume)?;
        for time in self.times(COPY, volume)? {
            self.remove_copy(volume, time)?;
        }
        let (_, snapshots) = self.roots();
        for name in self.diverged(volume)? {
            remove_tree(&snapshots.join(name))?;
        }
        remove_tree(&self.move_path(DEMOTED, ONLY, volume)?)?;
        remove_tree(&self.epoch_file(volume)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: u32, role: Role) -> EpochRecord {
        EpochRecord { epoch, role }
    }

    // docs/storage.md
    #[test]
    fn steps_of_an_earlier_epoch_or_of_another_role_are_refused() {
        use Role::{Primary, Replica};
        let now = Some(record(2, Replica));
        assert!(admits(None, record(1, Primary)).is_ok());
        assert!(admits(now, record(2, Replica)).is_ok());
        assert!(admits(now, record(3, Primary)).is_ok());
        assert!(admits(now, record(1, Replica)).is_err());
        assert!(admits(now, record(2, Primary)).is_err());
        assert!(admits(Some(record(OVER, Replica)), record(7, Replica)).is_err());
    }

    #[test]
    fn the_epoch_is_read_as_it_was_written() {
        for role in [Role::Primary, Role::Replica] {
            let written = record(7, role);
            assert_eq!(EpochRecord::parse(&written.text()), Some(written));
        }
        for text in ["", "7", "7 other", "x primary"] {
            assert_eq!(EpochRecord::parse(text), None, "{text:?}");
        }
    }
}
