//! Unpacks a layer into a directory, without trusting its contents.
//!
//! Every path is resolved with the directory as its root (`openat2`, `RESOLVE_IN_ROOT`), and a link at its
//! end is not followed. So neither `..` nor a link in the layer leads outside. Counts and lengths are
//! limited; sizes are limited by the free disk space ([`crate::disk_space`]). Whiteouts are converted to
//! those of overlayfs (a character device 0:0, or an opaque mark on the directory), as in the OCI image
//! layer specification and the kernel's overlayfs documentation.

mod below;
mod entry;
mod parents;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use tar::EntryType;

use crate::disk_space::{Bytes, OutOfSpace, SpaceError, WriteSpace};
pub(crate) use below::Below;
use entry::{ArchiveEntry, Entries, components};
use parents::ParentDirectory;
pub(crate) use parents::{Context, LooseEnds};

/// The prefix of a file that hides another file in the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// The name of the file that hides the content of its directory in the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Maximum number of entries of a layer; usual layers have far fewer.
const ENTRIES_MAX: u64 = 4_000_000;

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A path that leaves the directory, or is invalid.
    #[error("layer entry {path:?} has an unsafe path")]
    UnsafePath {
        /// The path in the layer.
        path: PathBuf,
    },
    /// The layer exceeds a limit.
    #[error("layer is larger than the limit of {limit} {unit}")]
    TooLarge {
        limit: u64,
        /// `entries`, or the kind of bytes.
        unit: &'static str,
    },
    /// The disk has not enough free space for the layer.
    #[error("unpack layer entry {path:?}, after {}: {source}", Bytes(*.unpacked))]
    OutOfSpace {
        path: PathBuf,
        /// Bytes that were unpacked before.
        unpacked: u64,
        source: OutOfSpace,
    },
    /// The archive is malformed, or the disk failed.
    #[error("unpack layer entry {path:?}: {source}")]
    Io {
        /// The entry; empty between two entries.
        path: PathBuf,
        source: io::Error,
    },
}

/// Properties of an unpacked layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Total bytes of all files.
    pub bytes: u64,
    /// Empty if the layers below are known.
    pub loose_ends: LooseEnds,
}

/// Unpacks an uncompressed archive into an existing empty directory.
///
/// # Errors
/// The archive is malicious or malformed, or the disk fails or is full; the directory is then incomplete.
pub(crate) fn unpack(
    archive: impl Read,
    directory: &Path,
    space: WriteSpace,
    context: Context,
) -> Result<Unpacked, UnpackError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| failure(directory, error))?;
    let mut unpacker = Unpacker {
        root,
        space,
        context,
        bytes: 0,
        entries: 0,
        directories: Vec::new(),
        last_parent: None,
        copied: BTreeSet::new(),
    };
    unpacker
        .begin_root()
        .map_err(|error| failure(directory, error))?;
    let mut entries = Entries::new(archive);
    while let Some(entry) = entries.next()? {
        unpacker.add(&entry, &mut entries)?;
    }
    unpacker.finish(directory)
}

/// The entries of an archive, without unpacking them.
pub(crate) fn entries<R: Read>(archive: R) -> Entries<R> {
    Entries::new(archive)
}

