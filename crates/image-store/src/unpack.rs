//! Unpacks a layer's archive into a directory that overlayfs can use as a lower one.
//!
//! The archive is an enemy: every name is resolved by the kernel with the layer's directory as
//! its root (`openat2`), the last part is never followed, `..` is refused, and sizes, counts
//! and lengths are bounded. Deletions (`.wh.` files) become what overlayfs understands: a
//! character device 0:0, or the attribute `trusted.overlay.opaque`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::fs::{XattrFlags, setxattr};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::limits::{EXTENSION_BYTES_MAX, UnpackLimits};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive is malformed or hostile.
    #[error("{0}")]
    Bad(String),
    /// Reading the archive failed.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// The node's disk failed.
    #[error("write {path}")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Everything that an entry's own header and the extensions before it say.
struct Meta {
    path: Vec<Vec<u8>>,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Timespec,
    attributes: Vec<(String, Vec<u8>)>,
}

#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: BTreeMap<String, Vec<u8>>,
}

struct Unpacker {
    root: OwnedFd,
    limits: UnpackLimits,
    bytes: u64,
    entries: u64,
    // Times of directories are set in the end: every new file changes them.
    directories: Vec<(Vec<Vec<u8>>, Timespec)>,
    last_parent: Option<(Vec<Vec<u8>>, OwnedFd)>,
}

/// Unpacks `archive` into the existing, empty directory `to`; gives the bytes of all files.
pub(crate) fn unpack(
    archive: &mut dyn Read,
    to: &Path,
    limits: UnpackLimits,
) -> Result<u64, UnpackError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(to, flags, Mode::empty())
        .map_err(|errno| write_error(&[], errno.into()))?;
    let mut unpacker = Unpacker {
        root,
        limits,
        bytes: 0,
        entries: 0,
        directories: Vec::new(),
        last_parent: None,
    };
    {
        let mut archive = Archive::new(&mut *archive);
        let mut extensions = Extensions::default();
        for entry in archive.entries().map_err(read_error)?.raw(true) {
            let mut entry = entry.map_err(read_error)?;
            if !extensions.take(&mut entry)? {
                unpacker.add(&mut entry, std::mem::take(&mut extensions))?;
            }
        }
    }
    // What stands behind the end mark belongs to the layer's digest.
    let rest = io::copy(&mut archive.take(limits.bytes_max), &mut io::sink());
    rest.map_err(read_error)?;
    unpacker.finish()
}

impl Extensions {
    /// Takes an entry that only tells about the next one.
    fn take(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool, UnpackError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.name = Some(text(entry)?),
            EntryType::GNULongLink => self.link = Some(text(entry)?),
            EntryType::XHeader => self.pax = parse_pax(&extension(entry)?)?,
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn extension(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = Vec::new();
    entry
        .take(EXTENSION_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(read_error)?;
    match bytes.len() as u64 > EXTENSION_BYTES_MAX {
        true => Err(UnpackError::Bad(
            "a name or attribute in it is too long".to_owned(),
        )),
        false => Ok(bytes),
    }
}

fn text(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = extension(entry)?;
    bytes.truncate(
        bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(bytes.len()),
    );
    Ok(bytes)
}

/// Records of `<length> <key>=<value>\n`; values may contain anything.
fn parse_pax(mut data: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, UnpackError> {
    let malformed = || UnpackError::Bad("a malformed extended header".to_owned());
    let mut records = BTreeMap::new();
    while !data.is_empty() && data[0] != 0 {
        let space = data
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(malformed)?;
        let digits = std::str::from_utf8(&data[..space]).map_err(|_| malformed())?;
        let length: usize = digits.parse().map_err(|_| malformed())?;
        let record = data.get(space + 1..length).ok_or_else(malformed)?;
        let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(malformed)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| malformed())?;
        records.insert(key.to_owned(), record[equals + 1..].to_vec());
        data = &data[length..];
    }
    Ok(records)
}

impl Unpacker {
    fn add(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        extensions: Extensions,
    ) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            let max = self.limits.entries_max;
            return Err(UnpackError::Bad(format!("it has more than {max} entries")));
        }
        let meta = meta(entry, extensions)?;
        // The layer's own top directory: its owner and bits come from the container's.
        let Some((name, parents)) = meta.path.split_last() else {
            return Ok(());
        };
        let name = name.clone();
        let parent = self.parent(parents)?;
        if name.starts_with(WHITEOUT) {
            return self.white_out(&parent, &name, &meta.path);
        }
        let was = self.make_room(&parent, &name, entry.header().entry_type(), &meta.path)?;
        let kind = entry.header().entry_type();
        let made = match kind {
            EntryType::Directory => self.directory(&parent, &name, &meta, was),
            EntryType::Regular | EntryType::Continuous => {
                return self.file(&parent, &name, &meta, entry);
            }
            EntryType::Symlink => symlink(&parent, &name, &meta),
            EntryType::Link => return self.hard_link(&parent, &name, &meta),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                node(&parent, &name, &meta, entry)
            }
            other => {
                let path = shown(&meta.path);
                return Err(UnpackError::Bad(format!(
                    "{path} is of unsupported type {other:?}"
                )));
            }
        };
        made.map_err(|errno| write_error(&meta.path, errno.into()))
    }

