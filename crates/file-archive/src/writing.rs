//! Writes an archive of trees of files; processes may change them at the same time.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use host_kernel::tree::{self, Handle, Mounts, TreeEntry, Visitor};
use rustix::fs::{FileType, Stat};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{ATTRIBUTE_PREFIX, ArchiveError, CHECKSUMS, MODIFIED, Summing, hex, path_text};

/// Files up to this size are read again if they change during the copy; larger files are only reported as
/// changed.
const WHOLE_BYTES_MAX: u64 = 4 << 20;
/// Maximum number of attempts to read a file.
const TRIES_MAX: u32 = 3;

/// The compressed stream into the file of a backup.
type BackupFile = GzEncoder<BufWriter<File>>;

/// An archive that is being written.
pub struct Writer<W: Write = BackupFile> {
    builder: Builder<W>,
    fidelity: CopyFidelity,
    summing: Summing,
    /// The first path of each file with several hard links, by device and inode.
    links: BTreeMap<(u64, u64), PathBuf>,
    /// Files that changed while they were read.
    changed: Vec<PathBuf>,
}

/// Whether processes may write the added files during the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeActivity {
    /// No process writes the files.
    Still,
    /// Processes may write the files: each file is read again until it is consistent, up to a limit.
    Written,
}

/// The exactness of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFidelity {
    /// Times are whole seconds, and device nodes are left out.
    Backup,
    /// Times are exact, and a device node is an error, because the copy replaces the original.
    Replacement,
}

impl Writer {
    /// Starts a backup in a new file.
    pub fn new(file: File) -> Self {
        let encoder = GzEncoder::new(BufWriter::new(file), Compression::fast());
        Self::over(encoder, CopyFidelity::Backup)
    }

    /// Writes the checksums, and syncs the file. Returns the files that changed while they were read.
    ///
    /// # Errors
    /// The error of the disk.
    pub fn finish(self) -> Result<Vec<PathBuf>, ArchiveError> {
        let (encoder, changed) = self.finish_stream()?;
        let finish = || -> io::Result<()> {
            let file = encoder.finish()?.into_inner().map_err(io::Error::other)?;
            file.sync_all()
        };
        finish().map_err(ArchiveError::at("finish the archive"))?;
        Ok(changed)
    }
}

impl<W: Write> Writer<W> {
    /// An archive that is written to `stream`.
    pub fn over(stream: W, fidelity: CopyFidelity) -> Self {
        Self {
            builder: Builder::new(stream),
            fidelity,
            summing: Summing::default(),
            links: BTreeMap::new(),
            changed: Vec::new(),
        }
    }

    /// Adds a file with that content.
    ///
    /// # Errors
    /// The error of the output.
    pub fn add_text(&mut self, path: &str, text: &str) -> Result<(), ArchiveError> {
        self.add_stream(path, text.len() as u64, &mut text.as_bytes())
    }

