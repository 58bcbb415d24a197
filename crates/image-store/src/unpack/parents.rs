//! The parent directories of a layer's entries, and its hard links.
//!
//! Paths are resolved as in the image: with the files of the layer and, if the layer has no such file, with
//! the files of the layers below. If possible, a layer is unpacked before the layers below are known, so
//! that images share it. The parts that depend on the layers below are its [`LooseEnds`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::below::{Below, EntryBelow, copy_facts, is_plain, times_of};
use super::{
    ArchiveEntry, UnpackError, Unpacker, components, failure_at, is_opaque, is_white_out, joined,
    make_opaque, malformed, misplaced,
};

/// Maximum number of links that are followed in one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// The parts of a layer that depend on the layers below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LooseEnds {
    /// Directories without an entry, which the layer needs only for the files in them.
    directories: Vec<Vec<Vec<u8>>>,
    /// Directories that contain deletions.
    changed: BTreeSet<Vec<Vec<u8>>>,
    /// Whether the layer has hard links to files of other layers.
    links: bool,
}

impl LooseEnds {
    /// Whether the layer, unpacked independently, is correct above these layers.
    pub fn fit(&self, below: &Below) -> Result<bool, Errno> {
        for path in &self.directories {
            let fits = match below.find(path)? {
                EntryBelow::Nothing => true,
                EntryBelow::Directory(root) if path.is_empty() => owner(&root)? == (0, 0),
                EntryBelow::Directory(directory) => is_plain(&directory)?,
                EntryBelow::Link(..) | EntryBelow::Other(_) => false,
            };
            if !fits {
                return Ok(false);
            }
        }
        for path in &self.changed {
            if !path.is_empty() && !matches!(below.find(path)?, EntryBelow::Directory(_)) {
                return Ok(false);
            }
        }
        Ok(!self.links)
    }

    /// The content of the layer's loose-ends file.
    pub fn encode(&self) -> Vec<u8> {
        let links = self.links.then(|| b"l".to_vec());
        let line = |kind: &[u8], path: &Vec<Vec<u8>>| [kind, path.join(&b'/').as_slice()].concat();
        let changed = self.changed.iter().map(|path| line(b"c", path));
        let directories = self.directories.iter();
        let directories =
            directories.map(|path| [b"d".as_slice(), path.join(&b'/').as_slice()].concat());
        let lines = links.into_iter().chain(directories).chain(changed);
        lines.flat_map(|line| [line, vec![0]].concat()).collect()
    }

    /// Decodes the output of [`encode`](Self::encode).
    pub fn decode(bytes: &[u8]) -> Self {
        let mut ends = LooseEnds::default();
        for line in bytes.split(|byte| *byte == 0) {
            match line.split_first() {
                Some((b'l', _)) => ends.links = true,
                Some((kind, path)) => {
                    let parts = path.split(|byte| *byte == b'/');
                    let parts = parts.filter(|part| !part.is_empty());
                    let path = parts.map(<[u8]>::to_vec).collect();
                    match kind {
                        b'c' => drop(ends.changed.insert(path)),
                        _ => ends.directories.push(path),
                    }
                }
                None => {}
            }
        }
        ends
    }
}

/// The layers below, if they are known.
pub(crate) enum Context {
    /// The layers below are unknown: the loose ends are recorded. Directories without an entry are
    /// recognised by their inodes.
    Unknown {
        directories: BTreeMap<u64, Vec<Vec<u8>>>,
        changed: BTreeSet<Vec<Vec<u8>>>,
        links: bool,
    },
    Available(Below),
}

impl Context {
    pub fn unknown() -> Self {
        Context::Unknown {
            directories: BTreeMap::new(),
            changed: BTreeSet::new(),
            links: false,
        }
    }
}

/// A directory of the layer: its path in the layer, and its descriptor.
pub(super) struct ParentDirectory {
    pub path: Vec<Vec<u8>>,
    pub directory: OwnedFd,
}

impl ParentDirectory {
    fn try_clone(&self) -> std::io::Result<Self> {
        Ok(ParentDirectory {
            path: self.path.clone(),
            directory: self.directory.try_clone()?,
        })
    }
}

