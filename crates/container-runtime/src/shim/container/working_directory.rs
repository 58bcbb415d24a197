//! The working directory of a new process. The image or the pod names the directory, which is always inside
//! the container.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::inside::{self, SymlinkPolicy};

/// Enters a directory below `root`. A missing directory is created.
///
/// Links are resolved relative to the root. Links of `/proc` to open files of a process are not followed,
/// because the shim's descriptors are still open (CVE-2024-21626).
///
/// # Errors
/// The directory cannot be created or entered, or is not below the root of this process.
pub(crate) fn enter(root: &Path, path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    rustix::process::fchdir(inside::directory(root, path, SymlinkPolicy::Followed)?)?;
    check_reachable(rustix::process::getcwd(Vec::new())?.as_bytes())
}

/// Checks the name of the working directory. The kernel returns a name without a leading slash for a
/// directory outside of the root.
fn check_reachable(name: &[u8]) -> io::Result<()> {
    match name.first() {
        Some(b'/') => Ok(()),
        _ => Err(io::Error::other("it is outside of the container's root")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_slash_in_front_is_outside() {
        assert!(check_reachable(b"/").is_ok());
        assert!(check_reachable(b"(unreachable)/root").is_err());
        assert!(check_reachable(b"").is_err());
    }
}
