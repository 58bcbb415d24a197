//! The snapshots and the copies of a volume of `local-cow` that moves to another node.
//!
//! The source has a first snapshot, taken while pods write, and a last snapshot of the detached volume. The other node
//! receives and retains the first snapshot. It receives the difference between the snapshots into a clone of the first
//! snapshot, so that an interrupted difference can be received again. The names of all these snapshots contain the id
//! of the move.

use std::io;
use std::path::{Path, PathBuf};

use btrfs_send_stream::Uuid;
use controller_planners::volume_move::{CopyExtent, Inspection};
use host_kernel::btrfs;
use host_kernel::durable_file::{self, Durability};

use crate::directories::{Directories, failed, remove_tree, sync_files};
use crate::error::StorageError as Error;
use crate::subvolumes::{self, InitialContents};
use crate::volume_move::directories::{ARRIVING, CopyLocation, MOVING, is_there};

/// Prefix of the names of first snapshots, and of their complete copies.
const FIRST: &str = ".first-";
/// Prefix of the names of snapshots of detached volumes.
const LAST: &str = ".last-";
/// Prefix of the names of files with the identity of a first copy.
const IDENTITY: &str = ".identity-";
/// The prefixes of names that mean nothing after their move.
const HELPERS: [&str; 4] = [FIRST, LAST, IDENTITY, ARRIVING];
/// The metadata that the file system writes while it receives a full volume counts, too. Until the copy is complete,
/// its limit is larger by this part of the limit, and at least by this number of bytes.
const SLACK_PART: u64 = 16;
const SLACK_MIN: u64 = 64 << 20;

/// The snapshots that make a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// The snapshot that is sent.
    pub snapshot: PathBuf,
    /// The snapshot that is the base of the difference.
    pub base: Option<PathBuf>,
}

/// A first copy on the node that gets the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstCopy {
    /// The identity of the snapshot that was sent.
    pub snapshot: Uuid,
    /// The path of the received copy.
    pub path: PathBuf,
}

impl Directories {
    /// The snapshot of a move that is to be sent, with its base.
    pub(crate) fn snapshots_of_move(
        &self,
        id: &str,
        volume: &str,
        extent: CopyExtent,
    ) -> Result<Snapshots, Error> {
        let first = self.move_path(FIRST, id, volume)?;
        if extent == CopyExtent::First {
            self.create_first_snapshot(id, volume, &first)?;
            return Ok(Snapshots {
                snapshot: first,
                base: None,
            });
        }
        let (detached, last) = (
            self.detached(id, volume)?,
            self.move_path(LAST, id, volume)?,
        );
        let base = match extent {
            CopyExtent::Increment if is_there(&first)? => Some(first),
            CopyExtent::Increment => {
                let text = format!("{} is missing", first.display());
                return Err(Error::Source(text));
            }
            CopyExtent::First | CopyExtent::Whole => None,
        };
        refuse_nested(&detached)?;
        // One of another attempt: pods may have written since.
        remove_tree(&last)?;
        sync_files(&detached)?;
        btrfs::snapshot(&detached, &last, true).map_err(failed("make", &last))?;
        self.sync_root()?;
        Ok(Snapshots {
            snapshot: last,
            base,
        })
    }

    fn create_first_snapshot(&self, id: &str, volume: &str, first: &Path) -> Result<(), Error> {
        let real = self.path(volume)?;
        self.refuse_ended(id, volume)?;
        if is_there(first)? {
            return Ok(());
        }
        refuse_nested(&real)?;
        btrfs::snapshot(&real, first, true).map_err(failed("make", first))?;
        self.sync_root()
    }

    /// The bytes that the pool needs for a first snapshot; zero if the snapshot exists.
    pub(crate) fn first_snapshot_holds(&self, id: &str, volume: &str) -> Result<u64, Error> {
        if is_there(&self.move_path(FIRST, id, volume)?)? {
            return Ok(0);
        }
        sync_files(&self.path(volume)?)?;
        Ok(self.count(volume)?.map_or(0, |count| count.referenced))
    }

    /// The directory for a stream: empty, or with the files of the first copy. Grows the pool for it.
    pub(crate) fn begin_stream(
        &self,
        ensure_capacity: impl FnOnce(u64) -> Result<(), Error>,
        id: &str,
        volume: &str,
        bytes: u64,
        extent: CopyExtent,
    ) -> Result<CopyLocation, Error> {
        if let Some(location) = self.arrival(id, volume)? {
            return Ok(location);
        }
        let first = self.first_copy(id, volume)?;
        if extent == CopyExtent::First && first.is_some() {
            return Ok(CopyLocation::Complete(self.path(volume)?));
        }
        let arriving = self.move_path(ARRIVING, id, volume)?;
        remove_tree(&arriving)?;
        let base = match (extent, first) {
            (CopyExtent::Increment, None) => {
                self.forget_first_copy(id, volume)?;
                let text = format!("the first copy of the move {id} is not on this node");
                return Ok(CopyLocation::Refused(text));
            }
            (CopyExtent::Increment, Some(first)) => Some(first.path),
            (CopyExtent::First | CopyExtent::Whole, _) => {
                self.forget_first_copy(id, volume)?;
                None
            }
        };
        let bytes = with_slack(bytes);
        ensure_capacity(self.reserved()?.saturating_add(bytes))?;
        match base {
            None => self.make_new(volume, &arriving, bytes, &InitialContents::Empty)?,
            Some(base) => self.make_clone(volume, &arriving, bytes, &base)?,
        }
        Ok(CopyLocation::Begun(arriving))
    }

