//! Writes the files of a stream.
//!
//! The kernel never resolves a whole path of a stream: the parent directory of an entry is opened below the
//! root without following symbolic links, and the entry is changed by its name in that directory. A symbolic
//! link in the tree is therefore never followed, whatever its target is.

#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::command::{Command, Time, Uuid};
use crate::path::StreamPath;
use crate::reader::{Reader, StreamError};

/// The permission bits of a mode.
const PERMISSIONS: u32 = 0o7777;

/// The snapshot to which a stream is the difference.
#[derive(Debug)]
pub struct Base {
    /// The UUID of the snapshot in streams.
    pub snapshot: Uuid,
    /// The directory with its files.
    pub directory: File,
}

/// The reason why a stream cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream is malformed or truncated.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The stream is the difference to another snapshot, or contains a whole snapshot.
    #[error("the stream belongs to another first copy")]
    OtherBase,
    /// A command failed.
    #[error("write {}", path.display())]
    Entry {
        /// The path, relative to the root.
        path: std::path::PathBuf,
        /// The error of the kernel; `Unsupported` for a device node.
        source: io::Error,
    },
}

/// Executes a stream below `root`, which is empty or contains the files of `base`. Returns the UUID of the
/// received snapshot.
///
/// # Errors
/// The files are incomplete then.
pub fn receive(input: impl Read, root: &File, base: Option<&Base>) -> Result<Uuid, ReceiveError> {
    let mut reader = Reader::new(input);
    let snapshot = match (reader.next_command()?, base) {
        (Some(Command::Subvolume { snapshot }), None) => snapshot,
        (Some(Command::Snapshot { snapshot, base }), Some(local)) if local.snapshot == base => {
            snapshot
        }
        _ => return Err(ReceiveError::OtherBase),
    };
    let mut tree = Tree {
        root,
        base,
        snapshot,
        open: None,
    };
    while let Some(command) = reader.next_command()? {
        if let Some((path, result)) = tree.carry_out(&command) {
            result.map_err(|source| ReceiveError::Entry {
                path: OsStr::from_bytes(path.as_bytes()).into(),
                source,
            })?;
        }
    }
    Ok(snapshot)
}

/// The tree that is being received.
struct Tree<'a> {
    root: &'a File,
    base: Option<&'a Base>,
    snapshot: Uuid,
    /// The file of the last write, because most writes follow a write to the same file.
    open: Option<(Vec<u8>, File)>,
}