impl Unpacker {
    /// Opens the parent directory of an entry, and creates missing parents.
    pub(super) fn parent_directory(
        &mut self,
        parents: &[Vec<u8>],
    ) -> Result<ParentDirectory, UnpackError> {
        let failed = |error| failure_at(parents, error);
        if let Some((path, directory)) = &self.last_parent
            && path == parents
        {
            return directory.try_clone().map_err(failed);
        }
        let directory = match self.open_inside(&joined(parents), OFlags::DIRECTORY) {
            Ok(directory) => ParentDirectory {
                path: parents.to_vec(),
                directory,
            },
            Err(_) => self.make_parents(parents)?,
        };
        let cached = directory.try_clone().map_err(failed)?;
        self.last_parent = Some((parents.to_vec(), cached));
        Ok(directory)
    }

    fn make_parents(&mut self, parents: &[Vec<u8>]) -> Result<ParentDirectory, UnpackError> {
        let failed = |errno: Errno| failure_at(parents, errno.into());
        let mut directory = self.directory_at(Vec::new()).map_err(failed)?;
        let mut followed = 0;
        // A stack whose top is the next component.
        let mut remaining: Vec<Vec<u8>> = parents.iter().rev().cloned().collect();
        while let Some(part) = remaining.pop() {
            if part == b".." {
                let mut path = directory.path;
                path.pop();
                directory = self.directory_at(path).map_err(failed)?;
                continue;
            }
            let Some(target) = self.step(&mut directory, part).map_err(failed)? else {
                continue;
            };
            followed += 1;
            if followed > LINKS_MAX {
                return Err(misplaced(parents));
            }
            if target.starts_with(b"/") {
                directory = self.directory_at(Vec::new()).map_err(failed)?;
            }
            let parts = target.split(|byte| *byte == b'/').rev();
            let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
            remaining.extend(parts.map(<[u8]>::to_vec));
        }
        Ok(directory)
    }

