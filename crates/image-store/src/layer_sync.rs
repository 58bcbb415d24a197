//! The sync of an unpacked layer: the layer is durable before it is moved to its final name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Maximum number of files and directories that are synced individually. For more files, one syncfs(2) is
/// faster.
const SYNCED_ONE_BY_ONE: usize = 256;

/// Syncs a directory and everything below it.
///
/// syncfs(2) also waits for data that other programs have written to the file system, which can take
/// minutes on a busy disk. A small layer does not wait for that data.
pub fn sync_layer(directory: &Path) -> io::Result<()> {
    match files_to_sync(directory, SYNCED_ONE_BY_ONE)? {
        Some(files) => files
            .iter()
            .try_for_each(|file| File::open(file)?.sync_all()),
        None => Ok(rustix::fs::syncfs(File::open(directory)?)?),
    }
}

/// A directory, and the regular files and directories below it; `None` if there are more than `most`. Other
/// files are only entries of their directories.
fn files_to_sync(directory: &Path, most: usize) -> io::Result<Option<Vec<PathBuf>>> {
    let mut files = vec![directory.to_owned()];
    let mut unread = vec![directory.to_owned()];
    while let Some(directory) = unread.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                unread.push(entry.path());
            }
            if kind.is_dir() || kind.is_file() {
                files.push(entry.path());
            }
            if files.len() > most {
                return Ok(None);
            }
        }
    }
    Ok(Some(files))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn files_and_directories_are_synced_and_nothing_else_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("fs/usr/bin")).unwrap();
        for file in ["size", "fs/usr/bin/tool"] {
            fs::write(root.join(file), "content").unwrap();
        }
        symlink("/nowhere", root.join("fs/link")).unwrap();
        // A pipe without a writer would block its reader.
        mknodat(CWD, root.join("fs/pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let files = files_to_sync(root, 6).unwrap().unwrap();
        let expected = ["", "size", "fs", "fs/usr", "fs/usr/bin", "fs/usr/bin/tool"];
        let expected: BTreeSet<PathBuf> = expected.iter().map(|path| root.join(path)).collect();
        assert_eq!(files.into_iter().collect::<BTreeSet<_>>(), expected);
        assert_eq!(files_to_sync(root, 5).unwrap(), None);
        sync_layer(root).unwrap();
    }

    #[test]
    fn a_layer_with_many_files_is_synced_too() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..=SYNCED_ONE_BY_ONE {
            fs::write(root.path().join(number.to_string()), "").unwrap();
        }
        sync_layer(root.path()).unwrap();
    }
}
