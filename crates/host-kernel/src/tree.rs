//! Walks of directory trees that containers can modify.
//!
//! A container can replace directories and links at any moment, so a path may lead elsewhere directly after a check.
//! Therefore a walk never uses a path. It opens each directory by its name in the open parent directory, without
//! following a link, and changes each entry through a descriptor of the entry. Trees may have any depth: a walk keeps a
//! bounded number of descriptors open. It returns to closed directories through `..`, and compares the result with the
//! directory it came from.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Number of levels that stay open at the top, and at the bottom.
const LEVELS_OPEN: usize = 32;

/// The mode of directories that users of the host must not access.
const PRIVATE_MODE: u32 = 0o700;

/// The treatment of mount points in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// The walk descends into mounts.
    Enter,
    /// The walk does not descend into mounts.
    Skip,
}

/// One entry of a directory.
pub struct TreeEntry<'a> {
    dir: BorrowedFd<'a>,
    name: &'a CStr,
    stat: Stat,
}

impl TreeEntry<'_> {
    /// The attributes of the entry at the time of the visit.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Whether the entry was a directory at the time of the visit.
    pub fn is_dir(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }

    /// The name of the entry in its directory.
    pub fn name(&self) -> &CStr {
        self.name
    }

    /// A handle of the entry. For a link, it is a handle of the link itself.
    ///
    /// # Errors
    /// The entry no longer exists.
    pub fn handle(&self) -> io::Result<Handle> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Handle::new(rustix::fs::openat(
            self.dir,
            self.name,
            flags,
            Mode::empty(),
        )?)
    }
}

/// A handle of a file, directory or link, independent of its name.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
    stat: Stat,
}

impl Handle {
    /// A handle of the target of a path on the node.
    ///
    /// # Errors
    /// The target does not exist.
    pub fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Self::new(rustix::fs::open(path, flags, Mode::empty())?)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// The attributes, read from the open file.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// The file type, from the mode.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens the file for reading.
    ///
    /// # Errors
    /// The entry is neither a regular file nor a directory. Opening a device could have side effects.
    pub fn open(&self) -> io::Result<File> {
        match self.file_type() {
            FileType::RegularFile | FileType::Directory => File::open(self.itself()),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("not a file to be read: {other:?}"),
            )),
        }
    }

    /// The target of a link.
    ///
    /// # Errors
    /// The entry is not a link.
    pub fn link_target(&self) -> io::Result<CString> {
        Ok(rustix::fs::readlinkat(&self.fd, c"", Vec::new())?)
    }

    /// The path of the descriptor in /proc, which leads to the file itself, even if the file is renamed.
    fn itself(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }

    /// Changes the group.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn set_group(&self, gid: u32) -> io::Result<()> {
        let group = Some(Gid::from_raw(gid));
        Ok(rustix::fs::chownat(
            &self.fd,
            c"",
            None,
            group,
            AtFlags::EMPTY_PATH,
        )?)
    }

    /// Sets the permission bits. A link has none.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        // The call that accepts a descriptor without a name (fchmodat2) is newer than the supported kernels.
        Ok(rustix::fs::chmod(self.itself(), Mode::from_raw_mode(mode))?)
    }
}

/// The actions of a walk.
pub trait Visitor {
    /// Visits an entry. A directory is visited before its contents.
    ///
    /// # Errors
    /// An error ends the walk, except for [`io::ErrorKind::NotFound`], which means that the entry no longer exists.
    fn entry(&mut self, entry: &TreeEntry<'_>) -> io::Result<()>;

    /// Enters a directory with this name in the previous directory.
    fn entered(&mut self, _name: &CStr) {}

    /// Leaves a directory with this name in `parent`.
    ///
    /// # Errors
    /// An error ends the walk.
    fn left(&mut self, _parent: BorrowedFd<'_>, _name: &CStr) -> io::Result<()> {
        Ok(())
    }

    /// Reports that the walk could not return from a deep directory, because the directory was moved. The siblings of
    /// its parents are not visited.
    ///
    /// # Errors
    /// An error ends the walk.
    fn lost(&mut self) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "directories are moved while they are gone through",
        ))
    }
}

/// An open directory on the path from the root.
struct Level {
    fd: Option<OwnedFd>,
    id: (u64, u64),
    /// The name of the directory in its parent.
    name: CString,
    /// The subdirectories that were not entered yet.
    dirs: Vec<CString>,
}

