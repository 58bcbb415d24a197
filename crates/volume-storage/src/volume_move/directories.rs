//! The directories of a volume that moves to another node.
//!
//! The name of a directory has its state: no pod mounts a directory with the name of a move, whatever objects an agent
//! reads. Each step may be repeated. A move that has ended on this node leaves an empty file, and late steps of the
//! move are refused.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use controller_planners::volume_move::{Detachment, Inspection};
use host_kernel::{disk_usage, mount_table};

use crate::directories::{Directories, failed, remove_tree, sync_files};
use crate::error::StorageError as Error;
use crate::subvolumes::InitialContents;

/// Prefix of the names of directories that move to another node.
pub(crate) const MOVING: &str = ".moving-";
/// Prefix of the names of incomplete copies.
pub(crate) const ARRIVING: &str = ".arriving-";
/// Prefix of the names of complete copies.
const ARRIVED: &str = ".arrived-";
/// Prefix of the names of the files of moves that have ended on this node.
const ENDED: &str = ".ended-";

/// The directory of a copy, or the reason why no copy can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyLocation {
    /// The empty directory that receives the copy.
    Begun(PathBuf),
    /// The copy is complete; the path of the volume on this node.
    Complete(PathBuf),
    /// The move has ended on this node, or the volume is already on this node.
    Refused(String),
}

impl Directories {
    pub(crate) fn move_path(&self, prefix: &str, id: &str, volume: &str) -> Result<PathBuf, Error> {
        let volume_path = self.path(volume)?;
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match (
            volume_path.parent(),
            plain && !id.is_empty() && id.len() <= 32,
        ) {
            (Some(root), true) => Ok(root.join(format!("{prefix}{id}-{volume}"))),
            _ => Err(self.out_of_bounds(id)),
        }
    }

    fn has_ended(&self, id: &str, volume: &str) -> Result<bool, Error> {
        is_there(&self.move_path(ENDED, id, volume)?)
    }

    /// *Errors.* The move has ended on this node.
    pub(crate) fn refuse_ended(&self, id: &str, volume: &str) -> Result<(), Error> {
        match self.has_ended(id, volume)? {
            false => Ok(()),
            true => Err(Error::Source(ended(id))),
        }
    }