    /// The complete first copy of a move on the node that gets the volume.
    pub(crate) fn first_copy(&self, id: &str, volume: &str) -> Result<Option<FirstCopy>, Error> {
        let path = self.move_path(FIRST, id, volume)?;
        let identity = self.move_path(IDENTITY, id, volume)?;
        match std::fs::read(&identity) {
            Ok(bytes) => Ok(match <[u8; 16]>::try_from(bytes) {
                Ok(bytes) if is_there(&path)? => Some(FirstCopy {
                    snapshot: Uuid(bytes),
                    path,
                }),
                _ => None,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &identity)(error)),
        }
    }

    /// Keeps a received stream as the first copy.
    pub(crate) fn finish_first_copy(
        &self,
        id: &str,
        volume: &str,
        snapshot: Uuid,
    ) -> Result<PathBuf, Error> {
        let arriving = self.move_path(ARRIVING, id, volume)?;
        let (first, identity) = (
            self.move_path(FIRST, id, volume)?,
            self.move_path(IDENTITY, id, volume)?,
        );
        sync_files(&arriving)?;
        self.refuse_ended(id, volume)?;
        // A first copy has no limit; it uses the space of its files, as a snapshot does.
        subvolumes::limit(&arriving, u64::MAX).map_err(failed("limit", &arriving))?;
        durable_file::replace(&identity, &snapshot.0, 0o600, Durability::Name)
            .map_err(failed("write", &identity))?;
        self.rename(&arriving, &first)?;
        self.path(volume)
    }

    /// Removes a first copy that no difference belongs to.
    pub(crate) fn forget_first_copy(&self, id: &str, volume: &str) -> Result<(), Error> {
        remove_tree(&self.move_path(IDENTITY, id, volume)?)?;
        remove_tree(&self.move_path(FIRST, id, volume)?)?;
        self.sync_root()
    }

    /// Marks a received volume as complete, with its limit.
    pub(crate) fn finish_stream(
        &self,
        id: &str,
        volume: &str,
        bytes: u64,
    ) -> Result<PathBuf, Error> {
        let arriving = self.move_path(ARRIVING, id, volume)?;
        subvolumes::limit(&arriving, bytes).map_err(failed("limit", &arriving))?;
        self.finish_arrival(id, volume)
    }

    /// Measures a volume of the pool.
    pub(crate) fn inspect_in_pool(
        &self,
        free_capacity: impl FnOnce(u64) -> Result<u64, Error>,
        id: &str,
        volume: &str,
    ) -> Result<Inspection, Error> {
        let mut count = None;
        for path in [self.path(volume)?, self.move_path(MOVING, id, volume)?] {
            if is_there(&path)? {
                // Files that are not on disk yet are not counted.
                sync_files(&path)?;
                count = subvolumes::count(&path).map_err(failed("measure", &path))?;
            }
        }
        Ok(Inspection {
            used: count.map(|count| count.referenced),
            free: free_capacity(self.reserved()?)?,
            limit: count.and_then(|count| count.limit),
            has_first_copy: is_there(&self.move_path(FIRST, id, volume)?)?,
        })
    }

    /// Removes the snapshots and incomplete copies of a move that is over.
    pub(crate) fn remove_helpers(&self, id: &str, volume: &str) -> Result<(), Error> {
        for prefix in HELPERS {
            remove_tree(&self.move_path(prefix, id, volume)?)?;
        }
        self.sync_root()
    }

    /// Removes the remains of moves that ended without a message to this node.
    pub(crate) fn sweep_moves(&self, is_moving: impl Fn(&str, &str) -> bool) -> Result<(), Error> {
        let (root, _) = self.roots();
        for entry in std::fs::read_dir(root).map_err(failed("read", root))? {
            let entry = entry.map_err(failed("read", root))?;
            let name = entry.file_name();
            let helper = name.to_str().and_then(move_of_helper);
            if helper.is_some_and(|(id, volume)| !is_moving(id, volume)) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// The limit of a volume of this size while it is received.
pub(crate) fn with_slack(bytes: u64) -> u64 {
    bytes.saturating_add((bytes / SLACK_PART).max(SLACK_MIN))
}

/// The id and the volume of a move, by the name of one of its snapshots or incomplete copies.
fn move_of_helper(name: &str) -> Option<(&str, &str)> {
    let rest = HELPERS.iter().find_map(|prefix| name.strip_prefix(prefix));
    // An id has no hyphen.
    rest?.split_once('-')
}

/// Refuses a volume in which pods have created subvolumes: a snapshot does not contain their files.
pub(crate) fn refuse_nested(volume: &Path) -> Result<(), Error> {
    match btrfs::has_subvolumes(volume).map_err(failed("inspect", volume))? {
        false => Ok(()),
        true => Err(Error::Unsupported(
            "the volume has btrfs subvolumes in it, which are not moved".to_owned(),
        )),
    }
}
