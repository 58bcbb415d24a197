//! Directories below an export's root, by descriptors: a pod that writes to the export cannot lead these
//! calls elsewhere by a link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use host_kernel::tree;
use resource_kinds::storage::nfs_class::archived;
use rustix::fs::{AtFlags, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Creates a directory that every user may write to, as the external provisioner does: pods have different users, and
/// the server may map root to nobody. An existing directory is used.
pub(super) fn make(root: &OwnedFd, directory: &Path) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o777);
    let mut at = openat(root, ".", DIRECTORY, Mode::empty())?;
    for part in directory.iter() {
        match mkdirat(&at, part, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        at = openat(&at, part, DIRECTORY, Mode::empty())?;
    }
    match fchmod(&at, mode) {
        // A user of the server created the directory, and this node has the rights of another user.
        Err(Errno::PERM) => Ok(()),
        result => Ok(result?),
    }
}

/// Removes a directory with its files. A missing directory is no error.
pub(super) fn remove(root: &OwnedFd, directory: &Path) -> io::Result<()> {
    let Some((parent, name)) = find(root, directory)? else {
        return Ok(());
    };
    let path = format!("/proc/self/fd/{}", parent.as_raw_fd());
    match tree::remove(&Path::new(&path).join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Renames a directory to its archived name; if the name exists, with the name of the volume appended. A missing
/// directory is no error.
pub(super) fn archive(root: &OwnedFd, directory: &Path, volume: &str) -> io::Result<()> {
    let Some((parent, name)) = find(root, directory)? else {
        return Ok(());
    };
    let is_there = |name: &Path| statat(root, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    let mut to: PathBuf = archived(directory, None);
    if is_there(&to) {
        to = archived(directory, Some(volume));
    }
    match renameat(&parent, name, root, &to) {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

/// The parent of a directory, and the name of the directory in the parent; `None` if the parent does not exist.
fn find<'a>(root: &OwnedFd, directory: &'a Path) -> io::Result<Option<(OwnedFd, &'a OsStr)>> {
    let name = directory.file_name().unwrap_or_default();
    let mut at = openat(root, ".", DIRECTORY, Mode::empty())?;
    for part in directory.parent().into_iter().flat_map(Path::iter) {
        at = match openat(&at, part, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            result => result?,
        };
    }
    Ok(Some((at, name)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let temp = tempfile::tempdir().unwrap();
        let fd = fs::File::open(temp.path()).unwrap().into();
        (temp, fd)
    }

    #[test]
    fn a_directory_is_made_for_every_user_and_found_made() {
        let (temp, root) = root();
        for _ in 0..2 {
            make(&root, Path::new("a/b")).unwrap();
        }
        let metadata = fs::metadata(temp.path().join("a/b")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o777);
    }

    #[test]
    fn a_directory_is_removed_or_kept_under_another_name() {
        let (temp, root) = root();
        let file = |name: &str| temp.path().join(name).join("file");
        for (name, text) in [("a/one", "1"), ("b/one", "2"), ("c", "3")] {
            make(&root, Path::new(name)).unwrap();
            fs::write(file(name), text).unwrap();
        }
        for _ in 0..2 {
            archive(&root, Path::new("a/one"), "pvc-1").unwrap();
            archive(&root, Path::new("b/one"), "pvc-2").unwrap();
            remove(&root, Path::new("c")).unwrap();
            remove(&root, Path::new("none/at/all")).unwrap();
        }
        assert_eq!(fs::read_to_string(file("archived-one")).unwrap(), "1");
        assert_eq!(fs::read_to_string(file("archived-one-pvc-2")).unwrap(), "2");
        assert!(!temp.path().join("c").exists() && !temp.path().join("a/one").exists());
    }

    #[test]
    fn the_longest_name_is_kept_under_a_shorter_one() {
        let (temp, root) = root();
        let long = "l".repeat(255);
        for volume in ["pvc-1", "pvc-2"] {
            make(&root, Path::new(&long)).unwrap();
            archive(&root, Path::new(&long), volume).unwrap();
        }
        let names = fs::read_dir(temp.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        let archived = |letters, end| format!("archived-{}{end}", "l".repeat(letters));
        assert_eq!(names, [archived(240, "-pvc-2"), archived(246, "")]);
    }

    #[test]
    fn a_link_leads_nowhere() {
        let (temp, root) = root();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        symlink(outside.path(), temp.path().join("link")).unwrap();
        assert!(make(&root, Path::new("link/new")).is_err());
        assert!(remove(&root, Path::new("link/kept")).is_err());
        assert!(archive(&root, Path::new("link/kept"), "v").is_err());
        assert!(outside.path().join("kept").exists() && !outside.path().join("new").exists());
    }
}