    /// Refuses all later steps of a move.
    fn end(&self, id: &str, volume: &str) -> Result<(), Error> {
        let mark = self.move_path(ENDED, id, volume)?;
        let created = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&mark);
        created
            .and_then(|file| file.sync_all())
            .map_err(failed("make", &mark))?;
        self.sync_root()
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), Error> {
        std::fs::rename(from, to).map_err(failed("rename", from))?;
        self.sync_root()
    }

    pub(crate) fn detach(&self, id: &str, volume: &str) -> Result<Detachment, Error> {
        if self.has_ended(id, volume)? {
            return Ok(Detachment::Ended);
        }
        let (real, moving) = (self.path(volume)?, self.move_path(MOVING, id, volume)?);
        if !is_there(&moving)? {
            if !is_there(&real)? {
                return Ok(Detachment::Missing);
            }
            self.rename(&real, &moving)?;
        }
        // The check is after the rename, because no new mount of the directory can begin then.
        match user_of(&moving)? {
            None => Ok(Detachment::Detached),
            Some(user) => {
                self.rename(&moving, &real)?;
                Ok(Detachment::InUse(user))
            }
        }
    }

    /// The detached directory, for its copy.
    pub(crate) fn detached(&self, id: &str, volume: &str) -> Result<PathBuf, Error> {
        let moving = self.move_path(MOVING, id, volume)?;
        let refused = |reason: &str| Error::Source(format!("{}: {reason}", moving.display()));
        if self.has_ended(id, volume)? || !is_there(&moving)? {
            return Err(refused("the directory is not detached"));
        }
        match user_of(&moving)? {
            None => Ok(moving),
            Some(user) => Err(refused(&format!("in use by {user}"))),
        }
    }

    /// The reason why no copy begins: the copy is complete, or refused.
    pub(crate) fn arrival(&self, id: &str, volume: &str) -> Result<Option<CopyLocation>, Error> {
        let real = self.path(volume)?;
        if self.has_ended(id, volume)? {
            return Ok(Some(CopyLocation::Refused(ended(id))));
        }
        if is_there(&real)? {
            let text = format!("{} is on this node already", real.display());
            return Ok(Some(CopyLocation::Refused(text)));
        }
        let is_complete = is_there(&self.move_path(ARRIVED, id, volume)?)?;
        Ok(is_complete.then_some(CopyLocation::Complete(real)))
    }

    pub(crate) fn begin_arrival(
        &self,
        id: &str,
        volume: &str,
        bytes: u64,
    ) -> Result<CopyLocation, Error> {
        if let Some(location) = self.arrival(id, volume)? {
            return Ok(location);
        }
        let arriving = self.move_path(ARRIVING, id, volume)?;
        remove_tree(&arriving)?;
        self.make_new(volume, &arriving, bytes, &InitialContents::Empty)?;
        Ok(CopyLocation::Begun(arriving))
    }

    pub(crate) fn finish_arrival(&self, id: &str, volume: &str) -> Result<PathBuf, Error> {
        let arriving = self.move_path(ARRIVING, id, volume)?;
        sync_files(&arriving)?;
        if self.has_ended(id, volume)? {
            remove_tree(&arriving)?;
            return Err(Error::Source(ended(id)));
        }
        self.rename(&arriving, &self.move_path(ARRIVED, id, volume)?)?;
        self.path(volume)
    }

    pub(crate) fn install_arrival(&self, id: &str, volume: &str) -> Result<(), Error> {
        self.end(id, volume)?;
        let (real, arrived) = (self.path(volume)?, self.move_path(ARRIVED, id, volume)?);
        match (is_there(&real)?, is_there(&arrived)?) {
            (false, true) => self.rename(&arrived, &real)?,
            (true, false) => {}
            (true, true) => {
                return Err(Error::Source(format!(
                    "{} and {} are both there",
                    real.display(),
                    arrived.display()
                )));
            }
            (false, false) => {
                return Err(Error::Source(format!("{} is missing", arrived.display())));
            }
        }
        self.remove_helpers(id, volume)
    }

    pub(crate) fn discard(&self, id: &str, volume: &str) -> Result<(), Error> {
        self.end(id, volume)?;
        remove_tree(&self.move_path(MOVING, id, volume)?)?;
        self.remove_helpers(id, volume)
    }

    pub(crate) fn abandon(&self, id: &str, volume: &str) -> Result<(), Error> {
        self.end(id, volume)?;
        let (real, moving) = (self.path(volume)?, self.move_path(MOVING, id, volume)?);
        if is_there(&moving)? {
            // A rename would replace an empty directory.
            if is_there(&real)? {
                let text = format!("{} is there again", real.display());
                return Err(Error::Source(text));
            }
            self.rename(&moving, &real)?;
        }
        remove_tree(&self.move_path(ARRIVED, id, volume)?)?;
        self.remove_helpers(id, volume)
    }

    pub(crate) fn inspect(&self, id: &str, volume: &str) -> Result<Inspection, Error> {
        let (real, moving) = (self.path(volume)?, self.move_path(MOVING, id, volume)?);
        let used = |path: &Path| disk_usage::below(path).map_err(failed("measure", path));
        let used = match (is_there(&real)?, is_there(&moving)?) {
            (true, _) => Some(used(&real)?),
            (false, true) => Some(used(&moving)?),
            (false, false) => None,
        };
        let root = real.parent().unwrap_or(&real);
        let disk = rustix::fs::statvfs(root)
            .map_err(|error| failed("inspect the disk of", root)(error.into()))?;
        Ok(Inspection {
            used,
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            limit: None,
            has_first_copy: false,
        })
    }

    /// Removes the remains of the moves of a removed volume.
    pub(crate) fn forget_moves(&self, volume: &str) -> Result<(), Error> {
        let volume_path = self.path(volume)?;
        let root = volume_path.parent().unwrap_or(&volume_path);
        for entry in std::fs::read_dir(root).map_err(failed("read", root))? {
            let entry = entry.map_err(failed("read", root))?;
            let name = entry.file_name();
            if name.to_str().and_then(volume_of_mark) == Some(volume) {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn ended(id: &str) -> String {
    format!("the move {id} has ended on this node")
}

/// The volume of a move that has ended on this node, from the name of its file.
fn volume_of_mark(name: &str) -> Option<&str> {
    // An id has no hyphen.
    let (_, volume) = name.strip_prefix(ENDED)?.split_once('-')?;
    Some(volume)
}

/// Removes the file of an ended move, if its volume does not exist any more. A volume that another node has removed
/// leaves its file on this node.
pub(crate) fn sweep_mark(path: &Path, name: &str, has_volume: &impl Fn(&str) -> bool) {
    let is_leftover = volume_of_mark(name).is_some_and(|volume| !has_volume(volume));
    if is_leftover && let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(name, %error, "file of an ended move is kept");
    }
}

pub(crate) fn is_there(path: &Path) -> Result<bool, Error> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("inspect", path)(error)),
    }
}

