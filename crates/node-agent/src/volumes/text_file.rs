//! Reads of files in volumes by the agent.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// The largest file that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// The text of a file below `volume`; `None` if the file does not exist. A container controls the content
/// of the volume, so links are not followed: the agent must never read other files of the node.
pub fn read(volume: &Path, path: &str) -> io::Result<Option<String>> {
    let dir = File::open(volume)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > BYTES_MAX {
        let message = format!("{path} is no file, or one of more than {BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_not_followed_and_absence_is_no_error() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("dir")).unwrap();
        fs::write(temp.path().join("dir/file"), "text").unwrap();
        symlink("/etc/shadow", temp.path().join("link")).unwrap();
        symlink("/etc", temp.path().join("etc")).unwrap();
        let read_text = |path: &str| read(temp.path(), path);
        assert_eq!(read_text("dir/file").unwrap().as_deref(), Some("text"));
        assert_eq!(read_text("none").unwrap(), None);
        for path in ["link", "etc/shadow", "../x", "dir"] {
            assert!(read_text(path).is_err(), "{path}");
        }
    }
}
