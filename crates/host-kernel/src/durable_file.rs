//! Replacement of whole files: a reader sees either the former content or the new content, never a part.
//!
//! The new content is written to `.NAME.new` in the same directory, which is then renamed to the file (rename(2)). The
//! caller chooses what survives a power loss, see [`Durability`]. A killed writer leaves at most the file `.NAME.new`,
//! which the next replacement removes. Two writers of one file need a lock of their own, or [`replace_beside_others`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The state that is durable when a replacement returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// No guarantee; for data that is useless after a reboot.
    PageCache,
    /// The content: after a power loss the file is complete, with the former or the new content.
    Content,
    /// The content and the name (fsync(2) of the directory): after a power loss the file has the new content.
    Name,
}

/// Replaces or creates a file with the given permissions (such as 0o600).
///
/// # Errors
/// The error of the file system. The former file is then unchanged, unless only the last step failed, which is the sync
/// of the directory.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    replace_with(path, mode, durability, |file| file.write_all(bytes))
}

/// Replaces a file by the output of `write`.
///
/// # Errors
/// The error of the file system or of `write`; see [`replace`].
pub fn replace_with(
    path: &Path,
    mode: u32,
    durability: Durability,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    replace_through(&temporary_path(path, "")?, path, mode, durability, write)
}

/// Replaces a file that other processes may replace at the same time. The new content is written to `.NAME.PID.new`,
/// and the last replacement wins. A killed writer leaves this file.
///
/// # Errors
/// The error of the file system or of `write`; see [`replace`].
pub fn replace_beside_others<T, E: From<io::Error>>(
    path: &Path,
    mode: u32,
    durability: Durability,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let temporary = temporary_path(path, &format!(".{}", std::process::id()))?;
    replace_through(&temporary, path, mode, durability, write)
}

fn replace_through<T, E: From<io::Error>>(
    temporary: &Path,
    path: &Path,
    mode: u32,
    durability: Durability,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    remove(temporary)?;
    let written = fill(temporary, mode, durability, write);
    let renamed = written.and_then(|written| {
        fs::rename(temporary, path)?;
        Ok(written)
    });
    if renamed.is_err() {
        // The first error is returned.
        fs::remove_file(temporary).ok();
    } else if durability == Durability::Name {
        sync_directory(parent(path))?;
    }
    renamed
}

fn fill<T, E: From<io::Error>>(
    path: &Path,
    mode: u32,
    durability: Durability,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    // `create_new` never writes through a link or a leftover file with other permissions.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = write(&mut file)?;
    if mode != 0o600 {
        // Set explicitly, because the umask may have removed permissions.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    if durability != Durability::PageCache {
        file.sync_all()?;
    }
    Ok(written)
}

/// Reads a file with keys. A link is refused, so the file is one that [`replace`] wrote.
///
/// # Errors
/// The error of the file system; `InvalidData` for bytes that are not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(no_link()).open(path);
    match file {
        Ok(file) => io::read_to_string(file),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            cov_mark::hit!(findings_2_s42_read);
            let text = "it is a symbolic link, and keys are not read through links";
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
        Err(error) => Err(error),
    }
}

/// The flag with which open(2) refuses a link as the last part of the path, for
/// [`custom_flags`](std::os::unix::fs::OpenOptionsExt::custom_flags).
pub fn no_link() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()
}

/// Makes creations, renames and removals in a directory durable (fsync(2)).
///
/// # Errors
/// The error of the file system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn temporary_path(path: &Path, writer: &str) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        let text = format!("{} names no file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    };
    let mut file_name = std::ffi::OsString::from(".");
    file_name.push(name);
    file_name.push(writer);
    file_name.push(".new");
    Ok(path.with_file_name(file_name))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    // findings-2 S42
    #[test]
    fn keys_are_not_read_through_links() {
        cov_mark::check!(findings_2_s42_read);
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("key"), directory.path().join("link"));
        replace(&file, b"secret", 0o600, Durability::PageCache).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read(&file).unwrap(), "secret");
        assert_eq!(read(&link).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let missing = read(&directory.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_is_made_and_replaced_with_its_permissions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for durability in [Durability::PageCache, Durability::Content, Durability::Name] {
            let text = format!("{durability:?}");
            replace(&path, text.as_bytes(), 0o644, durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(mode(&path), 0o644);
        }
        replace(&path, b"secret", 0o600, Durability::Name).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_former_file_and_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&path, b"former", 0o600, Durability::Name).unwrap();
        let failed = replace_with(&path, 0o600, Durability::Name, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("no room"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no room");
        assert_eq!(fs::read(&path).unwrap(), b"former");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_writer_leaves_the_unfinished_file_of_another_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let other = directory.path().join(".file.1.new");
        fs::write(&other, "half").unwrap();
        let written = replace_beside_others(&path, 0o600, Durability::Name, |file| {
            file.write_all(b"whole")?;
            Ok::<_, io::Error>(5)
        });
        assert_eq!(written.unwrap(), 5);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read(&other).unwrap(), b"half");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_leftover_or_a_link_beside_is_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (
            directory.path().join("file"),
            directory.path().join("other"),
        );
        fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&other, directory.path().join(".file.new")).unwrap();
        replace(&path, b"new", 0o600, Durability::Content).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read(&other).unwrap(), b"other");
    }

    #[test]
    fn a_name_without_a_directory_is_in_the_current_one() {
        assert_eq!(parent(Path::new("file")), Path::new("."));
        assert_eq!(parent(Path::new("/a/file")), Path::new("/a"));
        let error = replace(Path::new("/"), b"", 0o600, Durability::Name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
