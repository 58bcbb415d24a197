//! Unpacks a layer into a directory, trusting nothing in it.
//!
//! Every path is resolved with the directory as its root (`openat2`, `RESOLVE_IN_ROOT`), so that
//! neither `..` nor a link in the layer leads outside. Whiteouts become overlayfs' own (a
//! character device 0:0; an opaque mark on the directory): OCI image layer specification,
//! kernel's overlayfs documentation.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use tar::EntryType;

/// The prefix of a file that hides another in the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// The name of the file that hides everything in its directory in the layers below.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How PAX headers carry extended attributes.
const XATTR: &str = "SCHILY.xattr.";

/// Bounds on a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all files together.
    pub bytes_max: u64,
    /// Number of entries.
    pub entries_max: u64,
}

impl Default for Limits {
    /// Far beyond any real layer, far below what fills a disk unnoticed.
    fn default() -> Self {
        Self {
            bytes_max: 64 << 30,
            entries_max: 4_000_000,
        }
    }
}

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// A path that leads outside, or is no path at all.
    #[error("layer entry {path:?} has an unsafe path")]
    UnsafePath {
        /// As the layer has it.
        path: PathBuf,
    },
    /// The layer is larger than it may be.
    #[error("layer is larger than the limit of {limit} {what}")]
    TooLarge {
        /// The bound.
        limit: u64,
        /// `bytes` or `entries`.
        what: &'static str,
    },
    /// The archive is malformed, or the disk failed.
    #[error("unpack layer entry {path:?}: {source}")]
    Io {
        /// The entry, empty between entries.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Unpacks an uncompressed archive into an existing empty directory.
///
/// # Errors
/// When the archive is hostile or malformed, or the disk fails; the directory is then half full.
pub fn unpack(
    archive: impl Read,
    directory: &Path,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| failure(directory, error))?;
    let mut archive = tar::Archive::new(archive);
    let mut target = Target {
        root,
        times: Vec::new(),
    };
    let mut unpacked = Unpacked::default();
    let mut entries = 0;
    let between = Path::new("");
    for entry in archive.entries().map_err(|error| failure(between, error))? {
        let mut entry = entry.map_err(|error| failure(between, error))?;
        let path = PathBuf::from(entry.path().map_err(|error| failure(between, error))?);
        entries += 1;
        unpacked.bytes = unpacked.bytes.saturating_add(entry.size());
        if entries > limits.entries_max {
            return Err(UnpackError::TooLarge {
                limit: limits.entries_max,
                what: "entries",
            });
        }
        if unpacked.bytes > limits.bytes_max {
            return Err(UnpackError::TooLarge {
                limit: limits.bytes_max,
                what: "bytes",
            });
        }
        let Some(parts) = parts(&path) else {
            return Err(UnpackError::UnsafePath { path });
        };
        target
            .put(&mut entry, &parts)
            .map_err(|error| failure(&path, error))?;
    }
    target.finish().map_err(|error| failure(between, error))?;
    Ok(unpacked)
}

fn failure(path: &Path, error: impl Into<io::Error>) -> UnpackError {
    UnpackError::Io {
        path: path.to_owned(),
        source: error.into(),
    }
}

/// The names along a path; `None` if it climbs or holds a zero byte. Leading slashes fall away,
/// as with every unpacker of layers.
fn parts(path: &Path) -> Option<Vec<&std::ffi::OsStr>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_bytes().contains(&0) => parts.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => return None,
        }
    }
    Some(parts)
}

/// The directory that is being filled.
struct Target {
    root: OwnedFd,
    /// Directories get their times last: filling them changes them.
    times: Vec<(PathBuf, Timestamps)>,
}