    /// Opens the directory that an entry is in, making what is missing.
    fn parent(&mut self, parents: &[Vec<u8>]) -> Result<OwnedFd, UnpackError> {
        let failed = |errno: Errno| write_error(parents, errno.into());
        if let Some((path, fd)) = &self.last_parent
            && path == parents
        {
            return fd.try_clone().map_err(|error| write_error(parents, error));
        }
        let mut dir = self
            .root
            .try_clone()
            .map_err(|error| write_error(parents, error))?;
        for depth in 1..=parents.len() {
            let path = joined(&parents[..depth]);
            dir = match self.open_inside(&path, OFlags::DIRECTORY) {
                Ok(found) => found,
                Err(Errno::NOENT) => {
                    let name = OsStr::from_bytes(&parents[depth - 1]);
                    match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => return Err(misplaced(&parents[..depth])),
                        Err(errno) => return Err(failed(errno)),
                    }
                    self.open_inside(&path, OFlags::DIRECTORY).map_err(failed)?
                }
                Err(Errno::NOTDIR) => {
                    // Left by a deletion that this layer itself takes back.
                    let name = &parents[depth - 1];
                    if !is_white_out(&dir, name) {
                        return Err(misplaced(&parents[..depth]));
                    }
                    let name = OsStr::from_bytes(name);
                    rustix::fs::unlinkat(&dir, name, AtFlags::empty()).map_err(failed)?;
                    rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
                    let made = self.open_inside(&path, OFlags::DIRECTORY).map_err(failed)?;
                    make_opaque(&made).map_err(failed)?;
                    made
                }
                Err(Errno::LOOP | Errno::XDEV) => return Err(misplaced(&parents[..depth])),
                Err(errno) => return Err(failed(errno)),
            };
        }
        let kept = dir
            .try_clone()
            .map_err(|error| write_error(parents, error))?;
        self.last_parent = Some((parents.to_vec(), kept));
        Ok(dir)
    }

    fn open_inside(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn white_out(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[Vec<u8>],
    ) -> Result<(), UnpackError> {
        let failed = |errno: Errno| write_error(path, errno.into());
        if name == OPAQUE {
            return make_opaque(parent).map_err(failed);
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.starts_with(b".wh.") {
            // Notes of other storage drivers.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UnpackError::Bad(format!("{} deletes nothing", shown(path))));
        }
        let hidden = OsStr::from_bytes(hidden);
        match rustix::fs::statat(parent, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            // This layer has something of that name itself: only what is below is hidden.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = rustix::fs::openat(parent, hidden, flags, Mode::empty());
                make_opaque(&dir.map_err(failed)?).map_err(failed)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                let mode = Mode::empty();
                rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, mode, 0)
                    .map_err(failed)
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Removes what an entry replaces; a directory stays where a directory comes.
    fn make_room(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        kind: EntryType,
        path: &[Vec<u8>],
    ) -> Result<Was, UnpackError> {
        let failed = |errno: Errno| write_error(path, errno.into());
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
        let doomed = Path::new("/proc/self/fd")
            .join(parent.as_raw_fd().to_string())
            .join(os_name);
        fs::remove_dir_all(doomed).map_err(|error| write_error(path, error))?;
        Ok(Was::Nothing)
    }

    fn directory(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        meta: &Meta,
        was: Was,
    ) -> Result<(), Errno> {
        let os_name = OsStr::from_bytes(name);
        if was != Was::Directory {
            rustix::fs::mkdirat(parent, os_name, Mode::from_raw_mode(0o700))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(parent, os_name, flags, Mode::empty())?;
        if was == Was::Deleted {
            make_opaque(&dir)?;
        }
        set_owner_and_mode(&dir, meta)?;
        set_attributes(&dir, &meta.attributes)?;
        self.directories.push((meta.path.clone(), meta.modified));
        Ok(())
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        meta: &Meta,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), UnpackError> {
        let failed = |errno: Errno| write_error(&meta.path, errno.into());
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes_max {
            let max = self.limits.bytes_max;
            return Err(UnpackError::Bad(format!(
                "it unpacks to more than {max} bytes"
            )));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let name = OsStr::from_bytes(name);
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(parent, name, flags | OFlags::CLOEXEC, mode);
        let mut file = File::from(file.map_err(failed)?);
        let written = copy(entry, &mut file, &meta.path)?;
        if written != size {
            return Err(read_error(io::ErrorKind::UnexpectedEof.into()));
        }
        // The owner first: changing it takes the set-user-ID bits away.
        set_owner_and_mode(&file, meta).map_err(failed)?;
        set_attributes(&file, &meta.attributes).map_err(failed)?;
        rustix::fs::futimens(&file, &times(meta.modified)).map_err(failed)
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &[u8], meta: &Meta) -> Result<(), UnpackError> {
        let target = components(&meta.link)?;
        let missing = || {
            let (path, link) = (shown(&meta.path), shown(&target));
            UnpackError::Bad(format!(
                "{path} is a hard link to {link}, which is not in the layer"
            ))
        };
        let (last, parents) = target.split_last().ok_or_else(missing)?;
        let dir = self
            .open_inside(&joined(parents), OFlags::DIRECTORY)
            .map_err(|_| missing())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(&dir, OsStr::from_bytes(last), flags, Mode::empty())
            .map_err(|_| missing())?;
        let stat = rustix::fs::fstat(&found).map_err(|_| missing())?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(missing());
        }
        let source = format!("/proc/self/fd/{}", found.as_raw_fd());
        let name = OsStr::from_bytes(name);
        rustix::fs::linkat(
            rustix::fs::CWD,
            source,
            parent,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )
        .map_err(|errno| write_error(&meta.path, errno.into()))
    }

    fn finish(self) -> Result<u64, UnpackError> {
        // Inner ones first; one that was replaced later is left out.
        for (path, modified) in self.directories.iter().rev() {
            if let Ok(dir) = self.open_inside(&joined(path), OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                let proc = format!("/proc/self/fd/{}", dir.as_raw_fd());
                let flags = AtFlags::empty();
                rustix::fs::utimensat(rustix::fs::CWD, proc, &times(*modified), flags)
                    .map_err(|errno| write_error(path, errno.into()))?;
            }
        }
        Ok(self.bytes)
    }
}

/// What was there before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    Nothing,
    Directory,
    Deleted,
}

fn meta(entry: &Entry<'_, impl Read>, extensions: Extensions) -> Result<Meta, UnpackError> {
    let header = entry.header();
    let Extensions {
        name,
        link,
        mut pax,
    } = extensions;
    let number = |pax: &BTreeMap<String, Vec<u8>>, key: &str| {
        pax.get(key)
            .and_then(|value| std::str::from_utf8(value).ok()?.parse::<f64>().ok())
    };
    if let Some(size) = number(&pax, "size")
        && size as u64 != entry.size()
    {
        return Err(UnpackError::Bad(
            "files of more than 8 GiB in this form".to_owned(),
        ));
    }
    let path = pax
        .remove("path")
        .or(name)
        .unwrap_or_else(|| entry.header().path_bytes().into());
    let link = pax.remove("linkpath").or(link);
    let link = link
        .or_else(|| header.link_name_bytes().map(Into::into))
        .unwrap_or_default();
    let id = |key, value: io::Result<u64>| {
        let number = number(&pax, key)
            .map(|id| id as u64)
            .or(value.ok())
            .unwrap_or(0);
        u32::try_from(number).unwrap_or(0)
    };
    let (uid, gid) = (id("uid", header.uid()), id("gid", header.gid()));
    let modified = match number(&pax, "mtime") {
        Some(time) if time.is_finite() => Timespec {
            tv_sec: time.floor() as i64,
            tv_nsec: ((time - time.floor()) * 1e9) as _,
        },
        _ => Timespec {
            tv_sec: header.mtime().unwrap_or(0) as i64,
            tv_nsec: 0,
        },
    };
    let attributes = pax.into_iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("SCHILY.xattr.")?;
        // Others are the kernel's own, overlayfs' among them.
        let harmless = name.starts_with("user.") && !name.starts_with("user.overlay.");
        (harmless || name == "security.capability").then(|| (name.to_owned(), value))
    });
    Ok(Meta {
        path: components(&path)?,
        link,
        mode: header.mode().unwrap_or(0o644) & 0o7777,
        uid,
        gid,
        modified,
        attributes: attributes.collect(),
    })
}

