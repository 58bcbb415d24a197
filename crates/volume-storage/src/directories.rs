//! The directories of volumes on disk. Every path is the directory of all volumes and one plain name, so no object can
//! name a path outside of the directory.
//!
//! On btrfs a volume is a subvolume, which can have a limit and can be cloned at once. On file systems with project
//! quotas (xfs, ext4) it is a directory with a project id, which can have a limit.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use host_kernel::loop_device::LoopDevice;
use host_kernel::{btrfs, project_quota, tree};
use resource_kinds::storage::driver::VOLUME_PREFIX;

use crate::device_image;
use crate::error::StorageError as Error;
use crate::projects;
use crate::subvolumes::{self, InitialContents, VolumeCount};
use crate::volume_move::directories::sweep_mark;

/// Prefix of the names of directories that are being removed.
const REMOVED_PREFIX: &str = ".removed-";
/// Prefix of the names of subvolumes that are not complete.
const UNFINISHED_PREFIX: &str = ".unfinished-";
/// The mode of a volume: every user may write, because pods run as any user. Other hostPath
/// provisioners do the same.
pub(crate) const VOLUME_MODE: u32 = 0o777;
/// The size of an unlimited volume.
const UNLIMITED: u64 = u64::MAX;
/// The mode of directories that users of the host must not enter: images and the files of volumes are in them.
const PRIVATE_MODE: u32 = 0o700;

/// The directory of all volumes, and that of all snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    root: PathBuf,
    snapshots: PathBuf,
    kind: Kind,
}

/// The kind of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Subvolume,
    /// A directory with a project id.
    Project,
}

impl Kind {
    fn in_directory(root: &Path) -> io::Result<Self> {
        if btrfs::is_btrfs(root)? {
            Ok(Self::Subvolume)
        } else if project_quota::are_enforced(root)? {
            Ok(Self::Project)
        } else {
            Ok(Self::Plain)
        }
    }
}

/// Creates a directory that users of the host cannot enter, or changes the mode of an existing directory.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    tree::make_private(path).map_err(failed("make", path))
}

impl Directories {
    /// Creates the directories if they are missing, and completes interrupted removals. Both directories must be on one
    /// file system.
    pub fn open(root: PathBuf, snapshots: PathBuf) -> Result<Self, Error> {
        make_private(&root)?;
        let kind = Kind::in_directory(&root).map_err(failed("inspect", &root))?;
        let directories = Self {
            root,
            snapshots,
            kind,
        };
        if directories.kind == Kind::Subvolume {
            let snapshots = &directories.snapshots;
            make_private(snapshots)?;
            directories.finish_removals(snapshots)?;
        }
        directories.finish_removals(&directories.root)?;
        Ok(directories)
    }

    /// The directory of all volumes, and that of all snapshots.
    pub fn roots(&self) -> (&Path, &Path) {
        (&self.root, &self.snapshots)
    }

    /// The path of the named volume.
    pub fn path(&self, volume: &str) -> Result<PathBuf, Error> {
        self.below(&self.root, volume)
    }

    /// The path of the named snapshot.
    fn snapshot_path(&self, snapshot: &str) -> Result<PathBuf, Error> {
        self.below(&self.snapshots, snapshot)
    }

    fn below(&self, directory: &Path, name: &str) -> Result<PathBuf, Error> {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        let bounded = !name.is_empty() && !name.starts_with('.') && name.len() <= 200;
        if plain && bounded {
            Ok(directory.join(name))
        } else {
            Err(self.out_of_bounds(name))
        }
    }

    /// Checks that a volume object names the directory that belongs to its name.
    pub fn check(&self, volume: &str, path: &str) -> Result<(), Error> {
        let volume_path = self.path(volume)?;
        if volume_path == Path::new(path) || device_image::path(&volume_path) == Path::new(path) {
            Ok(())
        } else {
            Err(self.out_of_bounds(path))
        }
    }

