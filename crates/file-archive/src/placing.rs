//! Restores files of an archive.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use tar::EntryType;

use crate::ArchiveItem;

/// Creates a file with all its attributes, or sets them on an existing directory. `first` is the restored
/// path of the file to which a hard link refers.
///
/// # Errors
/// Errors of the disk, or the type of the entry is unknown.
pub fn restore_item(item: ArchiveItem<'_>, to: &Path, first: Option<&Path>) -> io::Result<()> {
    let header = &item.header;
    let mode = header.mode()?;
    match header.entry_type() {
        EntryType::Directory => {}
        EntryType::Regular => {
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(to)?;
            copy_sparse(item.content, &mut file)?;
            file.set_modified(UNIX_EPOCH + Duration::from_secs(header.mtime()?))?;
        }
        EntryType::Symlink => {
            let target = item.link.ok_or_else(|| invalid("the link has no target"))?;
            symlink(target, to)?;
        }
        EntryType::Link => {
            let first = first.ok_or_else(|| invalid("the target of the link was not restored"))?;
            return fs::hard_link(first, to);
        }
        EntryType::Fifo => nix::unistd::mkfifo(to, nix::sys::stat::Mode::S_IRWXU)?,
        kind => {
            return Err(invalid(format!(
                "entries of type {kind:?} are not supported"
            )));
        }
    }
    let owner =
        |id: u64| u32::try_from(id).map_err(|error| invalid(format!("read the owner: {error}")));
    lchown(to, Some(owner(header.uid()?)?), Some(owner(header.gid()?)?))?;
    if header.entry_type() != EntryType::Symlink {
        for (name, value) in &item.attributes {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(to, name.as_str(), value, flags)?;
        }
        // After the owner, because a change of the owner clears setuid.
        fs::set_permissions(to, Permissions::from_mode(mode & 0o7777))?;
    }
    match item.modified {
        Some(time) => set_modified(to, time),
        None => Ok(()),
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Sets the exact modification time; for a link, that of the link itself.
///
/// # Errors
/// Errors of the disk.
pub fn set_modified(path: &Path, (seconds, nanoseconds): (i64, i64)) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
    };
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Copies a file's content; blocks of zeros become holes.
fn copy_sparse(from: &mut dyn Read, to: &mut File) -> io::Result<()> {
    let mut block = vec![0; 64 * 1024];
    let mut length: u64 = 0;
    loop {
        let mut filled = 0;
        while filled < block.len() {
            match from.read(&mut block[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        if filled == 0 {
            return to.set_len(length);
        }
        length += filled as u64;
        if block[..filled].iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Start(length))?;
        } else {
            to.write_all(&block[..filled])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_stay_holes() {
        let mut file = tempfile::tempfile().unwrap();
        let mut content = vec![0; 1 << 20];
        content[1 << 19] = 1;
        copy_sparse(&mut content.as_slice(), &mut file).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 < 1 << 19);
    }
}