/// Visits everything below a directory, but not the directory itself.
///
/// # Errors
/// The root is not a directory, or the visitor fails. Entries that are removed during the walk, or
/// replaced by a link, are skipped.
pub fn walk(root: &Handle, mounts: Mounts, visitor: &mut dyn Visitor) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&root.fd, c".", flags, Mode::empty())?;
    let mut levels = vec![read(fd, CString::default(), visitor)?];
    while let Some(level) = levels.last_mut() {
        match (level.dirs.pop(), &level.fd) {
            (Some(name), Some(fd)) => {
                let Some(child) = open_dir(fd, &name, mounts)? else {
                    continue;
                };
                visitor.entered(&name);
                levels.push(read(child, name, visitor)?);
                let depth = levels.len();
                if let Some(above) = depth.checked_sub(LEVELS_OPEN + 1)
                    && above >= LEVELS_OPEN
                {
                    levels[above].fd = None;
                }
            }
            _ => ascend(&mut levels, visitor)?,
        }
    }
    Ok(())
}

/// Returns to the parent of the last directory, or to the nearest ancestor that is still open.
fn ascend(levels: &mut Vec<Level>, visitor: &mut dyn Visitor) -> io::Result<()> {
    let Some(done) = levels.pop() else {
        return Ok(());
    };
    let Some(parent) = levels.last_mut() else {
        return Ok(());
    };
    if parent.fd.is_none() {
        parent.fd = done.fd.as_ref().and_then(|fd| reopen(fd, parent.id));
    }
    if let Some(fd) = &parent.fd {
        return visitor.left(fd.as_fd(), &done.name);
    }
    visitor.lost()?;
    while levels.last().is_some_and(|level| level.fd.is_none()) {
        levels.pop();
    }
    Ok(())
}

/// Opens the parent directory; `None` if it is not the expected directory any more.
fn reopen(fd: &OwnedFd, id: (u64, u64)) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::openat(fd, c"..", flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&parent).ok()?;
    (id_of(&stat) == id).then_some(parent)
}

fn id_of(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Opens a directory by its name; `None` if the directory no longer exists.
fn open_dir(dir: &OwnedFd, name: &CStr, mounts: Mounts) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    resolve.set(ResolveFlags::NO_XDEV, mounts == Mounts::Skip);
    match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads a directory, visiting each entry.
fn read(fd: OwnedFd, name: CString, visitor: &mut dyn Visitor) -> io::Result<Level> {
    let mut dirs = Vec::new();
    for dir_entry in Dir::read_from(&fd)? {
        let dir_entry = dir_entry?;
        let name = dir_entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match rustix::fs::statat(&fd, name, flags) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let dir = fd.as_fd();
        let entry = TreeEntry { dir, name, stat };
        match visitor.entry(&entry) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        }
        if entry.is_dir() {
            dirs.push(name.to_owned());
        }
    }
    let id = id_of(&rustix::fs::fstat(&fd)?);
    let fd = Some(fd);
    Ok(Level { fd, id, name, dirs })
}

/// Removes a file, a link, or a directory with its contents. Links are removed and not followed. Mounts in the
/// directory stay, and so do their parents.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if the entry does not exist, or the kernel's error. After an error, a part may be
/// removed.
pub fn remove(path: &Path) -> io::Result<()> {
    struct Remover;
    impl Visitor for Remover {
        fn entry(&mut self, entry: &TreeEntry<'_>) -> io::Result<()> {
            if entry.is_dir() {
                return Ok(());
            }
            Ok(rustix::fs::unlinkat(
                entry.dir,
                entry.name,
                AtFlags::empty(),
            )?)
        }

        fn left(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
            match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
        }
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = Handle::new(rustix::fs::open(path, flags, Mode::empty())?)?;
    if root.file_type() != FileType::Directory {
        cov_mark::hit!(findings_s5);
        return Ok(rustix::fs::unlinkat(CWD, path, AtFlags::empty())?);
    }
    walk(&root, Mounts::Skip, &mut Remover)?;
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Creates a directory with its missing parents, without access for other users. An existing directory is restricted in
/// the same way. Other users could otherwise read the data of pods, and run setuid programs of pods.
///
/// # Errors
/// Errors of the kernel.
pub fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_MODE)
        .create(path)?;
    // Directories of an earlier version were accessible.
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_MODE))
}