impl Target {
    fn put(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parts: &[&std::ffi::OsStr],
    ) -> io::Result<()> {
        let Some((name, parents)) = parts.split_last() else {
            // The root directory itself.
            return Ok(());
        };
        let parent = self.directory(parents)?;
        if name.as_bytes() == OPAQUE {
            let mark = rustix::fs::XattrFlags::empty();
            let path = by_descriptor(&parent);
            return Ok(rustix::fs::setxattr(
                path,
                "trusted.overlay.opaque",
                b"y",
                mark,
            )?);
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden = std::ffi::OsStr::from_bytes(hidden);
            if hidden.is_empty() || hidden == "." || hidden == ".." {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a malformed whiteout",
                ));
            }
            remove(&parent, hidden)?;
            let mode = Mode::empty();
            return Ok(rustix::fs::mknodat(
                &parent,
                hidden,
                FileType::CharacterDevice,
                mode,
                0,
            )?);
        }
        self.make(entry, &parent, name, parts)
    }

    fn make(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
        parts: &[&std::ffi::OsStr],
    ) -> io::Result<()> {
        let header = entry.header().clone();
        let kind = header.entry_type();
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let keeps_directory = kind == EntryType::Directory && is_directory(parent, name);
        if !keeps_directory {
            remove(parent, name)?;
        }
        match kind {
            EntryType::Directory if keeps_directory => {}
            EntryType::Directory => rustix::fs::mkdirat(parent, name, mode)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
                io::copy(entry, &mut std::fs::File::from(file))?;
            }
            EntryType::Symlink => {
                let target = link_name(entry)?;
                rustix::fs::symlinkat(&target, parent, name)?;
            }
            EntryType::Link => return self.hard_link(entry, parent, name),
            EntryType::Char | EntryType::Block => {
                let numbers = (header.device_major()?, header.device_minor()?);
                let device = device(numbers.0.unwrap_or(0), numbers.1.unwrap_or(0));
                let kind = if kind == EntryType::Char {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                rustix::fs::mknodat(parent, name, kind, mode, device)?;
            }
            EntryType::Fifo => rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)?,
            // Global headers and the like carry no file.
            _ => return Ok(()),
        }
        self.dress(entry, parent, name, parts, mode)
    }

    /// Owner, mode (after the owner, which clears set-user-id), attributes, times.
    fn dress(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
        parts: &[&std::ffi::OsStr],
        mode: Mode,
    ) -> io::Result<()> {
        let header = entry.header().clone();
        let kind = header.entry_type();
        // Archives made by hand often leave the owner out; then it is root.
        let (uid, gid) = (header.uid().unwrap_or(0), header.gid().unwrap_or(0));
        let (uid, gid) = (number(uid)?, number(gid)?);
        let here = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(
            parent,
            name,
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            here,
        )?;
        if kind != EntryType::Symlink {
            // The entry was just made here, or is a directory that was checked not to be a link.
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
            attributes(entry, parent, name)?;
        }
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        if kind == EntryType::Directory {
            self.times.push((parts.iter().collect(), times));
            return Ok(());
        }
        Ok(rustix::fs::utimensat(parent, name, &times, here)?)
    }

    fn hard_link(
        &self,
        entry: &mut tar::Entry<'_, impl Read>,
        parent: &OwnedFd,
        name: &std::ffi::OsStr,
    ) -> io::Result<()> {
        let target = link_name(entry)?;
        let unsafe_link = || io::Error::new(io::ErrorKind::InvalidData, "a hard link outside");
        let target = parts(&target).ok_or_else(unsafe_link)?;
        let (file, directories) = target.split_last().ok_or_else(unsafe_link)?;
        let directory = self.directory(directories)?;
        Ok(rustix::fs::linkat(
            &directory,
            *file,
            parent,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Opens a directory below the root, making what is missing on the way.
    fn directory(&self, parts: &[&std::ffi::OsStr]) -> io::Result<OwnedFd> {
        let path: PathBuf = parts.iter().collect();
        match self.open(&path) {
            Err(Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let mut here = self.open(Path::new(""))?;
        let mut so_far = PathBuf::new();
        for part in parts {
            so_far.push(part);
            here = match self.open(&so_far) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&here, *part, Mode::from_raw_mode(0o755))?;
                    self.open(&so_far)?
                }
                other => other?,
            };
        }
        Ok(here)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    fn finish(self) -> io::Result<()> {
        for (path, times) in self.times.iter().rev() {
            // A later entry may have put something else in the directory's place.
            if let Ok(directory) = self.open(path) {
                rustix::fs::utimensat(
                    rustix::fs::CWD,
                    by_descriptor(&directory),
                    times,
                    AtFlags::empty(),
                )?;
            }
        }
        Ok(())
    }
}

fn is_directory(parent: &OwnedFd, name: &std::ffi::OsStr) -> bool {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|facts| FileType::from_raw_mode(facts.st_mode) == FileType::Directory)
}

/// Removes whatever an earlier entry of the same layer left under this name.
fn remove(parent: &OwnedFd, name: &std::ffi::OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => std::fs::remove_dir_all(by_descriptor(parent).join(name)),
        Err(error) => Err(error.into()),
    }
}

