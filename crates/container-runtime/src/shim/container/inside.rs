//! Paths below a container's root, walked by the kernel from a descriptor of the root.
//!
//! Images and volumes may contain any links, and other containers may change a volume at the same time. So a
//! path is resolved once, and then only the resulting descriptor is used.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Maximum number of walks of a path that is renamed during the walk.
const WALKS_MAX: usize = 32;

/// Treatment of symbolic links in a path. Magic links of `/proc`, which lead to open files of a
/// process, are never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SymlinkPolicy {
    /// Links are resolved relative to the root.
    Followed,
    /// A link is an error.
    Refused,
}

/// Finds a file or directory.
pub(crate) fn find(root: impl AsFd, path: &Path, links: SymlinkPolicy) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT
        | match links {
            SymlinkPolicy::Followed => ResolveFlags::NO_MAGICLINKS,
            SymlinkPolicy::Refused => ResolveFlags::NO_SYMLINKS,
        };
    let root = root.as_fd();
    for _ in 0..WALKS_MAX {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Finds a directory; missing components of the path are created.
pub(crate) fn directory(root: impl AsFd, path: &Path, links: SymlinkPolicy) -> Result<OwnedFd> {
    let root = root.as_fd();
    let found = match find(root, path, links) {
        Err(Errno::NOENT) => make_directories(root, path, links)?,
        other => other?,
    };
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    match kind {
        rustix::fs::FileType::Directory => Ok(found),
        _ => Err(Errno::NOTDIR),
    }
}

fn make_directories(root: impl AsFd, path: &Path, links: SymlinkPolicy) -> Result<OwnedFd> {
    let root = root.as_fd();
    let mut dir = find(root, Path::new("/"), links)?;
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        dir = match find(root, &so_far, links) {
            Err(Errno::NOENT) => {
                let name: &Path = part.as_ref();
                match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o777)) {
                    // Another container that has the volume may have made it.
                    Ok(()) | Err(Errno::EXIST) => find(root, &so_far, links)?,
                    Err(errno) => return Err(errno),
                }
            }
            other => other?,
        };
    }
    Ok(dir)
}

/// Finds a path that is not a directory; a missing one is created as a file.
pub(crate) fn file(root: impl AsFd, path: &Path, links: SymlinkPolicy) -> Result<OwnedFd> {
    let root = root.as_fd();
    match find(root, path, links) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL);
    };
    let parent = directory(root, parent, links)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => find(root, path, links),
        Err(errno) => Err(errno),
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
        let made =
            |path: &str| directory(&root, Path::new(path), SymlinkPolicy::Followed).map(drop);
        made("/var/app/x").unwrap();
        assert!(path.join("run/app/x").is_dir());
        made("/up/up/y").unwrap();
        assert!(path.join("y").is_dir());
        made("/new/../z").unwrap();
        assert!(path.join("z").is_dir());
        // There is no /proc below this root.
        assert!(made("/magic/etc").is_err());
        assert!(made("/dangling").is_err());
        let file =
            |path: &str| super::file(&root, Path::new(path), SymlinkPolicy::Followed).map(drop);
        file("/var/app/etc/hosts").unwrap();
        assert!(path.join("run/app/etc/hosts").is_file());
        assert!(made("/run/app/etc/hosts").is_err());
        assert!(file("/dangling").is_err());
        assert!(!path.join("nowhere").exists());
    }

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
