//! The check that no other user can replace the contents of a data directory, because keys are read from it and
//! written to it.
//!
//! The directory must belong to this user, and neither its group nor other users may write it, as PostgreSQL and etcd
//! require. The directories above it may belong to other users, for example a home directory, but must not be
//! writable for all users. Symbolic links above it are checked as in the kernel (`fs.protected_symlinks`). Inside of
//! the directory, only parts with much data may be symbolic links to another disk.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::MARKER_FILE;
use crate::parts::DirectoryPart;

/// Maximum number of symbolic links on the path of a directory, as in the kernel.
const LINKS_MAX: usize = 40;

/// Bits of a mode that allow writes by the group or other users.
const OTHERS_WRITE: u32 = 0o022;
const EVERYBODY_WRITES: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Parts that may be symbolic links to another disk: they contain data, and no keys.
const MAY_BE_LINKS: [&str; 8] = [
    "store",
    "volumes",
    "snapshots",
    "pool",
    "pods",
    "images",
    "seccomp",
    "registries.yaml",
];

/// Parts with keys, whose entries are checked, too.
const WITH_KEYS: [&str; 2] = ["certificates", "node"];

/// The user to which the files must belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner(u32);

impl Owner {
    fn is(self, metadata: &Metadata) -> bool {
        metadata.uid() == self.0
    }

    /// Whether a symbolic link may be followed: it belongs to this user, to root, or to the owner of its directory.
    fn follows(self, link: u32, directory: u32) -> bool {
        link == self.0 || link == 0 || link == directory
    }
}

/// Checks the directory; if it does not exist, the existing part of its path.
///
/// # Errors
/// Another user could replace the contents; each message contains the remedy.
pub(crate) fn check(data: &Path) -> Result<()> {
    check_as(data, Owner(rustix::process::geteuid().as_raw()))
}

fn check_as(data: &Path, user: Owner) -> Result<()> {
    let absolute = std::path::absolute(data).with_context(|| format!("use {}", data.display()))?;
    let Some(real) = resolve(&absolute, user)? else {
        return Ok(());
    };
    let metadata =
        fs::symlink_metadata(&real).with_context(|| format!("inspect {}", real.display()))?;
    if !metadata.is_dir() {
        bail!("{} is not a directory", real.display());
    }
    require_owned(&real, &metadata, user)?;
    let parts = DirectoryPart::ALL.iter().map(|part| part.name);
    for name in parts.chain([MARKER_FILE]) {
        let path = real.join(name);
        let Some(metadata) = inspect(&path)? else {
            continue;
        };
        if metadata.is_symlink()
            && MAY_BE_LINKS.contains(&name)
            && user.follows(metadata.uid(), user.0)
        {
            continue;
        }
        require_owned(&path, &metadata, user)?;
        if WITH_KEYS.contains(&name) && metadata.is_dir() {
            check_entries(&path, user)?;
        }
    }
    Ok(())
}

/// Checks the entries of a directory with keys, and of its subdirectories.
fn check_entries(directory: &Path, user: Owner) -> Result<()> {
    let read = || format!("read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(read)? {
        let path = entry.with_context(read)?.path();
        if let Some(metadata) = inspect(&path)? {
            require_owned(&path, &metadata, user)?;
            if metadata.is_dir() {
                check_entries(&path, user)?;
            }
        }
    }
    Ok(())
}

fn inspect(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("inspect {}", path.display())),
    }
}

