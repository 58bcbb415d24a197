//! Paths below a container's root, which the kernel resolves from a descriptor of the root.
//!
//! Images and volumes may contain any links, and other containers may change a volume concurrently. So a
//! path is resolved once, and then only the resulting descriptor is used.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Maximum number of attempts to resolve a path that is renamed during the attempt.
const WALKS_MAX: usize = 32;

/// Maximum number of links in one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// Treatment of symbolic links in a path. Magic links of `/proc`, which lead to open files of a
/// process, are never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SymlinkPolicy {
    /// Links are resolved relative to the root.
    Followed,
    /// A link is an error.
    Refused,
}

/// Opens a file or directory.
pub(crate) fn find(root: impl AsFd, path: &Path, links: SymlinkPolicy) -> Result<OwnedFd> {
    let refused = match links {
        SymlinkPolicy::Followed => ResolveFlags::NO_MAGICLINKS,
        SymlinkPolicy::Refused => ResolveFlags::NO_SYMLINKS,
    };
    walk(root, path, OFlags::empty(), refused)
}

fn walk(root: impl AsFd, path: &Path, flags: OFlags, refused: ResolveFlags) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
    let resolve = ResolveFlags::IN_ROOT | refused;
    let root = root.as_fd();
    for _ in 0..WALKS_MAX {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            Err(Errno::LOOP) => {
                cov_mark::hit!(findings_s16_links);
                return Err(Errno::LOOP);
            }
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a directory. Missing components of the path are created, even in the targets of links.
pub(crate) fn directory(root: impl AsFd, path: &Path, links: SymlinkPolicy) -> Result<OwnedFd> {
    let root = root.as_fd();
    let file = match find(root, path, links) {
        Err(Errno::NOENT) => make(root, path, links, FileType::Directory)?,
        other => other?,
    };
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::Directory => Ok(file),
        _ => Err(Errno::NOTDIR),
    }
}

/// Opens a path that is not a directory. A missing file is created, even as the target of a link.
pub(crate) fn file(root: impl AsFd, path: &Path, links: SymlinkPolicy) -> Result<OwnedFd> {
    let root = root.as_fd();
    match find(root, path, links) {
        Err(Errno::NOENT) => make(root, path, links, FileType::RegularFile),
        other => other,
    }
}

/// Opens the end of a path, and creates missing components.
///
/// The kernel does not resolve links to missing files, so this function reads the links. `resolved`
/// contains no link, which the kernel checks at each step, so the path cannot leave the root.
fn make(root: BorrowedFd<'_>, path: &Path, links: SymlinkPolicy, end: FileType) -> Result<OwnedFd> {
    let mut resolved = PathBuf::from("/");
    let mut followed = 0;
    // A stack whose top is the next component.
    let mut pending = components(path);
    while let Some(part) = pending.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        match walk(root, &next, OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS) {
            Ok(file) if is_link(&file)? => {
                cov_mark::hit!(findings_2_i2);
                followed += 1;
                if links == SymlinkPolicy::Refused || followed > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&file, "", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                pending.extend(components(target));
            }
            Ok(_) => resolved = next,
            Err(Errno::NOENT) => {
                let kind = if pending.is_empty() {
                    end
                } else {
                    FileType::Directory
                };
                make_one(root, &resolved, &part, kind)?;
                resolved = next;
            }
            Err(errno) => return Err(errno),
        }
    }
    find(root, &resolved, SymlinkPolicy::Refused)
}

/// The components of a path, including `..`, the first component last.
fn components(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}

