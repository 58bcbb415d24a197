//! What directories take on their disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Unit of the size that the kernel says a file has on disk.
const BLOCK_BYTES: u64 = 512;

/// What something takes on its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub files: u64,
}

impl Taken {
    /// Both together.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(more.bytes),
            files: self.files.saturating_add(more.files),
        }
    }

    fn one(blocks: u64) -> Self {
        Self {
            bytes: blocks.saturating_mul(BLOCK_BYTES),
            files: 1,
        }
    }
}

/// What a directory takes on its disk, with all that is below it.
pub fn taken(root: &Path) -> io::Result<Taken> {
    let own = fs::symlink_metadata(root)?.blocks();
    Ok(content(root)?.plus(Taken::one(own)))
}

/// What the files below a directory take on its disk, in bytes.
pub fn below(root: &Path) -> io::Result<u64> {
    Ok(content(root)?.bytes)
}

/// Links are not followed, what has several names counts once, and other file systems do not count.
fn content(root: &Path) -> io::Result<Taken> {
    let device = fs::symlink_metadata(root)?.dev();
    let mut several: BTreeSet<u64> = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    let mut sum = Taken::default();
    while let Some(directory) = open.pop() {
        // What goes while it is looked at is not there.
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.dev() != device {
                continue;
            }
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.nlink() > 1 && !several.insert(metadata.ino()) {
                continue;
            }
            sum = sum.plus(Taken::one(metadata.blocks()));
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_once() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let empty = below(root.path()).unwrap();
        fs::create_dir(path("inner")).unwrap();
        fs::write(path("inner/file"), vec![1; 1 << 20]).unwrap();
        let once = below(root.path()).unwrap();
        assert!(once >= empty + (1 << 20));
        fs::hard_link(path("inner/file"), path("again")).unwrap();
        std::os::unix::fs::symlink("/usr", path("link")).unwrap();
        assert!(below(root.path()).unwrap() < once + (1 << 20));
        assert!(taken(&path("nowhere")).is_err());
        // The root, the directory in it, the file under two names, the link.
        assert_eq!(taken(root.path()).unwrap().files, 4);
    }
}