fn attributes(
    entry: &mut tar::Entry<'_, impl Read>,
    parent: &OwnedFd,
    name: &std::ffi::OsStr,
) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension?;
        let Some(attribute) = extension.key().ok().and_then(|key| key.strip_prefix(XATTR)) else {
            continue;
        };
        // `trusted.` is overlayfs' own name space: a layer may not speak it.
        if attribute.starts_with("user.") || attribute == "security.capability" {
            let path = by_descriptor(parent).join(name);
            let flags = rustix::fs::XattrFlags::empty();
            match rustix::fs::lsetxattr(&path, attribute, extension.value_bytes(), flags) {
                // Not every file system has them; the image works without.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// A path to what a descriptor has open, for calls that only take paths.
fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn link_name(entry: &tar::Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "a link to nowhere");
    Ok(entry.link_name()?.ok_or_else(missing)?.into_owned())
}

fn number(value: u64) -> io::Result<u32> {
    let error = |_| io::Error::new(io::ErrorKind::InvalidData, "an owner beyond 32 bits");
    u32::try_from(value).map_err(error)
}

fn device(major: u32, minor: u32) -> Dev {
    rustix::fs::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    /// An archive of raw entries: (kind, path, link or contents).
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(1_000);
            let is_file = *kind == EntryType::Regular;
            let body = if is_file { text.as_bytes() } else { b"" };
            header.set_size(body.len() as u64);
            // Set by hand: the builder's own methods refuse hostile names.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            if !is_file {
                let link = &mut header.as_old_mut().linkname;
                link[..text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, body).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(entries: &[(EntryType, &str, &str)]) -> Result<tempfile::TempDir, UnpackError> {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("layer");
        fs::create_dir(&inner).unwrap();
        unpack(archive(entries).as_slice(), &inner, &Limits::default())?;
        Ok(outer)
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn files_keep_mode_and_time() {
        let outer = unpacked(&[(FILE, "a/b/c", "text")]).unwrap();
        let path = outer.path().join("layer/a/b/c");
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        let facts = fs::metadata(&path).unwrap();
        assert_eq!(
            (facts.permissions().mode() & 0o7777, facts.mtime()),
            (0o4755, 1_000)
        );
    }

    #[test]
    fn climbing_paths_are_refused() {
        for path in ["../evil", "a/../../evil", "/../evil"] {
            let error = unpacked(&[(FILE, path, "x")]).unwrap_err();
            assert!(
                matches!(error, UnpackError::UnsafePath { .. }),
                "{path}: {error}"
            );
        }
    }

    #[test]
    fn links_do_not_lead_outside() {
        let outer = unpacked(&[
            (EntryType::Symlink, "up", "../.."),
            (FILE, "up/evil", "x"),
            (EntryType::Symlink, "root", "/"),
            (FILE, "root/etc/evil", "x"),
        ])
        .unwrap();
        assert!(!outer.path().join("evil").exists());
        assert!(!Path::new("/etc/evil").exists());
        assert!(
            outer.path().join("layer/evil").is_file(),
            "inside, as the container would see it"
        );
        assert!(outer.path().join("layer/etc/evil").is_file());
    }

    #[test]
    fn a_file_through_a_link_replaces_the_link() {
        let outer = unpacked(&[
            (EntryType::Symlink, "passwd", "/etc/passwd"),
            (FILE, "passwd", "x"),
        ])
        .unwrap();
        assert_eq!(
            fs::read_to_string(outer.path().join("layer/passwd")).unwrap(),
            "x"
        );
    }

    #[test]
    fn hard_links_stay_inside() {
        let error = unpacked(&[(EntryType::Link, "shadow", "../../etc/shadow")]).unwrap_err();
        assert!(matches!(error, UnpackError::Io { .. }), "{error}");
        let outer = unpacked(&[(FILE, "a", "x"), (EntryType::Link, "b", "a")]).unwrap();
        assert_eq!(
            fs::metadata(outer.path().join("layer/b")).unwrap().nlink(),
            2
        );
    }

    #[test]
    fn whiteouts_become_overlayfs_s_own() {
        let outer = unpacked(&[(FILE, "d/.wh.gone", ""), (FILE, "e/.wh..wh..opq", "")]).unwrap();
        let gone = fs::metadata(outer.path().join("layer/d/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let mut value = [0; 4];
        let path = outer.path().join("layer/e");
        let length = rustix::fs::getxattr(&path, "trusted.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..length], b"y");
        assert!(
            unpacked(&[(FILE, ".wh...", "")]).is_err(),
            "hides the parent"
        );
    }

    #[test]
    fn bombs_are_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[(FILE, "a", "12345"), (FILE, "b", "12345")]);
        let limits = Limits {
            bytes_max: 8,
            entries_max: 10,
        };
        let error = unpack(bytes.as_slice(), directory.path(), &limits).unwrap_err();
        assert!(
            matches!(error, UnpackError::TooLarge { limit: 8, .. }),
            "{error}"
        );
        let limits = Limits {
            bytes_max: 100,
            entries_max: 1,
        };
        let error = unpack(bytes.as_slice(), directory.path(), &limits).unwrap_err();
        assert!(
            matches!(error, UnpackError::TooLarge { limit: 1, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_cut_off_archive_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = archive(&[(FILE, "a", "12345")]);
        let result = unpack(&bytes[..514], directory.path(), &Limits::default());
        assert!(matches!(result, Err(UnpackError::Io { .. })), "{result:?}");
    }
}
