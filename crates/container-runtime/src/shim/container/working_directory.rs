//! The working directory of a new process. The image or the pod names it, and it always lies inside
//! the container.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Enters a directory below `root`, which is made when it is missing.
///
/// Links count from the root. The links of `/proc` that lead to what a process has open are not
/// followed: the shim's own descriptors are still there (CVE-2024-21626).
///
/// # Errors
/// The directory cannot be made or entered, or is not below the root of this process.
pub(crate) fn enter(root: &Path, path: &Path) -> io::Result<()> {
    rustix::process::fchdir(open_or_make(root, path)?)?;
    check_reachable(rustix::process::getcwd(Vec::new())?.as_bytes())
}

/// The kernel names a directory outside of the root without a slash in front.
fn check_reachable(name: &[u8]) -> io::Result<()> {
    match name.first() {
        Some(b'/') => Ok(()),
        _ => Err(io::Error::other("it is outside of the container's root")),
    }
}

fn open_or_make(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve);
    match open(path) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let mut dir = open(Path::new("/"))?;
    let mut so_far = PathBuf::new();
    for part in path.components() {
        so_far.push(part);
        dir = match open(&so_far) {
            Err(Errno::NOENT) => {
                let name: &Path = part.as_ref();
                rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o777))?;
                open(&so_far)?
            }
            other => other?,
        };
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_missing_is_made_where_links_of_the_root_lead() {
        let root = std::env::temp_dir().join(format!("working-dir-{}", std::process::id()));
        fs::create_dir_all(root.join("run")).unwrap();
        symlink("/run", root.join("var")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        symlink("../../../../..", root.join("up")).unwrap();
        let made = |path: &str| open_or_make(&root, Path::new(path)).map(drop);
        made("/var/app/x").unwrap();
        assert!(root.join("run/app/x").is_dir());
        made("/up/up/y").unwrap();
        assert!(root.join("y").is_dir());
        made("/new/../z").unwrap();
        assert!(root.join("z").is_dir());
        // There is no /proc below this root.
        assert!(made("/magic/etc").is_err());
        fs::remove_dir_all(&root).unwrap();
        // findings S16
        for link in [
            "/proc/self/root",
            "/proc/self/cwd",
            "/proc/thread-self/root",
        ] {
            let refused = open_or_make(Path::new("/"), Path::new(link)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ELOOP), "{link}");
        }
    }

    #[test]
    fn a_directory_without_a_slash_in_front_is_outside() {
        assert!(check_reachable(b"/").is_ok());
        assert!(check_reachable(b"(unreachable)/root").is_err());
        assert!(check_reachable(b"").is_err());
    }
}
