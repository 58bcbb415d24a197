//! Streams to files.
//!
//! No path of a stream is given to the kernel as a whole: the directory above an entry is opened below
//! the root without following links, and the entry is changed by its name in it. A link in the tree
//! leads nowhere, whatever its target is.

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

/// The snapshot that a stream is the difference to.
#[derive(Debug)]
pub struct Base {
    /// Its identity in the stream.
    pub snapshot: Uuid,
    /// Its files.
    pub directory: File,
}

/// The reason why a stream cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream is malformed or was cut off.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It is the difference to another snapshot, or not a difference.
    #[error("the stream belongs to another first copy")]
    OtherBase,
    /// A command cannot be carried out.
    #[error("write {}", path.display())]
    Entry {
        /// The path in the tree.
        path: std::path::PathBuf,
        /// The kernel's reason; `Unsupported` for a device node.
        source: io::Error,
    },
}

/// Carries out a stream below `root`, which is empty, or has the files of `base`. Returns the identity of
/// the received snapshot.
///
/// # Errors
/// The files are incomplete then.
pub fn receive(input: impl Read, root: &File, base: Option<&Base>) -> Result<Uuid, ReceiveError> {
    let mut reader = Reader::new(input);
    let snapshot = match (reader.next_command()?, base) {
        (Some(Command::Subvolume { snapshot }), None) => snapshot,
        (Some(Command::Snapshot { snapshot, base }), Some(own)) if own.snapshot == base => snapshot,
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
    /// The file of the last write: most writes follow one to the same file.
    open: Option<(Vec<u8>, File)>,
}

impl Tree<'_> {
    /// Carries out a command; its path and the result.
    fn carry_out<'c>(&mut self, command: &Command<'c>) -> Option<(StreamPath<'c>, io::Result<()>)> {
        if !matches!(command, Command::Write { .. }) {
            // Another file may have the path afterwards.
            self.open = None;
        }
        Some(match *command {
            // The reader takes these in the first place only.
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

    /// The directory above an entry, and the name of the entry in it.
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

    /// As [`above`](Self::above), with the root as an entry of itself.
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

    /// The entry itself, also if it is a link.
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
            // An attribute of the system may have gone with a change before.
            Err(Errno::NODATA) => Ok(()),
            other => Ok(other?),
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
        let mut left = part.length;
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX);
            let (read, written) = (Some(&mut read), Some(&mut written));
            match rustix::fs::copy_file_range(&source, read, &to, written, count)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                copied => left = left.saturating_sub(copied as u64),
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
        // The kernel takes this number for "as it is".
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

/// A part of a file that is copied.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    length: u64,
    from_offset: u64,
}

/// Opens an entry below a directory, without following any link.
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

/// The descriptor's name in /proc, which leads to the file itself.
fn itself(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::written::stream;

    const ONE: Uuid = Uuid([1; 16]);
    const TWO: Uuid = Uuid([2; 16]);

    fn path(text: &str) -> StreamPath<'_> {
        StreamPath::new(text.as_bytes()).unwrap()
    }

    fn write<'a>(at: &'a str, data: &'a str) -> Command<'a> {
        Command::Write {
            path: path(at),
            offset: 0,
            data: data.as_bytes(),
        }
    }

    fn apply(
        to: &Path,
        head: &Command<'_>,
        commands: &[Command<'_>],
        base: Option<&Base>,
    ) -> Result<Uuid, ReceiveError> {
        let bytes = stream(head, commands);
        receive(&bytes[..], &File::open(to).unwrap(), base)
    }

    fn whole(to: &Path, commands: &[Command<'_>]) -> Result<Uuid, ReceiveError> {
        apply(to, &Command::Subvolume { snapshot: ONE }, commands, None)
    }

    #[test]
    fn a_tree_is_made_as_the_stream_says() {
        let to = tempfile::tempdir().unwrap();
        let moment = |seconds| Time {
            seconds,
            nanoseconds: 5,
        };
        let times = |at| Command::SetTimes {
            path: path(at),
            accessed: moment(10),
            modified: moment(20),
        };
        let made = whole(
            to.path(),
            &[
                Command::MakeDirectory(path("o257")),
                Command::Rename {
                    path: path("o257"),
                    to: path("dir"),
                },
                Command::MakeFile(path("dir/file")),
                write("dir/file", "0123456789"),
                Command::Write {
                    path: path("dir/file"),
                    offset: 12,
                    data: b"ab",
                },
                Command::Truncate {
                    path: path("dir/file"),
                    size: 13,
                },
                Command::SetMode {
                    path: path("dir/file"),
                    mode: 0o104_640,
                },
                Command::Link {
                    path: path("second"),
                    file: path("dir/file"),
                },
                Command::MakeLink {
                    path: path("link"),
                    target: b"/etc/passwd",
                },
                times("link"),
                Command::MakePipe(path("pipe")),
                Command::MakeSocket(path("socket")),
                Command::MakeFile(path("copy")),
                Command::Clone {
                    path: path("copy"),
                    offset: 0,
                    length: 4,
                    from: ONE,
                    from_path: path("second"),
                    from_offset: 2,
                },
                Command::MakeFile(path("gone")),
                Command::Unlink(path("gone")),
                Command::MakeDirectory(path("gone")),
                Command::RemoveDirectory(path("gone")),
                times("dir/file"),
                times(""),
            ],
        );
        assert_eq!(made.unwrap(), ONE);
        let at = |name: &str| to.path().join(name);
        let facts = fs::metadata(at("second")).unwrap();
        assert_eq!(fs::read(at("dir/file")).unwrap(), b"0123456789\0\0a");
        assert_eq!((facts.mode() & 0o7777, facts.nlink()), (0o4640, 2));
        assert_eq!((facts.mtime(), facts.mtime_nsec()), (20, 5));
        assert_eq!(fs::read(at("copy")).unwrap(), b"2345");
        let link = fs::symlink_metadata(at("link")).unwrap();
        assert!(link.is_symlink() && link.mtime() == 20);
        assert!(fs::metadata(at("pipe")).unwrap().file_type().is_fifo());
        assert!(fs::metadata(at("socket")).unwrap().file_type().is_socket());
        assert!(!at("gone").exists());
        assert_eq!(fs::metadata(to.path()).unwrap().mtime(), 20);
    }

    #[test]
    fn a_difference_needs_its_base() {
        let to = tempfile::tempdir().unwrap();
        let former = tempfile::tempdir().unwrap();
        fs::write(former.path().join("old"), "kept here").unwrap();
        let base = |snapshot| Base {
            snapshot,
            directory: File::open(former.path()).unwrap(),
        };
        let head = Command::Snapshot {
            snapshot: TWO,
            base: ONE,
        };
        let commands = [
            Command::MakeFile(path("new")),
            Command::Clone {
                path: path("new"),
                offset: 0,
                length: 4,
                from: ONE,
                from_path: path("old"),
                from_offset: 0,
            },
        ];
        let into = |base: Option<&Base>| apply(to.path(), &head, &commands, base);
        assert!(matches!(into(None), Err(ReceiveError::OtherBase)));
        assert!(matches!(
            into(Some(&base(TWO))),
            Err(ReceiveError::OtherBase)
        ));
        assert_eq!(into(Some(&base(ONE))).unwrap(), TWO);
        assert_eq!(fs::read(to.path().join("new")).unwrap(), b"kept");
        let all = Command::Subvolume { snapshot: TWO };
        let refused = apply(to.path(), &all, &[], Some(&base(ONE)));
        assert!(matches!(refused, Err(ReceiveError::OtherBase)));
    }

    /// A stream of a node that was taken over.
    #[test]
    fn links_in_the_tree_lead_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "kept").unwrap();
        let target = outside.path().as_os_str().as_bytes();
        let link = |at| Command::MakeLink {
            path: path(at),
            target,
        };
        let owner = |at| Command::SetOwner {
            path: path(at),
            user: 4711,
            group: 4711,
        };
        let through: [Command<'_>; 12] = [
            write("link/file", "lost"),
            Command::MakeFile(path("link/new")),
            Command::MakeDirectory(path("link/new")),
            Command::Unlink(path("link/file")),
            Command::Truncate {
                path: path("link/file"),
                size: 0,
            },
            Command::SetMode {
                path: path("link/file"),
                mode: 0o777,
            },
            Command::SetMode {
                path: path("link"),
                mode: 0o777,
            },
            owner("link/file"),
            Command::Rename {
                path: path("link/file"),
                to: path("taken"),
            },
            Command::Link {
                path: path("taken"),
                file: path("link/file"),
            },
            Command::Clone {
                path: path("own"),
                offset: 0,
                length: 1,
                from: ONE,
                from_path: path("link/file"),
                from_offset: 0,
            },
            Command::SetAttribute {
                path: path("link/file"),
                name: b"user.a",
                value: b"b",
            },
        ];
        for command in through {
            let to = tempfile::tempdir().unwrap();
            let own = Command::MakeFile(path("own"));
            let done = whole(to.path(), &[own, link("link"), command.clone()]);
            assert!(done.is_err(), "{command:?}");
            let kept = fs::read(outside.path().join("file")).unwrap();
            assert_eq!(kept, b"kept", "{command:?}");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
            assert_ne!(fs::metadata(outside.path()).unwrap().uid(), 4711);
        }
        // A last link is changed itself.
        let to = tempfile::tempdir().unwrap();
        whole(to.path(), &[link("link"), owner("link")]).unwrap();
        let changed = fs::symlink_metadata(to.path().join("link")).unwrap();
        assert_eq!(changed.uid(), 4711);
        assert_ne!(fs::metadata(outside.path()).unwrap().uid(), 4711);
    }

    #[test]
    fn pipes_and_devices_are_not_opened() {
        let to = tempfile::tempdir().unwrap();
        let pipe = Command::MakePipe(path("pipe"));
        assert!(whole(to.path(), &[pipe, write("pipe", "a")]).is_err());
        let device = whole(to.path(), &[Command::MakeDevice(path("disk"))]);
        let Err(ReceiveError::Entry { source, .. }) = device else {
            panic!("{device:?}");
        };
        assert_eq!(source.kind(), io::ErrorKind::Unsupported);
        for command in [
            Command::MakeDirectory(path("")),
            Command::RemoveDirectory(path("")),
            write("", "a"),
        ] {
            assert!(whole(to.path(), &[command]).is_err());
        }
    }

    #[test]
    fn a_file_that_took_the_place_of_another_is_not_written() {
        let to = tempfile::tempdir().unwrap();
        let make = |at| Command::MakeFile(path(at));
        let rename = |from, to| Command::Rename {
            path: path(from),
            to: path(to),
        };
        let commands = [
            make("a"),
            make("b"),
            write("a", "first"),
            rename("a", "c"),
            rename("b", "a"),
            write("a", "second"),
        ];
        whole(to.path(), &commands).unwrap();
        assert_eq!(fs::read(to.path().join("c")).unwrap(), b"first");
        assert_eq!(fs::read(to.path().join("a")).unwrap(), b"second");
    }

    #[test]
    fn a_link_that_was_there_before_is_not_followed() {
        let to = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), to.path().join("link")).unwrap();
        assert!(whole(to.path(), &[Command::MakeFile(path("link/a"))]).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