/// A process with a mount of the directory, or of a directory in it. The kernel reports the current path of the root of
/// a mount, so a mount of a renamed directory has the new name.
pub(crate) fn user_of(directory: &Path) -> Result<Option<String>, Error> {
    let proc = Path::new("/proc");
    let mut namespaces = BTreeSet::new();
    for entry in std::fs::read_dir(proc).map_err(failed("read", proc))? {
        let entry = entry.map_err(failed("read", proc))?;
        let process = entry.path();
        let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        if !entry.file_name().to_str().is_some_and(is_process) {
            continue;
        }
        // A process that has ended has no mounts.
        let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else {
            continue;
        };
        if namespaces.contains(&namespace) {
            continue;
        }
        let Ok(table) = std::fs::read(process.join("mountinfo")) else {
            continue;
        };
        namespaces.insert(namespace);
        let mounts = mount_table::parse(&table);
        if mounts
            .iter()
            .any(|mount| leads_into(&mount.root, directory))
        {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            let number = entry.file_name();
            return Ok(Some(format!(
                "process {} ({})",
                number.to_string_lossy(),
                name.trim()
            )));
        }
    }
    Ok(None)
}

/// Whether the root of a mount is the directory of a move, or a directory in it. The id of the move makes the name
/// unique on the machine.
fn leads_into(root: &Path, directory: &Path) -> bool {
    root.iter().any(|part| Some(part) == directory.file_name())
}

#[cfg(test)]
mod tests {
    use controller_planners::volume_provisioning::ReclaimAction;
    use controller_planners::volume_provisioning::local::reclaim_action;
    use json_tree::json;
    use resource_kinds::annotations::{PROVISIONED_BY, VOLUME_MOVE};
    use resource_kinds::storage::driver::LOCAL_PROVISIONER;
    use resource_kinds::storage::volume_move::{MoveStage, VolumeMove, affinity_to};

    use super::*;

    const VOLUME: &str = "pvc-1";

    fn open() -> (tempfile::TempDir, Directories) {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let directories = Directories::open(path("volumes"), path("snapshots")).unwrap();
        (root, directories)
    }

    fn with_volume() -> (tempfile::TempDir, Directories, PathBuf) {
        let (root, directories) = open();
        let path = directories
            .make(VOLUME, 1 << 20, &InitialContents::Empty)
            .unwrap();
        std::fs::write(path.join("file"), "data").unwrap();
        (root, directories, path)
    }

    #[test]
    fn a_detached_directory_has_no_name_that_pods_know() {
        let (_root, directories, path) = with_volume();
        assert!(directories.inspect("a1", VOLUME).unwrap().used.is_some());
        for _ in 0..2 {
            assert_eq!(
                directories.detach("a1", VOLUME).unwrap(),
                Detachment::Detached
            );
            assert!(!path.exists());
        }
        let detached = directories.detached("a1", VOLUME).unwrap();
        assert_eq!(std::fs::read(detached.join("file")).unwrap(), b"data");
        for _ in 0..2 {
            directories.abandon("a1", VOLUME).unwrap();
            assert_eq!(std::fs::read(path.join("file")).unwrap(), b"data");
        }
        // A late call.
        assert_eq!(directories.detach("a1", VOLUME).unwrap(), Detachment::Ended);
        assert!(directories.detached("a1", VOLUME).is_err());
        assert!(path.exists());
        assert_eq!(
            directories.detach("b2", VOLUME).unwrap(),
            Detachment::Detached
        );
        directories.discard("b2", VOLUME).unwrap();
        assert_eq!(
            directories.detach("c3", VOLUME).unwrap(),
            Detachment::Missing
        );
        directories.remove(VOLUME).unwrap();
        let entries = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(entries.count(), 0);
    }