    /// Creates the directory of a volume, or uses the existing directory. The directory is durable when the call
    /// returns.
    pub fn make(
        &self,
        volume: &str,
        bytes: u64,
        content: &InitialContents,
    ) -> Result<PathBuf, Error> {
        let path = self.path(volume)?;
        let exists = match std::fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.is_dir() => {
                let source = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(failed("use", &path)(source));
            }
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(failed("inspect", &path)(error)),
        };
        if !exists {
            self.make_new(volume, &path, bytes, content)?;
        }
        if *content == InitialContents::Empty {
            // The creation mode is cut by the process's mask.
            std::fs::set_permissions(&path, Permissions::from_mode(VOLUME_MODE))
                .map_err(failed("open to all", &path))?;
        }
        sync(&path)?;
        self.sync_root()?;
        Ok(path)
    }

    /// Creates the image of a block device in the directory of a volume, or uses the existing image. The image is
    /// durable when the call returns. Only its size limits the image.
    pub fn make_image(
        &self,
        volume: &str,
        bytes: u64,
        content: &InitialContents,
    ) -> Result<PathBuf, Error> {
        let directory = self.make(volume, UNLIMITED, content)?;
        std::fs::set_permissions(&directory, Permissions::from_mode(PRIVATE_MODE))
            .map_err(failed("close", &directory))?;
        let image = device_image::path(&directory);
        match content {
            InitialContents::Empty => device_image::make(&image, bytes),
            InitialContents::OfVolume(_) | InitialContents::OfSnapshot(_) => {
                device_image::grow(&image, bytes)
            }
        }
        .map_err(failed("make", &image))?;
        sync(&directory)?;
        Ok(image)
    }

    /// Grows the image of a volume, also while a pod uses it.
    pub fn grow_image(&self, volume: &str, bytes: u64) -> Result<(), Error> {
        let image = device_image::path(&self.path(volume)?);
        device_image::grow(&image, bytes).map_err(failed("grow", &image))
    }

    /// Detaches the loop device of a volume's image, if there is one.
    pub fn detach_image(&self, path: &str) -> Result<(), Error> {
        let path = Path::new(path);
        if device_image::is_path(path) {
            LoopDevice::detach_from(path).map_err(failed("detach", path))?;
        }
        Ok(())
    }

    pub(crate) fn make_new(
        &self,
        volume: &str,
        path: &Path,
        bytes: u64,
        content: &InitialContents,
    ) -> Result<(), Error> {
        let source = match content {
            InitialContents::Empty => None,
            InitialContents::OfVolume(source) => Some(self.path(source)?),
            InitialContents::OfSnapshot(source) => Some(self.snapshot_path(source)?),
        };
        let unfinished = self.root.join(format!("{UNFINISHED_PREFIX}{volume}"));
        match (self.kind, source) {
            (Kind::Subvolume, source) => {
                subvolumes::make(&unfinished, path, source.as_deref(), bytes)
            }
            (_, Some(_)) => {
                return Err(Error::NoCopies {
                    under: self.root.clone(),
                });
            }
            (Kind::Project, None) if bytes != UNLIMITED => projects::make(&unfinished, path, bytes),
            (_, None) => DirBuilder::new().create(path),
        }
        .map_err(failed("make", path))
    }

    /// Creates a subvolume with the files of another subvolume, which may belong to a move.
    pub(crate) fn make_clone(
        &self,
        volume: &str,
        path: &Path,
        bytes: u64,
        source: &Path,
    ) -> Result<(), Error> {
        let unfinished = self.root.join(format!("{UNFINISHED_PREFIX}{volume}"));
        subvolumes::make(&unfinished, path, Some(source), bytes).map_err(failed("make", path))
    }

    /// Changes the limit of a volume, if the file system supports limits.
    pub fn limit(&self, volume: &str, bytes: u64) -> Result<(), Error> {
        let path = self.path(volume)?;
        match self.kind {
            Kind::Subvolume if self.is_subvolume(&path)? => subvolumes::limit(&path, bytes),
            Kind::Project => projects::limit(&path, bytes),
            Kind::Subvolume | Kind::Plain => return Ok(()),
        }
        .map_err(failed("limit", &path))?;
        self.sync_root()
    }

    /// Whether new volumes cannot hold more than their size.
    pub fn limits_volumes(&self) -> Result<bool, Error> {
        match self.kind {
            Kind::Project => Ok(true),
            Kind::Subvolume => {
                let counts = btrfs::counts_dir(&self.root);
                Ok(counts.map_err(failed("inspect", &self.root))?.exists())
            }
            Kind::Plain => Ok(false),
        }
    }

    /// The usage of a volume; `None` if the file system does not count it.
    pub fn count(&self, volume: &str) -> Result<Option<VolumeCount>, Error> {
        let path = self.path(volume)?;
        match self.kind {
            Kind::Subvolume if self.is_subvolume(&path)? => subvolumes::count(&path),
            Kind::Project => projects::count(&path),
            Kind::Subvolume | Kind::Plain => Ok(None),
        }
        .map_err(failed("read the count of", &path))
    }

    /// Creates a snapshot of a volume; idempotent. The snapshot is durable when the call returns.
    pub fn snapshot(&self, volume: &str, snapshot: &str) -> Result<(), Error> {
        let (source, path) = (self.path(volume)?, self.snapshot_path(snapshot)?);
        if !self.is_subvolume(&source)? {
            return Err(Error::NoCopies {
                under: self.root.clone(),
            });
        }
        match btrfs::snapshot(&source, &path, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed("make a snapshot of", &source)(error)),
            Ok(()) => self.sync_root(),
        }
    }

    /// Whether a snapshot exists.
    pub fn has_snapshot(&self, snapshot: &str) -> Result<bool, Error> {
        Ok(self.snapshot_path(snapshot)?.exists())
    }

    /// Removes a snapshot; missing is fine.
    pub fn remove_snapshot(&self, snapshot: &str) -> Result<(), Error> {
        let path = self.snapshot_path(snapshot)?;
        subvolumes::remove(&path).map_err(failed("remove", &path))?;
        self.sync_root()
    }

    /// The sum of the limits of volumes and snapshots, in bytes.
    pub fn reserved(&self) -> Result<u64, Error> {
        let of = |dir: &Path| subvolumes::reserved(dir).map_err(failed("count what is in", dir));
        Ok(of(&self.root)?.saturating_add(of(&self.snapshots)?))
    }

    /// Whether the directories contain no volumes and no snapshots.
    pub fn is_empty(&self) -> Result<bool, Error> {
        for dir in [&self.root, &self.snapshots] {
            let mut entries = std::fs::read_dir(dir).map_err(failed("read", dir))?;
            if entries.next().is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the counts of deleted volumes and snapshots.
    pub fn forget_removed(&self, file_system: &Path) -> Result<(), Error> {
        let dirs = [self.root.clone(), self.snapshots.clone()];
        subvolumes::forget_removed(file_system, &dirs)
            .map_err(failed("forget counts of", file_system))
    }

    /// Removes the directory of a volume with its contents. The directory is renamed first, so that an incomplete
    /// removal is never mistaken for a volume. A missing directory is no error.
    pub fn remove(&self, volume: &str) -> Result<(), Error> {
        let path = self.path(volume)?;
        let removed = self.root.join(format!("{REMOVED_PREFIX}{volume}"));
        // An interrupted removal may have left a directory: both directories are removed.
        remove_tree(&removed)?;
        match std::fs::rename(&path, &removed) {
            Ok(()) => sync(&self.root)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("move away", &path)(error)),
        }
        remove_tree(&removed)?;
        self.forget_moves(volume)?;
        if self.kind == Kind::Subvolume {
            self.remove_replication(volume)?;
        }
        self.sync_root()
    }

    /// Removes directories of volumes that were never completed. Only empty directories and unwritten images are
    /// removed: data is never removed, whatever the objects in the API are.
    pub fn sweep(&self, has_volume: impl Fn(&str) -> bool) -> Result<(), Error> {
        let entries = std::fs::read_dir(&self.root).map_err(failed("read", &self.root))?;
        for entry in entries {
            let entry = entry.map_err(failed("read", &self.root))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            sweep_mark(&entry.path(), &name, &has_volume);
            let is_leftover = name.starts_with(VOLUME_PREFIX) && !has_volume(&name);
            if is_leftover {
                device_image::remove_unused(&device_image::path(&entry.path()));
            }
            if is_leftover && let Err(error) = projects::remove_empty(&entry.path()) {
                tracing::debug!(volume = name, %error, "directory without a volume is kept");
            }
        }
        Ok(())
    }

    fn finish_removals(&self, dir: &Path) -> Result<(), Error> {
        let entries = std::fs::read_dir(dir).map_err(failed("read", dir))?;
        for entry in entries {
            let entry = entry.map_err(failed("read", dir))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(REMOVED_PREFIX) || name.starts_with(UNFINISHED_PREFIX) {
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    fn is_subvolume(&self, path: &Path) -> Result<bool, Error> {
        let may_be = self.kind == Kind::Subvolume;
        Ok(may_be && btrfs::is_subvolume(path).map_err(failed("inspect", path))?)
    }

    pub(crate) fn sync_root(&self) -> Result<(), Error> {
        if self.kind == Kind::Subvolume {
            return btrfs::sync(&self.root).map_err(failed("sync", &self.root));
        }
        sync(&self.root)
    }

    pub(crate) fn out_of_bounds(&self, path: &str) -> Error {
        Error::OutOfBounds {
            path: path.to_owned(),
            under: self.root.clone(),
        }
    }
}

/// Removes a tree; a subvolume is removed with one call. Links in the tree are removed, not followed.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    let removed = match btrfs::is_subvolume(path) {
        Ok(true) => subvolumes::remove(path),
        _ => projects::release(path).and_then(|()| tree::remove(path)),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed("remove", path)),
    }
}