fn is_link(file: &OwnedFd) -> Result<bool> {
    let stat = rustix::fs::fstat(file)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn make_one(root: BorrowedFd<'_>, parent: &Path, name: &OsStr, kind: FileType) -> Result<()> {
    let parent = find(root, parent, SymlinkPolicy::Refused)?;
    let created = match kind {
        FileType::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)),
        _ => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o644);
            rustix::fs::openat(&parent, name, flags | OFlags::CLOEXEC, mode).map(drop)
        }
    };
    match created {
        // Another container with this volume may have created the directory.
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(path: &Path) -> OwnedFd {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn what_is_missing_is_made_where_links_of_the_root_lead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir_all(path.join("run")).unwrap();
        symlink("/run", path.join("var")).unwrap();
        symlink("/proc/self/root", path.join("magic")).unwrap();
        symlink("../../../../..", path.join("up")).unwrap();
        symlink("/nowhere", path.join("dangling")).unwrap();
        let root = root(path);
        let created =
            |path: &str| directory(&root, Path::new(path), SymlinkPolicy::Followed).map(drop);
        created("/var/app/x").unwrap();
        assert!(path.join("run/app/x").is_dir());
        created("/up/up/y").unwrap();
        assert!(path.join("y").is_dir());
        created("/new/../z").unwrap();
        assert!(path.join("z").is_dir());
        // Below this root, there is no `/proc`.
        created("/magic/etc").unwrap();
        assert!(path.join("proc/self/root/etc").is_dir());
        created("/dangling").unwrap();
        assert!(path.join("nowhere").is_dir());
        let file =
            |path: &str| super::file(&root, Path::new(path), SymlinkPolicy::Followed).map(drop);
        file("/var/app/etc/hosts").unwrap();
        assert!(path.join("run/app/etc/hosts").is_file());
        assert!(created("/run/app/etc/hosts").is_err());
    }

    /// findings-2 I2
    #[test]
    fn the_end_of_a_dangling_link_is_made_inside_the_root() {
        cov_mark::check!(findings_2_i2);
        type Links = &'static [(&'static str, &'static str)];
        let cases: &[(Links, &str, Option<&str>)] = &[
            (&[("etc/f", "../run/a/b/f")], "/etc/f", Some("run/a/b/f")),
            (&[("etc/f", "/run/a/f")], "/etc/f", Some("run/a/f")),
            (&[("etc/f", "../../../../../out")], "/etc/f", Some("out")),
            (
                &[("etc/f", "g"), ("etc/g", "/h"), ("h", "x/y")],
                "/etc/f",
                Some("x/y"),
            ),
            (&[("d", "missing")], "/d/e/f", Some("missing/e/f")),
            (&[("d", "/m/n")], "/d/../f", Some("m/f")),
            (
                &[("d", "here"), ("here", "gone/../too")],
                "/d/f",
                Some("too/f"),
            ),
            (&[("etc/f", "loop"), ("etc/loop", "f")], "/etc/f", None),
            (&[("etc/f", "/etc/f/x")], "/etc/f", None),
            (&[("f", "plain/x")], "/f", None),
        ];
        for (links, path, expected) in cases {
            for end in [FileType::RegularFile, FileType::Directory] {
                let outer = tempfile::tempdir().unwrap();
                let inner = outer.path().join("root");
                fs::create_dir_all(inner.join("etc")).unwrap();
                fs::write(inner.join("plain"), "").unwrap();
                for (link, target) in *links {
                    symlink(target, inner.join(link)).unwrap();
                }
                let created = match end {
                    FileType::Directory => directory(root(&inner), Path::new(path), FOLLOWED),
                    _ => super::file(root(&inner), Path::new(path), FOLLOWED),
                };
                let result = created
                    .as_ref()
                    .map(|result| rustix::fs::fstat(result).unwrap().st_ino);
                let there =
                    expected.map(|position| fs::symlink_metadata(inner.join(position)).unwrap());
                assert_eq!(
                    result.ok(),
                    there.as_ref().map(std::os::unix::fs::MetadataExt::ino),
                    "{links:?} {path} {created:?}"
                );
                assert!(there.is_none_or(|there| there.is_dir() == (end == FileType::Directory)));
                assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "{links:?}");
            }
        }
    }

    const FOLLOWED: SymlinkPolicy = SymlinkPolicy::Followed;

    #[test]
    fn links_are_refused_where_the_runtime_mounts() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        symlink("/tmp", dir.path().join("proc")).unwrap();
        let refused = directory(root(dir.path()), Path::new("/proc"), SymlinkPolicy::Refused);
        assert_eq!(refused.unwrap_err(), Errno::LOOP);
    }

    /// findings S16
    #[test]
    fn links_to_what_a_process_has_open_are_not_followed() {
        cov_mark::check!(findings_s16_links);
        for link in [
            "/proc/self/root",
            "/proc/self/cwd",
            "/proc/thread-self/root",
        ] {
            let refused = find(
                root(Path::new("/")),
                Path::new(link),
                SymlinkPolicy::Followed,
            );
            assert_eq!(refused.unwrap_err(), Errno::LOOP, "{link}");
        }
    }
}