    #[test]
    fn a_copy_gets_the_name_of_the_volume_at_the_end() {
        let (_root, directories) = open();
        let begin = || directories.begin_arrival("a1", VOLUME, 1 << 20).unwrap();
        let CopyLocation::Begun(at) = begin() else {
            panic!("no directory");
        };
        std::fs::write(at.join("half"), "").unwrap();
        // Another attempt begins with nothing.
        assert_eq!(begin(), CopyLocation::Begun(at.clone()));
        assert!(!at.join("half").exists());
        std::fs::write(at.join("file"), "data").unwrap();
        let path = directories.finish_arrival("a1", VOLUME).unwrap();
        assert!(!path.exists());
        assert_eq!(begin(), CopyLocation::Complete(path.clone()));
        for _ in 0..2 {
            directories.install_arrival("a1", VOLUME).unwrap();
            assert_eq!(std::fs::read(path.join("file")).unwrap(), b"data");
        }
        assert!(matches!(begin(), CopyLocation::Refused(_)));
    }

    #[test]
    fn an_abandoned_copy_goes_and_does_not_come_back() {
        let (_root, directories) = open();
        let begin = || directories.begin_arrival("a1", VOLUME, 1 << 20).unwrap();
        let CopyLocation::Begun(at) = begin() else {
            panic!("no directory");
        };
        directories.abandon("a1", VOLUME).unwrap();
        assert!(!at.exists());
        assert!(matches!(begin(), CopyLocation::Refused(_)));
        assert!(directories.finish_arrival("a1", VOLUME).is_err());
        assert!(directories.install_arrival("a1", VOLUME).is_err());
    }

    #[test]
    fn the_file_of_an_ended_move_goes_with_its_volume() {
        let (_root, directories, path) = with_volume();
        directories.abandon("a1", VOLUME).unwrap();
        let mark = path.with_file_name(format!("{ENDED}a1-{VOLUME}"));
        directories.sweep(|_| true).unwrap();
        assert!(mark.exists());
        directories.sweep(|_| false).unwrap();
        assert!(!mark.exists() && path.join("file").exists());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let (_root, directories) = open();
        for (id, volume) in [
            ("../x", VOLUME),
            ("", VOLUME),
            ("a-1", VOLUME),
            ("a1", "../x"),
        ] {
            assert!(directories.detach(id, volume).is_err(), "{id} {volume}");
        }
    }

    #[test]
    fn a_volume_is_not_removed_while_it_moves() {
        let volume = |stage: MoveStage| {
            let record = VolumeMove::request("a1", "one", "two").in_stage(stage);
            let annotations =
                json!({PROVISIONED_BY: LOCAL_PROVISIONER, VOLUME_MOVE: record.to_text()});
            let volume = json!({"metadata": {"name": VOLUME, "annotations": annotations},
                "spec": {"local": {"path": "/a"}, "nodeAffinity": affinity_to("one"),
                    "persistentVolumeReclaimPolicy": "Delete"},
                "status": {"phase": "Released"}});
            json_tree::from_value(volume).unwrap()
        };
        for stage in [
            MoveStage::Requested,
            MoveStage::Copying,
            MoveStage::Placed,
            MoveStage::Abandoned,
        ] {
            let action = reclaim_action(&volume(stage), "one");
            assert_eq!(action, ReclaimAction::Keep, "{stage:?}");
        }
        for stage in [MoveStage::Moved, MoveStage::Failed] {
            let action = reclaim_action(&volume(stage), "one");
            assert_eq!(action, ReclaimAction::Remove, "{stage:?}");
        }
    }

    #[test]
    fn a_mount_is_known_by_the_name_of_the_move() {
        let directory = Path::new("/data/volumes/.moving-a1-pvc-1");
        assert!(leads_into(
            Path::new("/x/volumes/.moving-a1-pvc-1"),
            directory
        ));
        assert!(leads_into(
            Path::new("/.moving-a1-pvc-1/sub/path"),
            directory
        ));
        assert!(!leads_into(
            Path::new("/volumes/.moving-b2-pvc-1"),
            directory
        ));
        assert!(!leads_into(Path::new("/"), directory));
    }
}
