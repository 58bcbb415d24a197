//! The files of the layers below a layer, as an overlay mount would show them.
//!
//! A layer is a list of changes. Some changes refer to files of the layers below: a file in a directory
//! without an entry in the layer, a path through a link, and a hard link.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{is_opaque, is_stored, is_white_out};

/// Unpacked layers, in which files are looked up by paths without links.
#[derive(Debug, Default)]
pub(crate) struct Below {
    /// The top layer first.
    layers: Vec<PathBuf>,
}

/// A file of the layers below.
#[derive(Debug)]
pub(crate) enum EntryBelow {
    Nothing,
    Directory(OwnedFd),
    Link(Vec<u8>, OwnedFd),
    Other(OwnedFd),
}

impl Below {
    /// Creates the value from the directories of the layers, the top layer last.
    pub fn new(layers: Vec<PathBuf>) -> Self {
        let layers = layers.into_iter().rev().collect();
        Below { layers }
    }

    /// Looks up a path whose parents are all directories.
    pub fn find(&self, path: &[Vec<u8>]) -> Result<EntryBelow, Errno> {
        for layer in &self.layers {
            let (entry, covers) = find_in(layer, path)?;
            if covers || !matches!(entry, EntryBelow::Nothing) {
                return Ok(entry);
            }
        }
        Ok(EntryBelow::Nothing)
    }
}

const AS_IT_IS: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The file in one layer, and whether the layer hides the path in the layers below.
fn find_in(layer: &Path, path: &[Vec<u8>]) -> Result<(EntryBelow, bool), Errno> {
    let mut file = rustix::fs::open(layer, AS_IT_IS, Mode::empty())?;
    let mut covers = false;
    for part in path {
        covers |= is_opaque(&file);
        if is_white_out(&file, part) {
            return Ok((EntryBelow::Nothing, true));
        }
        file = match rustix::fs::openat(&file, OsStr::from_bytes(part), AS_IT_IS, Mode::empty()) {
            Ok(inner) => inner,
            Err(Errno::NOENT) => return Ok((EntryBelow::Nothing, covers)),
            // A file hides all paths below its name.
            Err(Errno::NOTDIR) => return Ok((EntryBelow::Nothing, true)),
            Err(errno) => return Err(errno),
        };
    }
    let file = match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::Directory => EntryBelow::Directory(file),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&file, "", Vec::new())?;
            EntryBelow::Link(target.into_bytes(), file)
        }
        _ => EntryBelow::Other(file),
    };
    Ok((file, covers))
}

/// Whether a directory has the properties of a directory without an entry: owner root, mode 0755, no
/// extended attributes.
pub(crate) fn is_plain(directory: &OwnedFd) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(directory)?;
    let is_roots = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (0o755, 0, 0);
    Ok(is_roots && attributes(directory)?.is_empty())
}

/// Copies owner, mode, extended attributes and times to a new file.
pub(crate) fn copy_facts(from: &OwnedFd, to: &File) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(owner), Some(group))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for (name, value) in attributes(from)? {
        rustix::fs::fsetxattr(to, name.as_str(), &value, XattrFlags::empty())?;
    }
    rustix::fs::futimens(to, &times_of(from)?)
}

pub(crate) fn times_of(file: &OwnedFd) -> Result<Timestamps, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(super::times(Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    }))
}

/// The extended attributes that a layer may set.
fn attributes(file: &OwnedFd) -> Result<Vec<(String, Vec<u8>)>, Errno> {
    let proc = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut names = vec![0; 65536];
    let length = match rustix::fs::listxattr(&proc, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        result => result?,
    };
    let names = names[..length].split(|byte| *byte == 0);
    let names = names.filter_map(|name| std::str::from_utf8(name).ok());
    let mut stored = Vec::new();
    for name in names.filter(|name| is_stored(name)) {
        let mut value = vec![0; 65536];
        let length = rustix::fs::getxattr(&proc, name, value.as_mut_slice())?;
        value.truncate(length);
        stored.push((name.to_owned(), value));
    }
    Ok(stored)
}