/// Writes the files of the file system that the directory is in to its disk.
pub(crate) fn sync_files(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
    synced.map_err(failed("sync", directory))
}

fn sync(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", path))
}

pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Directory {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Directories) {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let directories = Directories::open(path("volumes"), path("snapshots")).unwrap();
        (root, directories)
    }

    #[test]
    fn users_of_the_host_do_not_reach_volumes() {
        let root = tempfile::tempdir().unwrap();
        let volumes = root.path().join("volumes");
        std::fs::create_dir(&volumes).unwrap();
        // The mode that earlier versions of the program set.
        std::fs::set_permissions(&volumes, Permissions::from_mode(0o755)).unwrap();
        Directories::open(volumes.clone(), root.path().join("snapshots")).unwrap();
        let mode = std::fs::metadata(&volumes).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

    #[test]
    fn directories_are_made_once_and_open_to_all() {
        let (_root, directories) = open();
        let path = directories
            .make("pvc-1", 1 << 20, &InitialContents::Empty)
            .unwrap();
        std::fs::write(path.join("file"), "data").unwrap();
        assert_eq!(
            directories
                .make("pvc-1", 1 << 20, &InitialContents::Empty)
                .unwrap(),
            path
        );
        assert_eq!(std::fs::read(path.join("file")).unwrap(), b"data");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let (_root, directories) = open();
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc",
            ".removed-x",
            "a\0b",
            "a b",
        ] {
            assert!(directories.path(name).is_err(), "{name:?}");
            assert!(directories.remove(name).is_err(), "{name:?}");
        }
        assert!(directories.check("pvc-1", "/etc").is_err());
        let right = directories.path("pvc-1").unwrap();
        assert!(directories.check("pvc-1", right.to_str().unwrap()).is_ok());
    }

    #[test]
    fn removal_takes_links_not_what_they_lead_to() {
        let (root, directories) = open();
        let outside = root.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "data").unwrap();
        let path = directories
            .make("pvc-1", 1 << 20, &InitialContents::Empty)
            .unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        directories.remove("pvc-1").unwrap();
        assert!(!path.exists());
        assert!(outside.join("kept").exists());
        directories.remove("pvc-1").unwrap();
    }

    #[test]
    fn a_volume_that_is_itself_a_link_leads_nowhere() {
        let (root, directories) = open();
        let outside = root.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "data").unwrap();
        let path = directories.path("pvc-1").unwrap();
        std::os::unix::fs::symlink(&outside, &path).unwrap();
        assert!(
            directories
                .make("pvc-1", 1 << 20, &InitialContents::Empty)
                .is_err()
        );
        let _ = directories.remove("pvc-1");
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn only_empty_directories_without_a_volume_are_swept() {
        let (_root, directories) = open();
        let of_volume = directories
            .make("pvc-wanted", 1 << 20, &InitialContents::Empty)
            .unwrap();
        let empty = directories
            .make("pvc-empty", 1 << 20, &InitialContents::Empty)
            .unwrap();
        let full = directories
            .make("pvc-full", 1 << 20, &InitialContents::Empty)
            .unwrap();
        let foreign = directories
            .make("mine", 1 << 20, &InitialContents::Empty)
            .unwrap();
        std::fs::write(full.join("file"), "data").unwrap();
        directories.sweep(|name| name == "pvc-wanted").unwrap();
        assert!(of_volume.exists() && full.exists() && foreign.exists());
        assert!(!empty.exists());
    }

    #[test]
    fn an_image_is_made_once_grows_and_goes_when_it_is_not_wanted() {
        let (_root, directories) = open();
        let make = |bytes| directories.make_image("pvc-1", bytes, &InitialContents::Empty);
        let image = make(1 << 20).unwrap();
        std::fs::write(&image, "data").unwrap();
        assert_eq!(make(1 << 20).unwrap(), image);
        let size = || std::fs::metadata(&image).unwrap().len();
        assert_eq!(size(), 1 << 20, "what is there already is completed");
        assert!(std::fs::read(&image).unwrap().starts_with(b"data"));
        directories.grow_image("pvc-1", 2 << 20).unwrap();
        directories.grow_image("pvc-1", 1 << 20).unwrap();
        assert_eq!(size(), 2 << 20, "it never shrinks");
        assert!(directories.grow_image("pvc-2", 1).is_err());
        assert!(directories.check("pvc-1", image.to_str().unwrap()).is_ok());
        assert!(directories.check("pvc-2", image.to_str().unwrap()).is_err());
        let unused = directories
            .make_image("pvc-3", 1 << 20, &InitialContents::Empty)
            .unwrap();
        directories.sweep(|_| false).unwrap();
        assert!(image.exists(), "what holds data stays");
        assert!(!unused.exists() && !directories.path("pvc-3").unwrap().exists());
        directories.detach_image(image.to_str().unwrap()).unwrap();
        directories.remove("pvc-1").unwrap();
        assert!(!image.exists());
    }

    #[test]
    fn removals_that_were_cut_off_are_finished() {
        let (_root, directories) = open();
        let complete = directories
            .make("pvc-kept", 1 << 20, &InitialContents::Empty)
            .unwrap();
        let half = directories.root.join(format!("{REMOVED_PREFIX}pvc-1"));
        std::fs::create_dir(&half).unwrap();
        std::fs::write(half.join("rest"), "data").unwrap();
        // A new volume with the name of a volume whose removal is not complete.
        let path = directories
            .make("pvc-1", 1 << 20, &InitialContents::Empty)
            .unwrap();
        directories.remove("pvc-1").unwrap();
        assert!(!path.exists() && !half.exists());
        std::fs::create_dir(&half).unwrap();
        Directories::open(directories.root.clone(), directories.snapshots.clone()).unwrap();
        assert!(!half.exists() && complete.exists());
    }
}