impl Tree<'_> {
    /// Executes a command; returns its path and the result.
    fn carry_out<'c>(&mut self, command: &Command<'c>) -> Option<(StreamPath<'c>, io::Result<()>)> {
        if !matches!(command, Command::Write { .. }) {
            // Afterwards, another file may be at the path of the open file.
            self.open = None;
        }
        Some(match *command {
            // The reader accepts these commands only at the start of a stream.
            Command::Subvolume { .. } | Command::Snapshot { .. } => return None,
            Command::End | Command::UpdateExtent => return None,
            Command::MakeFile(path) => (path, self.make_file(path)),
            Command::MakeDirectory(path) => (path, self.make_directory(path)),
            Command::MakePipe(path) => (path, self.make_node(path, FileType::Fifo)),
            Command::MakeSocket(path) => (path, self.make_node(path, FileType::Socket)),
            Command::MakeDevice(path) => {
                let text = "device nodes are not copied";
                let refused = io::Error::new(io::ErrorKind::Unsupported, text);
                (path, Err(refused))
            }
            Command::MakeLink { path, target } => (path, self.make_link(path, target)),
            Command::Rename { path, to } => (path, self.rename(path, to)),
            Command::Link { path, file } => (path, self.link(file, path)),
            Command::Unlink(path) => (path, self.remove(path, AtFlags::empty())),
            Command::RemoveDirectory(path) => (path, self.remove(path, AtFlags::REMOVEDIR)),
            Command::SetAttribute { path, name, value } => {
                (path, self.set_attribute(path, name, value))
            }
            Command::RemoveAttribute { path, name } => (path, self.remove_attribute(path, name)),
            Command::Write { path, offset, data } => (path, self.write(path, offset, data)),
            Command::Clone {
                path,
                offset,
                length,
                from,
                from_path,
                from_offset,
            } => {
                let part = Part {
                    offset,
                    length,
                    from_offset,
                };
                (path, self.copy(path, (from, from_path), part))
            }
            Command::Truncate { path, size } => (path, self.truncate(path, size)),
            Command::SetMode { path, mode } => (path, self.set_mode(path, mode)),
            Command::SetOwner { path, user, group } => (path, self.set_owner(path, user, group)),
            Command::SetTimes {
                path,
                accessed,
                modified,
            } => (path, self.set_times(path, accessed, modified)),
        })
    }

    /// The parent directory of an entry, and the name of the entry in it.
    fn above<'c>(&self, path: StreamPath<'c>) -> io::Result<(OwnedFd, &'c OsStr)> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match path.split() {
            Some((parent, name)) => Ok((open_below(self.root, parent, flags)?, name)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the root of the tree is neither made, renamed nor removed",
            )),
        }
    }

    /// As [`above`](Self::above); the root is accepted as an entry.
    fn entry<'c>(&self, path: StreamPath<'c>) -> io::Result<(OwnedFd, &'c OsStr)> {
        match path.split() {
            Some(_) => self.above(path),
            None => Ok((self.root.as_fd().try_clone_to_owned()?, OsStr::new("."))),
        }
    }

    fn make_file(&self, path: StreamPath<'_>) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
        rustix::fs::openat(
            above,
            name,
            flags | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?;
        Ok(())
    }

    fn make_directory(&self, path: StreamPath<'_>) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        Ok(rustix::fs::mkdirat(above, name, Mode::RWXU)?)
    }

    fn make_node(&self, path: StreamPath<'_>, file_type: FileType) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::mknodat(above, name, file_type, mode, 0)?)
    }

    fn make_link(&self, path: StreamPath<'_>, target: &[u8]) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        Ok(rustix::fs::symlinkat(target, above, name)?)
    }

    fn rename(&self, path: StreamPath<'_>, to: StreamPath<'_>) -> io::Result<()> {
        let ((from, name), (above, new)) = (self.above(path)?, self.above(to)?);
        Ok(rustix::fs::renameat(from, name, above, new)?)
    }

    fn link(&self, file: StreamPath<'_>, path: StreamPath<'_>) -> io::Result<()> {
        let ((from, name), (above, new)) = (self.above(file)?, self.above(path)?);
        Ok(rustix::fs::linkat(
            from,
            name,
            above,
            new,
            AtFlags::empty(),
        )?)
    }

    fn remove(&self, path: StreamPath<'_>, flags: AtFlags) -> io::Result<()> {
        let (above, name) = self.above(path)?;
        Ok(rustix::fs::unlinkat(above, name, flags)?)
    }

    /// Opens the entry itself, even if it is a symbolic link.
    fn handle(&self, path: StreamPath<'_>) -> io::Result<OwnedFd> {
        open_below(self.root, path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn set_attribute(&self, path: StreamPath<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
        let handle = self.handle(path)?;
        let flags = XattrFlags::empty();
        Ok(rustix::fs::setxattr(itself(&handle), name, value, flags)?)
    }

    fn remove_attribute(&self, path: StreamPath<'_>, name: &[u8]) -> io::Result<()> {
        let handle = self.handle(path)?;
        match rustix::fs::removexattr(itself(&handle), name) {
            // A previous command may have removed an attribute of the system already.
            Err(Errno::NODATA) => Ok(()),
            result => Ok(result?),
        }
    }

    fn write(&mut self, path: StreamPath<'_>, offset: u64, data: &[u8]) -> io::Result<()> {
        let is_open = |(open, _): &(Vec<u8>, File)| open == path.as_bytes();
        let file = match self.open.take().filter(is_open) {
            Some((_, file)) => file,
            None => open_file(self.root, path, OFlags::WRONLY)?,
        };
        file.write_all_at(data, offset)?;
        self.open = Some((path.as_bytes().to_vec(), file));
        Ok(())
    }

    fn copy(
        &self,
        path: StreamPath<'_>,
        (from, from_path): (Uuid, StreamPath<'_>),
        part: Part,
    ) -> io::Result<()> {
        let base = self.base.filter(|base| base.snapshot == from);
        let source = match base {
            Some(base) => &base.directory,
            None if from == self.snapshot => self.root,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a part of a snapshot that is not here",
                ));
            }
        };
        let source = open_file(source, from_path, OFlags::RDONLY)?;
        let to = open_file(self.root, path, OFlags::WRONLY)?;
        let (mut read, mut written) = (part.from_offset, part.offset);
        let mut unread = part.length;
        while unread > 0 {
            let count = usize::try_from(unread).unwrap_or(usize::MAX);
            let (read, written) = (Some(&mut read), Some(&mut written));
            match rustix::fs::copy_file_range(&source, read, &to, written, count)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                copied => unread = unread.saturating_sub(copied as u64),
            }
        }
        Ok(())
    }

    fn truncate(&self, path: StreamPath<'_>, size: u64) -> io::Result<()> {
        open_file(self.root, path, OFlags::WRONLY)?.set_len(size)
    }

    fn set_mode(&self, path: StreamPath<'_>, mode: u32) -> io::Result<()> {
        let handle = self.handle(path)?;
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        Ok(rustix::fs::chmod(itself(&handle), mode)?)
    }

    fn set_owner(&self, path: StreamPath<'_>, user: u32, group: u32) -> io::Result<()> {
        // For the kernel, this number means "unchanged".
        if user == u32::MAX || group == u32::MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (above, name) = self.entry(path)?;
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(
            above,
            name,
            Some(user),
            Some(group),
            flags,
        )?)
    }

    fn set_times(&self, path: StreamPath<'_>, accessed: Time, modified: Time) -> io::Result<()> {
        let (above, name) = self.entry(path)?;
        let time = |time: Time| Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.into(),
        };
        let times = Timestamps {
            last_access: time(accessed),
            last_modification: time(modified),
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(above, name, &times, flags)?)
    }
}

/// The source and destination ranges of a copy.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    length: u64,
    from_offset: u64,
}

/// Opens an entry below a directory, without following symbolic links.
fn open_below(root: &File, path: StreamPath<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    let name = match path.as_bytes() {
        b"" => b".",
        bytes => bytes,
    };
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(
        root,
        name,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

/// Opens a regular file below a directory; the call never blocks and never opens a device.
fn open_file(root: &File, path: StreamPath<'_>, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open_below(root, path, flags)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )),
    }
}

/// The path of the descriptor in /proc, which refers to the open file.
fn itself(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}