/// Opens a regular file for reading. Links are not followed, and the call never blocks.
///
/// # Errors
/// The file does not exist, or has another type.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is no regular file", path.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A temporary directory, which is removed on drop.
    struct TestDirectory(PathBuf);

    impl TestDirectory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tree-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for TestDirectory {
        fn drop(&mut self) {
            remove(&self.0).ok();
        }
    }

    /// A visitor that counts the entries, and sets their group.
    struct Giver(usize);

    impl Visitor for Giver {
        fn entry(&mut self, entry: &TreeEntry<'_>) -> io::Result<()> {
            self.0 += 1;
            let handle = entry.handle()?;
            handle.set_group(4711)?;
            match handle.file_type() {
                FileType::Symlink => Ok(()),
                _ => handle.set_mode(0o2777),
            }
        }
    }

    fn group_and_mode(path: &Path) -> (u32, u32) {
        use std::os::unix::fs::MetadataExt;
        let result = fs::symlink_metadata(path).unwrap();
        (result.gid(), result.mode() & 0o7777)
    }

    /// findings S5
    #[test]
    fn a_directory_that_is_swapped_for_a_link_leads_nowhere() {
        let path = TestDirectory::new("swap");
        let (volume, outside) = (path.0.join("volume"), path.0.join("outside"));
        fs::create_dir_all(volume.join("dir")).unwrap();
        fs::create_dir(&outside).unwrap();
        for number in 0..20 {
            fs::write(volume.join(format!("dir/{number}")), "").unwrap();
            fs::write(outside.join(number.to_string()), "").unwrap();
        }
        let before = group_and_mode(&outside.join("0"));
        symlink(&outside, volume.join("link")).unwrap();
        let over = AtomicBool::new(false);
        let swap = || {
            let (dir, link) = (volume.join("dir"), volume.join("link"));
            while !over.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &dir, CWD, &link, exchange).unwrap();
            }
        };
        let root = Handle::at(&volume).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(swap);
            for _ in 0..500 {
                walk(&root, Mounts::Enter, &mut Giver(0)).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        for number in 0..20 {
            let file = outside.join(number.to_string());
            assert_eq!(group_and_mode(&file), before);
        }
        assert_eq!(group_and_mode(&outside).0, before.0);
    }

    /// findings S5: a container can make directories deeper than any path is long.
    #[test]
    fn trees_of_any_depth_are_gone_through_and_removed() {
        const DEPTH: usize = 150;
        let path = TestDirectory::new("deep");
        let root = path.0.join("root");
        fs::create_dir(&root).unwrap();
        let name = "d".repeat(200);
        let mut at = rustix::fs::open(&root, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&at, c"beside", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), OFlags::PATH, Mode::empty()).unwrap();
        }
        let mut count = Giver(0);
        walk(&Handle::at(&root).unwrap(), Mounts::Skip, &mut count).unwrap();
        assert_eq!(count.0, 2 * DEPTH);
        remove(&root).unwrap();
        assert!(!root.exists());
    }

    /// findings S6
    #[test]
    fn a_private_directory_is_made_and_an_open_one_closed() {
        let path = TestDirectory::new("private");
        let dir = path.0.join("above/dir");
        for _ in 0..2 {
            make_private(&dir).unwrap();
            assert_eq!(group_and_mode(&dir).1, 0o700);
            fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// findings S5
    #[test]
    fn what_links_lead_to_is_not_removed_and_not_read() {
        cov_mark::check!(findings_s5);
        let path = TestDirectory::new("links");
        let (tree, retained) = (path.0.join("tree"), path.0.join("kept"));
        fs::create_dir_all(tree.join("in")).unwrap();
        fs::create_dir(&retained).unwrap();
        fs::write(retained.join("file"), "x").unwrap();
        symlink(&retained, tree.join("in/link")).unwrap();
        let link = path.0.join("link");
        symlink(retained.join("file"), &link).unwrap();
        assert!(open_file(&link).is_err());
        assert!(open_file(&retained).is_err());
        remove(&tree).unwrap();
        remove(&link).unwrap();
        assert!(!tree.exists() && retained.join("file").exists());
        assert_eq!(remove(&tree).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