/// Splits a path; `..` has no place in an archive.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, UnpackError> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let path = String::from_utf8_lossy(path).into_owned();
                return Err(UnpackError::Bad(format!("{path} leads out of the layer")));
            }
            part if part.contains(&0) => {
                return Err(UnpackError::Bad(
                    "a name in it contains a NUL byte".to_owned(),
                ));
            }
            part => parts.push(part.to_vec()),
        }
    }
    Ok(parts)
}

fn joined(parts: &[Vec<u8>]) -> PathBuf {
    match parts.is_empty() {
        true => PathBuf::from("."),
        false => parts.iter().map(|part| OsStr::from_bytes(part)).collect(),
    }
}

fn shown(parts: &[Vec<u8>]) -> String {
    joined(parts).display().to_string()
}

fn symlink(parent: &OwnedFd, name: &[u8], meta: &Meta) -> Result<(), Errno> {
    let name = OsStr::from_bytes(name);
    rustix::fs::symlinkat(OsStr::from_bytes(&meta.link), parent, name)?;
    set_owner_at(parent, name, meta)?;
    rustix::fs::utimensat(
        parent,
        name,
        &times(meta.modified),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn node(
    parent: &OwnedFd,
    name: &[u8],
    meta: &Meta,
    entry: &Entry<'_, impl Read>,
) -> Result<(), Errno> {
    let kind = match entry.header().entry_type() {
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let number = |part: io::Result<Option<u32>>| part.ok().flatten().unwrap_or(0);
    let (major, minor) = (
        number(entry.header().device_major()),
        number(entry.header().device_minor()),
    );
    let device = match kind {
        FileType::Fifo => 0,
        _ => rustix::fs::makedev(major, minor),
    };
    let name = OsStr::from_bytes(name);
    rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?;
    set_owner_at(parent, name, meta)?;
    rustix::fs::chmodat(
        parent,
        name,
        Mode::from_raw_mode(meta.mode),
        AtFlags::empty(),
    )
}

fn set_owner_at(parent: &OwnedFd, name: &OsStr, meta: &Meta) -> Result<(), Errno> {
    let (uid, gid) = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

fn set_owner_and_mode(fd: impl AsFd, meta: &Meta) -> Result<(), Errno> {
    rustix::fs::fchown(
        &fd,
        Some(Uid::from_raw(meta.uid)),
        Some(Gid::from_raw(meta.gid)),
    )?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(meta.mode))
}

fn set_attributes(fd: impl AsFd, attributes: &[(String, Vec<u8>)]) -> Result<(), Errno> {
    for (name, value) in attributes {
        match rustix::fs::fsetxattr(&fd, name.as_str(), value, XattrFlags::empty()) {
            // A file system without attributes cannot keep them; the file itself is fine.
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

/// Copies and tells a failed read from a failed write.
fn copy(from: &mut impl Read, to: &mut File, path: &[Vec<u8>]) -> Result<u64, UnpackError> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read_error(error)),
        };
        io::Write::write_all(to, &buffer[..count]).map_err(|error| write_error(path, error))?;
        total += count as u64;
    }
}

fn read_error(error: io::Error) -> UnpackError {
    UnpackError::Read(error)
}

fn write_error(path: &[Vec<u8>], source: io::Error) -> UnpackError {
    UnpackError::Write {
        path: shown(path),
        source,
    }
}

fn misplaced(path: &[Vec<u8>]) -> UnpackError {
    UnpackError::Bad(format!("{} is no directory", shown(path)))
}