    /// Adds a private file with this number of bytes of a stream.
    ///
    /// # Errors
    /// The error of the output or of the stream.
    pub fn add_stream(
        &mut self,
        path: &str,
        bytes: u64,
        from: &mut dyn Read,
    ) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes);
        self.add(&mut header, Path::new(path), from)
            .map_err(ArchiveError::at(format!("write {path}")))
    }

    fn add(&mut self, header: &mut Header, path: &Path, from: &mut dyn Read) -> io::Result<()> {
        self.summing.note(header, path, None)?;
        let mut exact = Exact {
            from,
            unread: header.entry_size()?,
            digest: Sha256::new(),
        };
        self.builder.append_data(header, path, &mut exact)?;
        let sum = hex(exact.digest);
        self.summing.files.insert(path_text(path), sum);
        Ok(())
    }

    /// Adds a file, or a directory with its contents. Files that are removed during the copy are left out.
    /// Only `from` itself is opened by its path; below it, names are opened relative to their directory,
    /// because containers may replace a directory by a link at any moment.
    ///
    /// # Errors
    /// The error of the disk or of the output.
    pub fn add_tree(
        &mut self,
        path: &Path,
        from: &Path,
        state: TreeActivity,
    ) -> Result<(), ArchiveError> {
        let step = || ArchiveError::at(format!("back up {}", from.display()));
        let root = match Handle::at(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(step())?,
        };
        self.add_one(path, &root, state).map_err(step())?;
        if root.file_type() == FileType::Directory {
            let mut adder = Adder {
                writer: self,
                path: path.to_owned(),
                state,
            };
            tree::walk(&root, Mounts::Skip, &mut adder).map_err(step())?;
        }
        Ok(())
    }

    fn add_one(&mut self, path: &Path, handle: &Handle, state: TreeActivity) -> io::Result<()> {
        let mut header = header_of(handle.stat());
        match handle.file_type() {
            FileType::RegularFile => {
                let inode = (handle.stat().st_dev, handle.stat().st_ino);
                if let Some(first) = self.links.get(&inode).cloned() {
                    header.set_entry_type(EntryType::Link);
                    return self.add_link(&mut header, path, &first);
                }
                let file = handle.open()?;
                self.add_extensions(handle.stat(), Some(&file))?;
                self.add_file(&mut header, path, file, state)?;
                if handle.stat().st_nlink > 1 {
                    self.links.insert(inode, path.to_owned());
                }
                Ok(())
            }
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                self.add_extensions(handle.stat(), Some(&handle.open()?))?;
                self.add_empty(&mut header, path)
            }
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = OsString::from_vec(handle.link_target()?.into_bytes());
                self.add_extensions(handle.stat(), None)?;
                self.add_link(&mut header, path, Path::new(&target))
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.add_extensions(handle.stat(), None)?;
                self.add_empty(&mut header, path)
            }
            FileType::BlockDevice | FileType::CharacterDevice
                if self.fidelity == CopyFidelity::Replacement =>
            {
                Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("{} is a device node", path.display()),
                ))
            }
            // A socket without its server and a device of another host are of no use.
            _ => Ok(()),
        }
    }

    fn add_empty(&mut self, header: &mut Header, path: &Path) -> io::Result<()> {
        self.summing.note(header, path, None)?;
        self.builder.append_data(header, path, io::empty())
    }

    fn add_file(
        &mut self,
        header: &mut Header,
        path: &Path,
        mut file: File,
        state: TreeActivity,
    ) -> io::Result<()> {
        let before = Stamp::read(&file)?;
        let is_whole = if state == TreeActivity::Written && before.length <= WHOLE_BYTES_MAX {
            let (content, is_whole) = whole(&mut file)?;
            header.set_size(content.len() as u64);
            self.add(header, path, &mut content.as_slice())?;
            is_whole
        } else {
            header.set_size(before.length);
            self.add(header, path, &mut file)?;
            state == TreeActivity::Still || Stamp::read(&file)? == before
        };
        if !is_whole {
            self.changed.push(path.to_owned());
        }
        Ok(())
    }

    fn add_link(&mut self, header: &mut Header, path: &Path, target: &Path) -> io::Result<()> {
        self.summing.note(header, path, Some(target))?;
        self.builder.append_link(header, path, target)
    }

    /// Adds a pax header, before the entry, with the attributes for which the tar header has no field.
    fn add_extensions(&mut self, stat: &Stat, from: Option<&File>) -> io::Result<()> {
        let attributes = from.map_or(Ok(Vec::new()), attributes)?;
        let mut named: Vec<(String, Vec<u8>)> = attributes
            .into_iter()
            .map(|(name, value)| (format!("{ATTRIBUTE_PREFIX}{name}"), value))
            .collect();
        if self.fidelity == CopyFidelity::Replacement {
            let time = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            named.push((MODIFIED.to_owned(), time.into_bytes()));
        }
        if named.is_empty() {
            return Ok(());
        }
        let named = named
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(named)
    }

    /// Writes the checksums. Returns the stream, and the files that changed while they were read.
    ///
    /// # Errors
    /// The error of the output.
    pub fn finish_stream(mut self) -> Result<(W, Vec<PathBuf>), ArchiveError> {
        let changed = std::mem::take(&mut self.changed);
        let checksums = std::mem::take(&mut self.summing).finish();
        let text = serde_json::to_string(&checksums).map_err(io::Error::from);
        let text = text.map_err(ArchiveError::at("encode the checksums"))?;
        self.add_text(CHECKSUMS, &text)?;
        let stream = self.builder.into_inner();
        let stream = stream.map_err(ArchiveError::at("finish the archive"))?;
        Ok((stream, changed))
    }
}

/// Adds the entries of a walk through a directory tree.
struct Adder<'a, W: Write> {
    writer: &'a mut Writer<W>,
    /// The path in the archive of the walk's current directory.
    path: PathBuf,
    state: TreeActivity,
}

impl<W: Write> Visitor for Adder<'_, W> {
    fn entry(&mut self, entry: &TreeEntry<'_>) -> io::Result<()> {
        let path = self.path.join(name_of(entry.name()));
        self.writer.add_one(&path, &entry.handle()?, self.state)
    }

    fn entered(&mut self, name: &CStr) {
        self.path.push(name_of(name));
    }

    fn left(&mut self, _: BorrowedFd<'_>, _: &CStr) -> io::Result<()> {
        self.path.pop();
        Ok(())
    }
}

fn name_of(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

fn header_of(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// The attributes of a file that change with each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn read(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The content of a small file, and whether it did not change during the read.
fn whole(file: &mut File) -> io::Result<(Vec<u8>, bool)> {
    let mut content = Vec::new();
    for _ in 0..TRIES_MAX {
        content.clear();
        let before = Stamp::read(file)?;
        file.seek(SeekFrom::Start(0))?;
        file.take(WHOLE_BYTES_MAX).read_to_end(&mut content)?;
        if Stamp::read(file)? == before {
            return Ok((content, true));
        }
    }
    Ok((content, false))
}

/// The extended attributes that are copied; empty on a file system without extended attributes.
fn attributes(file: &File) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::flistxattr(file, names.as_mut_slice()) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    names.truncate(length);
    let mut read = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        let copied_prefixes = ["user.", "security.capability", "system.posix_acl_"];
        if !copied_prefixes
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::fgetxattr(file, name, value.as_mut_slice())?;
        value.truncate(length);
        read.push((name.to_owned(), value));
    }
    Ok(read)
}

/// Exactly that many bytes of a file: a file that shrinks is padded with zeros, a file that grows is cut.
struct Exact<'a> {
    from: &'a mut dyn Read,
    unread: u64,
    digest: Sha256,
}

impl Read for Exact<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = bytes
            .len()
            .min(usize::try_from(self.unread).unwrap_or(usize::MAX));
        let bytes = &mut bytes[..count];
        let mut read = self.from.read(bytes)?;
        if read == 0 {
            bytes.fill(0);
            read = count;
        }
        self.unread -= read as u64;
        self.digest.update(&bytes[..read]);
        Ok(read)
    }
}