    /// Enters a directory, which is created if it is missing. If the name is a link, returns the target of
    /// the link instead.
    fn step(
        &mut self,
        directory: &mut ParentDirectory,
        part: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Errno> {
        let name = OsStr::from_bytes(&part).to_owned();
        let dir = &directory.directory;
        let kind = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        let below = match kind {
            Some(FileType::Directory) => None,
            Some(FileType::Symlink) => {
                let target = rustix::fs::readlinkat(dir, &name, Vec::new())?;
                return Ok(Some(target.into_bytes()));
            }
            // A deletion of this layer, which a later entry of this layer reverts.
            Some(_) if is_white_out(dir, &part) => {
                rustix::fs::unlinkat(dir, &name, AtFlags::empty())?;
                let created = make_directory(dir, &name)?;
                make_opaque(&created)?;
                None
            }
            Some(_) => return Err(Errno::NOTDIR),
            None => Some(self.entry_below(directory, &part)?),
        };
        directory.path.push(part);
        match below {
            None => {}
            Some(EntryBelow::Link(target, _)) => {
                directory.path.pop();
                return Ok(Some(target));
            }
            Some(EntryBelow::Directory(original)) => {
                let created = make_directory(dir, &name)?;
                copy_facts(&original, &File::from(created))?;
                // New files in the directory change its time.
                let time = times_of(&original)?.last_modification;
                self.directories.push((directory.path.clone(), time));
            }
            Some(EntryBelow::Nothing | EntryBelow::Other(_)) => {
                let created = make_directory(dir, &name)?;
                let inode = rustix::fs::fstat(&created)?.st_ino;
                let hidden = self.is_hidden(&directory.path[..directory.path.len() - 1])?;
                if let Context::Unknown { directories, .. } = &mut self.context
                    && !hidden
                {
                    directories.insert(inode, directory.path.clone());
                }
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory.directory =
            rustix::fs::openat(&directory.directory, &name, flags, Mode::empty())?;
        Ok(None)
    }

    fn directory_at(&self, path: Vec<Vec<u8>>) -> Result<ParentDirectory, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let name = joined(&path);
        let directory = rustix::fs::openat2(&self.root, name, flags, Mode::empty(), resolve)?;
        Ok(ParentDirectory { path, directory })
    }

    /// A file of the layers below, if they are known and this layer does not hide the file.
    fn entry_below(&self, directory: &ParentDirectory, name: &[u8]) -> Result<EntryBelow, Errno> {
        let Context::Available(below) = &self.context else {
            return Ok(EntryBelow::Nothing);
        };
        if self.is_hidden(&directory.path)? {
            return Ok(EntryBelow::Nothing);
        }
        below.find(&[directory.path.as_slice(), &[name.to_vec()]].concat())
    }

    /// Whether this layer hides the content of a directory in the layers below.
    fn is_hidden(&self, path: &[Vec<u8>]) -> Result<bool, Errno> {
        for depth in 0..=path.len() {
            if is_opaque(&self.directory_at(path[..depth].to_vec())?.directory) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the image has a file at a parent path of an entry: a deletion there has no effect.
    pub(super) fn is_below_a_file(&self, parents: &[Vec<u8>]) -> Result<bool, Errno> {
        let Context::Available(below) = &self.context else {
            return Ok(false);
        };
        if self
            .open_inside(&joined(parents), OFlags::DIRECTORY)
            .is_ok()
        {
            return Ok(false);
        }
        for depth in 1..=parents.len() {
            if matches!(below.find(&parents[..depth])?, EntryBelow::Other(_)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the overlay merges a directory with a directory below. In other directories, the overlay
    /// would show the names of deletions.
    pub(super) fn is_merged(&mut self, directory: &ParentDirectory) -> Result<bool, UnpackError> {
        // The path without links.
        let ParentDirectory { path, .. } = self.make_parents(&directory.path)?;
        let failed = |errno: Errno| failure_at(&path, errno.into());
        if path.is_empty() {
            return Ok(true);
        }
        if self.is_hidden(&path).map_err(failed)? {
            return Ok(false);
        }
        match &mut self.context {
            Context::Available(below) => {
                let entry = below.find(&path).map_err(failed)?;
                Ok(matches!(entry, EntryBelow::Directory(_)))
            }
            Context::Unknown { changed, .. } => {
                changed.insert(path);
                Ok(true)
            }
        }
    }

    /// Sets the owner of the root to its owner in the layers below.
    pub(super) fn begin_root(&mut self) -> Result<(), Errno> {
        match &mut self.context {
            Context::Available(below) => match below.find(&[])? {
                EntryBelow::Directory(root) => {
                    let (user, group) = owner(&root)?;
                    self.set_root_owner(user, group)
                }
                _ => Ok(()),
            },
            Context::Unknown { directories, .. } => {
                let inode = rustix::fs::fstat(&self.root)?.st_ino;
                directories.insert(inode, Vec::new());
                Ok(())
            }
        }
    }

    /// Sets the owner of the root from its entry. The mode stays 0755, as in containerd: some images are
    /// created from private directories, but their programs may run as other users.
    pub(super) fn root_entry(&mut self, entry: &ArchiveEntry) -> Result<(), Errno> {
        if entry.kind != tar::EntryType::Directory {
            return Ok(());
        }
        let root = self.directory_at(Vec::new())?.directory;
        self.is_explicit(&root)?;
        self.set_root_owner(entry.uid, entry.gid)
    }

    fn set_root_owner(&self, user: u32, group: u32) -> Result<(), Errno> {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        let flags = AtFlags::EMPTY_PATH;
        rustix::fs::chownat(&self.root, "", Some(user), Some(group), flags)
    }

    /// Records that a directory has an entry.
    pub(super) fn is_explicit(&mut self, directory: &OwnedFd) -> Result<(), Errno> {
        if let Context::Unknown { directories, .. } = &mut self.context {
            directories.remove(&rustix::fs::fstat(directory)?.st_ino);
        }
        Ok(())
    }

    /// The loose ends of the layer, after all entries are unpacked.
    pub(super) fn loose_ends(&self) -> Result<LooseEnds, Errno> {
        let Context::Unknown {
            directories,
            changed,
            links,
        } = &self.context
        else {
            return Ok(LooseEnds::default());
        };
        let mut ends = LooseEnds {
            directories: Vec::new(),
            changed: changed.clone(),
            links: *links,
        };
        for (inode, path) in directories {
            // A directory that was replaced later has another inode, or is no directory.
            if let Ok(directory) = self.directory_at(path.clone())
                && rustix::fs::fstat(&directory.directory)?.st_ino == *inode
            {
                ends.directories.push(path.clone());
            }
        }
        ends.directories.sort();
        Ok(ends)
    }

    pub(super) fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &ArchiveEntry,
    ) -> Result<(), UnpackError> {
        let missing = || malformed(joined(&entry.path), "a hard link to nothing in the image");
        let failed = |errno: Errno| failure_at(&entry.path, errno.into());
        let target = components(&entry.link)?;
        let (last, parents) = target.split_last().ok_or_else(missing)?;
        let target_file = self
            .open_inside(&joined(parents), OFlags::DIRECTORY)
            .and_then(|dir| Ok((open_in(&dir, last)?, is_white_out(&dir, last))));
        let target_file = match (target_file, &mut self.context) {
            (Ok((target_file, false)), _) => target_file,
            (Ok((_, true)), _) => return Err(missing()),
            (Err(_), Context::Unknown { links, .. }) => {
                *links = true;
                return Ok(());
            }
            (Err(_), Context::Available(_)) => {
                let directory = self.make_parents(parents)?;
                if !self.copy_up(&directory, last, entry)? {
                    return Err(missing());
                }
                let path = [directory.path.as_slice(), std::slice::from_ref(last)].concat();
                self.copied.insert(path);
                open_in(&directory.directory, last).map_err(failed)?
            }
        };
        let stat = rustix::fs::fstat(&target_file).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(malformed(joined(&entry.path), "a hard link to a directory"));
        }
        let source = format!("/proc/self/fd/{}", target_file.as_raw_fd());
        let name = OsStr::from_bytes(name);
        rustix::fs::linkat(CWD, source, parent, name, AtFlags::SYMLINK_FOLLOW).map_err(failed)
    }

    /// Copies a file of the layers below into this layer, as the overlay does before it creates a hard
    /// link.
    fn copy_up(
        &mut self,
        directory: &ParentDirectory,
        name: &[u8],
        entry: &ArchiveEntry,
    ) -> Result<bool, UnpackError> {
        let failed = |errno: Errno| failure_at(&entry.path, errno.into());
        let to = OsStr::from_bytes(name);
        let dir = &directory.directory;
        // A path through links of the layers below may lead to a file of this layer.
        if open_in(dir, name).is_ok() {
            return Ok(!is_white_out(dir, name));
        }
        let original = match self.entry_below(directory, name).map_err(failed)? {
            EntryBelow::Nothing | EntryBelow::Directory(_) => return Ok(false),
            EntryBelow::Link(target, original) => {
                rustix::fs::symlinkat(OsStr::from_bytes(&target), dir, to).map_err(failed)?;
                original
            }
            EntryBelow::Other(original) => {
                let stat = rustix::fs::fstat(&original).map_err(failed)?;
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::RegularFile {
                    return self.copy_file(&original, dir, to, entry).map(|()| true);
                }
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(dir, to, kind, mode, stat.st_rdev).map_err(failed)?;
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::chmodat(dir, to, mode, AtFlags::empty()).map_err(failed)?;
                original
            }
        };
        let stat = rustix::fs::fstat(&original).map_err(failed)?;
        let owner = Some(Uid::from_raw(stat.st_uid));
        let group = Some(Gid::from_raw(stat.st_gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(dir, to, owner, group, flags).map_err(failed)?;
        let times = times_of(&original).map_err(failed)?;
        rustix::fs::utimensat(dir, to, &times, flags).map_err(failed)?;
        Ok(true)
    }

    fn copy_file(
        &mut self,
        from: &OwnedFd,
        dir: &OwnedFd,
        to: &OsStr,
        entry: &ArchiveEntry,
    ) -> Result<(), UnpackError> {
        let failed = |errno: Errno| failure_at(&entry.path, errno.into());
        let opened = File::open(format!("/proc/self/fd/{}", from.as_raw_fd()));
        let mut contents = opened.map_err(|error| failure_at(&entry.path, error))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(dir, to, flags | OFlags::CLOEXEC, mode);
        let mut file = File::from(file.map_err(failed)?);
        let copied = self.space.copy(&mut contents, &mut file);
        self.bytes += copied.map_err(|error| self.refused(&entry.path, error))?;
        copy_facts(from, &file).map_err(failed)
    }
}

/// The user and the group that own a file.
fn owner(file: &OwnedFd) -> Result<(u32, u32), Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_uid, stat.st_gid))
}

fn open_in(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, OsStr::from_bytes(name), flags, Mode::empty())
}

/// Creates a directory that belongs to root, with a mode independent of the umask.
fn make_directory(dir: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))?;
    Ok(directory)
}
