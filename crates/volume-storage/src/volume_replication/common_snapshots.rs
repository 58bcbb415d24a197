//! The snapshot that both nodes of a replicated volume have after a promotion: the recovery point.
//!
//! The new primary retains this snapshot, with the identity of the snapshot of the former primary that has equal
//! contents. A former primary that has a snapshot with this identity continues from it, and receives only the
//! difference. File systems assign a different identity to each snapshot.

use std::path::Path;

use btrfs_send_stream::Uuid;
use controller_planners::volume_replication::CommonSnapshot;
use host_kernel::btrfs;
use host_kernel::durable_file::{self, Durability};

use crate::directories::{Directories, failed, remove_tree};
use crate::error::StorageError as Error;
use crate::volume_move::directories::is_there;
use crate::volume_move::first_copies::FirstCopy;
use crate::volume_replication::directories::{COPY, COPY_IDENTITY, SENT};

/// Prefix of the names of files with the identities of snapshots of former primaries: the snapshot with this time on
/// this node has equal contents.
const ORIGIN: &str = ".origin-";

/// The text of an identity in a response.
fn identity_text(identity: Uuid) -> String {
    format!("{:032x}", u128::from_be_bytes(identity.0))
}

fn parse_identity(text: &str) -> Result<Uuid, Error> {
    let number = u128::from_str_radix(text, 16).ok();
    let number = number.filter(|_| text.len() == 32);
    let bad = || Error::Source(format!("{text:?} is not the identity of a snapshot"));
    Ok(Uuid(number.ok_or_else(bad)?.to_be_bytes()))
}

/// The identity of a snapshot in its streams.
fn identity_of(snapshot: &Path) -> Result<Uuid, Error> {
    let identity = btrfs::subvolume_uuid(snapshot).map_err(failed("identify", snapshot));
    identity.map(Uuid)
}

/// The identity in a file; `None` if it is damaged.
pub(crate) fn read_identity(path: &Path) -> Result<Option<Uuid>, Error> {
    let bytes = std::fs::read(path).map_err(failed("read", path))?;
    Ok(<[u8; 16]>::try_from(bytes).ok().map(Uuid))
}

pub(crate) fn write_identity(path: &Path, identity: Uuid) -> Result<(), Error> {
    let written = durable_file::replace(path, &identity.0, 0o600, Durability::Name);
    written.map_err(failed("write", path))
}

impl Directories {
    /// Retains a promoted copy as a snapshot of the new primary. An interrupted promotion repeats this step.
    pub(crate) fn keep_recovery_point(
        &self,
        volume: &str,
        time: i64,
        copy: &FirstCopy,
    ) -> Result<(), Error> {
        self.remove_all_sent(volume)?;
        let sent = self.at_time(SENT, time, volume)?;
        btrfs::snapshot(&copy.path, &sent, true).map_err(failed("make", &sent))?;
        write_identity(&self.at_time(ORIGIN, time, volume)?, copy.snapshot)
    }

    /// The recovery point of the last promotion, if its snapshot exists.
    pub(crate) fn common(&self, volume: &str) -> Result<Option<CommonSnapshot>, Error> {
        for time in self.times(ORIGIN, volume)? {
            let sent = self.at_time(SENT, time, volume)?;
            let origin = read_identity(&self.at_time(ORIGIN, time, volume)?)?;
            if let (true, Some(there)) = (is_there(&sent)?, origin) {
                return Ok(Some(CommonSnapshot {
                    time,
                    here: identity_text(identity_of(&sent)?),
                    there: identity_text(there),
                }));
            }
        }
        Ok(None)
    }

    pub(crate) fn remove_sent(&self, volume: &str, time: i64) -> Result<(), Error> {
        remove_tree(&self.at_time(ORIGIN, time, volume)?)?;
        remove_tree(&self.at_time(SENT, time, volume)?)
    }

    /// Removes all snapshots that were sent.
    pub(crate) fn remove_all_sent(&self, volume: &str) -> Result<(), Error> {
        for time in self.times(ORIGIN, volume)? {
            remove_tree(&self.at_time(ORIGIN, time, volume)?)?;
        }
        for time in self.times(SENT, volume)? {
            self.remove_sent(volume, time)?;
        }
        Ok(())
    }

    /// Converts the snapshot that is common to both nodes into a copy, if this node created it; returns its time.
    pub(crate) fn adopt_common_snapshot(
        &self,
        volume: &str,
        common: &CommonSnapshot,
    ) -> Result<Option<i64>, Error> {
        let (here, there) = (
            parse_identity(&common.here)?,
            parse_identity(&common.there)?,
        );
        let time = common.time;
        let copy = self.copy(volume, time)?;
        if copy.is_some_and(|copy| copy.snapshot == here) {
            return Ok(Some(time));
        }
        let sent = self.at_time(SENT, time, volume)?;
        if !is_there(&sent)? || identity_of(&sent)? != there {
            return Ok(None);
        }
        self.remove_copy(volume, time)?;
        write_identity(&self.at_time(COPY_IDENTITY, time, volume)?, here)?;
        self.rename(&sent, &self.at_time(COPY, time, volume)?)?;
        Ok(Some(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // docs/storage.md
    #[test]
    fn an_identity_is_read_as_it_was_written() {
        for bytes in [[0; 16], [0xab; 16], std::array::from_fn(|at| at as u8)] {
            let text = identity_text(Uuid(bytes));
            assert_eq!(parse_identity(&text).unwrap(), Uuid(bytes));
        }
        for text in ["", "0", "+0000000000000000000000000000000x"] {
            assert!(parse_identity(text).is_err(), "{text:?}");
        }
    }
}
