//! The disk usage of directories.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::tree::{self, Handle, Mounts, TreeEntry, Visitor};

/// Unit of the kernel for the size of a file on disk.
const BLOCK_BYTES: u64 = 512;

/// Disk space that files occupy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Allocated blocks, in bytes.
    pub bytes: u64,
    /// The number of files and directories.
    pub files: u64,
}

impl DiskSpace {
    /// The sum of both; at most `u64::MAX`.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(more.bytes),
            files: self.files.saturating_add(more.files),
        }
    }

    fn one(blocks: i64) -> Self {
        Self {
            bytes: u64::try_from(blocks)
                .unwrap_or(0)
                .saturating_mul(BLOCK_BYTES),
            files: 1,
        }
    }
}

/// The measured usage of a volume, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// The bytes that the files of the volume occupy.
    pub used: u64,
    /// The capacity of the volume; `None` if it has no limit.
    pub limit: Option<u64>,
}

/// The usage of volumes, by their directories.
pub type VolumeUsages = BTreeMap<PathBuf, VolumeUsage>;

/// The disk usage of a file, or of a directory with its contents.
pub fn taken(root: &Path) -> io::Result<DiskSpace> {
    let root = Handle::at(root)?;
    Ok(content(&root)?.plus(DiskSpace::one(root.stat().st_blocks)))
}

/// The disk usage of the files below a directory, in bytes.
pub fn below(root: &Path) -> io::Result<u64> {
    Ok(content(&Handle::at(root)?)?.bytes)
}

/// The disk usage of the content of a directory. Links are not followed, a file with several names counts once, and
/// other file systems do not count.
fn content(root: &Handle) -> io::Result<DiskSpace> {
    let mut counter = Counter {
        device: root.stat().st_dev,
        several: BTreeSet::new(),
        sum: DiskSpace::default(),
    };
    if root.file_type() == rustix::fs::FileType::Directory {
        tree::walk(root, Mounts::Skip, &mut counter)?;
    }
    Ok(counter.sum)
}

struct Counter {
    device: u64,
    several: BTreeSet<u64>,
    sum: DiskSpace,
}

impl Visitor for Counter {
    fn entry(&mut self, entry: &TreeEntry<'_>) -> io::Result<()> {
        let stat = entry.stat();
        if stat.st_dev != self.device {
            return Ok(());
        }
        // A file with several names counts once.
        let has_other_names = !entry.is_dir() && stat.st_nlink > 1;
        if !has_other_names || self.several.insert(stat.st_ino) {
            self.sum = self.sum.plus(DiskSpace::one(stat.st_blocks));
        }
        Ok(())
    }

    /// The sum up to here is used.
    fn lost(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