/// Requires a file or directory that belongs to this user alone, and is not a symbolic link.
fn require_owned(path: &Path, metadata: &Metadata, user: Owner) -> Result<()> {
    let printed = path.display();
    if metadata.is_symlink() {
        bail!(
            "{printed} is a symbolic link: keys are neither read nor written through links. Move the file or \
             directory itself to this place"
        );
    }
    if !user.is(metadata) {
        bail!(
            "{printed} belongs to the user with the id {}, who could replace the keys of the cluster: make it \
             your own (`chown {} {printed}`) after a look at its contents, or choose another --data-dir",
            metadata.uid(),
            user.0
        );
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 && !metadata.file_type().is_socket() {
        cov_mark::hit!(findings_2_s42);
        bail!(
            "{printed} may be written by other users (mode {mode:04o}), who could replace the keys of the \
             cluster: `chmod go-w {printed}` after a look at its contents"
        );
    }
    Ok(())
}

/// The real path of a directory; `None` if it does not exist. The symbolic links and directories on the path are
/// checked.
fn resolve(absolute: &Path, user: Owner) -> Result<Option<PathBuf>> {
    let names = |path: &Path| -> Vec<OsString> {
        let parts = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
        parts.collect()
    };
    let mut parts: VecDeque<OsString> = names(absolute).into();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = parts.pop_front() {
        let Some(above) = inspect(&at)? else {
            return Ok(None);
        };
        let mode = above.permissions().mode();
        if mode & EVERYBODY_WRITES != 0 && mode & STICKY == 0 {
            bail!(
                "every user may replace the entries of {} (mode {:04o}), and so the data directory {}: `chmod \
                 o-w {}`, or choose another --data-dir",
                at.display(),
                mode & 0o7777,
                absolute.display(),
                at.display()
            );
        }
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let Some(metadata) = inspect(&next)? else {
            return Ok(None);
        };
        if !metadata.is_symlink() {
            at = next;
            continue;
        }
        if !user.follows(metadata.uid(), above.uid()) {
            bail!(
                "{} is a symbolic link of the user with the id {}, who could replace the keys of the cluster: \
                 choose another --data-dir",
                next.display(),
                metadata.uid()
            );
        }
        links += 1;
        if links > LINKS_MAX {
            bail!(
                "{} goes through too many symbolic links",
                absolute.display()
            );
        }
        let target = fs::read_link(&next).with_context(|| format!("read {}", next.display()))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            parts.push_front(name);
        }
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn owner_of(directory: &Path) -> Owner {
        Owner(fs::metadata(directory).unwrap().uid())
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(data: &Path) -> String {
        let above = data.ancestors().find(|path| path.is_dir()).unwrap();
        format!("{:#}", check_as(data, owner_of(above)).unwrap_err())
    }

    // findings-2 S42
    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        cov_mark::check!(findings_2_s42);
        let around = tempfile::tempdir().unwrap();
        let data = around.path().join("data");
        check_as(&data, owner_of(around.path())).unwrap();
        fs::create_dir(&data).unwrap();
        for mode in [0o700, 0o711, 0o755] {
            set_mode(&data, mode);
            check_as(&data, owner_of(&data)).unwrap();
        }
        for mode in [0o777, 0o1777, 0o775, 0o722] {
            set_mode(&data, mode);
            let error = refused(&data);
            assert!(error.contains("chmod go-w"), "{error}");
        }
        set_mode(&data, 0o700);
        // The directory belongs to another user.
        let error = check_as(&data, Owner(owner_of(&data).0 + 1)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("belongs to the user with the id"), "{error}");
        // Every user may replace the directory.
        set_mode(around.path(), 0o777);
        assert!(refused(&data).contains("every user may replace"));
        assert!(refused(&around.path().join("new")).contains("every user may replace"));
        set_mode(around.path(), 0o1777);
        check_as(&data, owner_of(&data)).unwrap();
        fs::write(data.join("file"), "").unwrap();
        assert!(refused(&data.join("file")).contains("is not a directory"));
    }

    // findings-2 S42
    #[test]
    fn keys_are_not_behind_links_and_not_in_files_of_others() {
        let around = tempfile::tempdir().unwrap();
        let (data, elsewhere) = (around.path().join("data"), around.path().join("elsewhere"));
        fs::create_dir_all(data.join("certificates/front-proxy")).unwrap();
        fs::create_dir_all(data.join("node")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "").unwrap();
        for (name, target) in [
            ("kubeconfig", "file"),
            ("server-token", "file"),
            ("instance", "file"),
            ("log", "file"),
            ("process", "file"),
            ("nodes", "."),
            ("network", "."),
            ("certificates/ca.key", "file"),
            ("certificates/front-proxy/ca.key", "file"),
            ("certificates/service-accounts.key", "absent"),
            ("node/client.pem", "file"),
        ] {
            let link = data.join(name);
            symlink(elsewhere.join(target), &link).unwrap();
            let error = refused(&data);
            assert!(error.contains("is a symbolic link"), "{name}: {error}");
            fs::remove_file(&link).unwrap();
            check_as(&data, owner_of(&data)).unwrap();
        }
        fs::remove_dir(data.join("node")).unwrap();
        symlink(&elsewhere, data.join("node")).unwrap();
        assert!(refused(&data).contains("is a symbolic link"));
        fs::remove_file(data.join("node")).unwrap();
        let key = data.join("certificates/ca.key");
        fs::write(&key, "").unwrap();
        set_mode(&key, 0o622);
        assert!(refused(&data).contains("may be written by other users"));
        set_mode(&key, 0o644);
        // Parts with much data may be on another disk, and entries of other programs are ignored.
        symlink(&elsewhere, data.join("volumes")).unwrap();
        symlink(&elsewhere, data.join("mine")).unwrap();
        check_as(&data, owner_of(&data)).unwrap();
    }

    // findings-2 S42
    #[test]
    fn links_above_the_directory_are_followed_as_the_kernel_does() {
        let user = Owner(1000);
        for (link, directory, follows) in [
            (1000, 0, true),
            (0, 5, true),
            (7, 7, true),
            (7, 0, false),
            (7, 1000, false),
        ] {
            assert_eq!(user.follows(link, directory), follows, "{link} {directory}");
        }
        let around = tempfile::tempdir().unwrap();
        let data = around.path().join("disk/data");
        fs::create_dir_all(&data).unwrap();
        symlink("disk/../disk", around.path().join("link")).unwrap();
        let through = around.path().join("link/data");
        let expected = fs::canonicalize(&data).unwrap();
        assert_eq!(resolve(&through, owner_of(&data)).unwrap(), Some(expected));
        check_as(&through, owner_of(&data)).unwrap();
        set_mode(&data, 0o777);
        assert!(refused(&through).contains("chmod go-w"));
        symlink("circle", around.path().join("circle")).unwrap();
        let error = check_as(&around.path().join("circle"), owner_of(&data)).unwrap_err();
        assert!(error.to_string().contains("too many symbolic links"));
    }
}