fn failure(path: &Path, error: impl Into<io::Error>) -> UnpackError {
    UnpackError::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

fn malformed(path: impl Into<PathBuf>, reason: &str) -> UnpackError {
    UnpackError::Io {
        path: path.into(),
        source: io::Error::new(io::ErrorKind::InvalidData, reason),
    }
}

fn bytes_path(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}

struct Unpacker {
    root: OwnedFd,
    space: WriteSpace,
    context: Context,
    bytes: u64,
    entries: u64,
    // Times of directories are set at the end, because every new file changes them.
    directories: Vec<(Vec<Vec<u8>>, Timespec)>,
    last_parent: Option<(Vec<Vec<u8>>, ParentDirectory)>,
    /// Files of the layers below that were copied into this layer only for a hard link.
    copied: BTreeSet<Vec<Vec<u8>>>,
}

impl Unpacker {
    fn add(&mut self, entry: &ArchiveEntry, contents: &mut impl Read) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(UnpackError::TooLarge {
                limit: ENTRIES_MAX,
                unit: "entries",
            });
        }
        let fits = self.space.check_large(entry.size);
        let fits = fits.and_then(|()| self.space.reserve(0, 1));
        fits.map_err(|error| self.refused(&entry.path, error))?;
        let Some((name, parents)) = entry.path.split_last() else {
            return self
                .root_entry(entry)
                .map_err(|error| failure(&joined(&entry.path), error));
        };
        if name.starts_with(WHITEOUT)
            && self
                .is_below_a_file(parents)
                .map_err(|errno| failure_at(&entry.path, errno.into()))?
        {
            return Ok(());
        }
        let directory = self.parent_directory(parents)?;
        let parent = &directory.directory;
        if name.starts_with(WHITEOUT) {
            return self.white_out(&directory, name, &entry.path);
        }
        let was = self.remove_replaced(parent, name, entry.kind, &entry.path)?;
        let created = match entry.kind {
            EntryType::Directory => self.directory(&directory, name, entry, was),
            EntryType::Regular | EntryType::Continuous => {
                return self.file(parent, name, entry, contents);
            }
            EntryType::Symlink => symlink(parent, name, entry),
            EntryType::Link => return self.hard_link(parent, name, entry),
            EntryType::Char | EntryType::Block | EntryType::Fifo => node(parent, name, entry),
            _ => return Err(malformed(joined(&entry.path), "an entry of unknown type")),
        };
        created.map_err(|errno| failure(&joined(&entry.path), errno))
    }

    fn open_inside(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn white_out(
        &mut self,
        directory: &ParentDirectory,
        name: &[u8],
        path: &[Vec<u8>],
    ) -> Result<(), UnpackError> {
        let failed = |errno: Errno| failure_at(path, errno.into());
        let parent = &directory.directory;
        if name == OPAQUE {
            return make_opaque(parent).map_err(failed);
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.starts_with(b".wh.") {
            // Metadata files of other storage drivers.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(malformed(joined(path), "a malformed whiteout"));
        }
        let copied = [directory.path.as_slice(), &[hidden.to_vec()]].concat();
        let hidden = OsStr::from_bytes(hidden);
        match rustix::fs::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            // This layer has an entry for the directory itself, so only its content in the layers below is
            // hidden.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = rustix::fs::openat(parent, hidden, flags, Mode::empty());
                return make_opaque(&dir.map_err(failed)?).map_err(failed);
            }
            Ok(_) if !self.copied.remove(&copied) => return Ok(()),
            Ok(_) => rustix::fs::unlinkat(parent, hidden, AtFlags::empty()).map_err(failed)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
        if self.is_merged(directory)? {
            let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
            rustix::fs::mknodat(parent, hidden, kind, mode, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes the file that an entry replaces. A directory is not removed for a directory.
    fn remove_replaced(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        kind: EntryType,
        path: &[Vec<u8>],
    ) -> Result<Was, UnpackError> {
        let failed = |errno: Errno| failure_at(path, errno.into());
        let os_name = OsStr::from_bytes(name);
        let stat = match rustix::fs::statat(parent, os_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Was::Nothing),
            Err(errno) => return Err(failed(errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let was = if is_white_out(parent, name) {
                Was::Deleted
            } else {
                Was::Nothing
            };
            rustix::fs::unlinkat(parent, os_name, AtFlags::empty()).map_err(failed)?;
            return Ok(was);
        }
        if kind == EntryType::Directory {
            return Ok(Was::Directory);
        }
        self.last_parent = None;
        let replaced = Path::new("/proc/self/fd")
            .join(parent.as_raw_fd().to_string())
            .join(os_name);
        fs::remove_dir_all(replaced).map_err(|error| failure_at(path, error))?;
        Ok(Was::Nothing)
    }

    fn directory(
        &mut self,
        directory: &ParentDirectory,
        name: &[u8],
        entry: &ArchiveEntry,
        was: Was,
    ) -> Result<(), Errno> {
        let parent = &directory.directory;
        let os_name = OsStr::from_bytes(name);
        if was != Was::Directory {
            rustix::fs::mkdirat(parent, os_name, Mode::from_raw_mode(0o700))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(parent, os_name, flags, Mode::empty())?;
        if was == Was::Deleted {
            make_opaque(&dir)?;
        }
        self.is_explicit(&dir)?;
        set_owner_and_mode(&dir, entry)?;
        set_attributes(&dir, &entry.attributes)?;
        let path = [directory.path.as_slice(), &[name.to_vec()]].concat();
        self.directories.push((path, entry.modified));
        Ok(())
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &ArchiveEntry,
        contents: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let failed = |error: Errno| failure(&joined(&entry.path), error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(parent, OsStr::from_bytes(name), flags, mode);
        let mut file = File::from(file.map_err(failed)?);
        let copied = self.space.copy(contents, &mut file);
        self.bytes += copied.map_err(|error| self.refused(&entry.path, error))?;
        // The owner is set first, because a change of the owner clears the set-user-ID bit.
        set_owner_and_mode(&file, entry).map_err(failed)?;
        set_attributes(&file, &entry.attributes).map_err(failed)?;
        rustix::fs::futimens(&file, &times(entry.modified)).map_err(failed)
    }

    fn refused(&self, path: &[Vec<u8>], error: SpaceError) -> UnpackError {
        match error {
            SpaceError::OutOfSpace(source) => UnpackError::OutOfSpace {
                path: joined(path),
                unpacked: self.bytes,
                source,
            },
            SpaceError::Io(error) => failure_at(path, error),
        }
    }

    fn finish(self, layer: &Path) -> Result<Unpacked, UnpackError> {
        // Inner directories first. A directory that was replaced later is skipped.
        for (path, modified) in self.directories.iter().rev() {
            if let Ok(dir) = self.open_inside(&joined(path), OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                let proc = format!("/proc/self/fd/{}", dir.as_raw_fd());
                let flags = AtFlags::empty();
                rustix::fs::utimensat(rustix::fs::CWD, proc, &times(*modified), flags)
                    .map_err(|errno| failure_at(path, errno.into()))?;
            }
        }
        let loose_ends = self.loose_ends().map_err(|errno| failure(layer, errno))?;
        Ok(Unpacked {
            bytes: self.bytes,
            loose_ends,
        })
    }
}

/// The former file at an entry's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    Nothing,
    Directory,
    Deleted,
}

fn joined(parts: &[Vec<u8>]) -> PathBuf {
    match parts.is_empty() {
        true => PathBuf::from("."),
        false => parts.iter().map(|part| OsStr::from_bytes(part)).collect(),
    }
}

fn symlink(parent: &OwnedFd, name: &[u8], entry: &ArchiveEntry) -> Result<(), Errno> {
    let name = OsStr::from_bytes(name);
    rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name)?;
    set_owner_at(parent, name, entry)?;
    rustix::fs::utimensat(
        parent,
        name,
        &times(entry.modified),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn node(parent: &OwnedFd, name: &[u8], entry: &ArchiveEntry) -> Result<(), Errno> {
    let device = rustix::fs::makedev(entry.device.0, entry.device.1);
    let (kind, device) = match entry.kind {
        EntryType::Char => (FileType::CharacterDevice, device),
        EntryType::Block => (FileType::BlockDevice, device),
        _ => (FileType::Fifo, 0),
    };
    let name = OsStr::from_bytes(name);
    rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?;
    set_owner_at(parent, name, entry)?;
    let mode = Mode::from_raw_mode(entry.mode);
    rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
    rustix::fs::utimensat(parent, name, &times(entry.modified), AtFlags::empty())
}

fn set_owner_at(parent: &OwnedFd, name: &OsStr, entry: &ArchiveEntry) -> Result<(), Errno> {
    let (uid, gid) = (
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    );
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

fn set_owner_and_mode(fd: impl AsFd, entry: &ArchiveEntry) -> Result<(), Errno> {
    rustix::fs::fchown(
        &fd,
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode))
}

fn set_attributes(fd: impl AsFd, attributes: &[(String, Vec<u8>)]) -> Result<(), Errno> {
    for (name, value) in attributes {
        match rustix::fs::fsetxattr(&fd, name.as_str(), value, XattrFlags::empty()) {
            // A file system without extended attributes cannot store them, but the file itself is correct.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn make_opaque(dir: &OwnedFd) -> Result<(), Errno> {
    let proc = format!("/proc/self/fd/{}", dir.as_raw_fd());
    setxattr(proc, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
}

fn is_opaque(dir: &OwnedFd) -> bool {
    hides_all_below(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())))
}

/// Whether a directory of a layer hides its content in the layers below.
pub(crate) fn hides_all_below(directory: &Path) -> bool {
    let mut value = [0; 4];
    let length = rustix::fs::getxattr(directory, OPAQUE_ATTRIBUTE, &mut value);
    length.is_ok_and(|length| &value[..length] == b"y")
}

/// Whether a layer may set this extended attribute. Other attributes belong to the kernel, for instance
/// those of overlayfs.
fn is_stored(attribute: &str) -> bool {
    let is_users = attribute.starts_with("user.") && !attribute.starts_with("user.overlay.");
    is_users || attribute == "security.capability"
}

fn is_white_out(parent: &OwnedFd, name: &[u8]) -> bool {
    let name = OsStr::from_bytes(name);
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
    })
}

fn times(modified: Timespec) -> Timestamps {
    Timestamps {
        last_access: modified,
        last_modification: modified,
    }
}

fn failure_at(path: &[Vec<u8>], source: io::Error) -> UnpackError {
    failure(&joined(path), source)
}

fn misplaced(path: &[Vec<u8>]) -> UnpackError {
    malformed(joined(path), "its parent is no directory")
}
