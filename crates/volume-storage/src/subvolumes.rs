//! Volumes and snapshots that are subvolumes of a btrfs file system.

use std::io;
use std::path::{Path, PathBuf};

use host_kernel::{btrfs, tree};

/// The initial contents of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialContents {
    Empty,
    /// A copy of another volume.
    OfVolume(String),
    /// A copy of a snapshot.
    OfSnapshot(String),
}

/// The kernel's counts of a subvolume, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeCount {
    /// The bytes that the subvolume references, including shared bytes.
    pub referenced: u64,
    /// The limit of the referenced bytes; `None` for no limit.
    pub limit: Option<u64>,
}

/// Creates a subvolume at `path`. The path exists only when the subvolume is complete and has its limit.
pub(crate) fn make(
    unfinished: &Path,
    path: &Path,
    source: Option<&Path>,
    bytes: u64,
) -> io::Result<()> {
    remove(unfinished)?;
    match source {
        None => btrfs::create_subvolume(unfinished)?,
        Some(source) => btrfs::snapshot(source, unfinished, false)?,
    }
    limit(unfinished, bytes)?;
    std::fs::rename(unfinished, path)
}

/// Limits a subvolume, if quotas are on. They may be off on the host's file system; then the volume
/// is watched as a plain directory is.
pub(crate) fn limit(path: &Path, bytes: u64) -> io::Result<()> {
    match btrfs::limit(path, bytes) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOTCONN) => Ok(()),
        result => result,
    }
}

/// Removes a subvolume and the subvolumes in it; a missing subvolume is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match btrfs::delete_subvolume(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => tree::remove(path),
        result => result,
    }
}

/// The count of a subvolume; `None` where the file system does not count.
pub(crate) fn count(path: &Path) -> io::Result<Option<VolumeCount>> {
    let Some(dir) = count_dir(path)? else {
        return Ok(None);
    };
    let number = |file: &str| -> io::Result<u64> {
        let text = std::fs::read_to_string(dir.join(file))?;
        text.trim().parse().map_err(io::Error::other)
    };
    let limited = number("limit_flags").unwrap_or(0) & 1 != 0;
    let limit = if limited {
        Some(number("max_referenced")?)
    } else {
        None
    };
    Ok(Some(VolumeCount {
        referenced: number("referenced")?,
        limit: limit.filter(|limit| *limit != u64::MAX),
    }))
}

fn count_dir(path: &Path) -> io::Result<Option<PathBuf>> {
    let counts = btrfs::counts_dir(path)?;
    let dir = counts.join(format!("0_{}", btrfs::subvolume_id(path)?));
    Ok(dir.exists().then_some(dir))
}

/// The sum of the limits of all subvolumes in a directory. For a subvolume without a limit (a snapshot), its size
/// counts.
pub(crate) fn reserved(dir: &Path) -> io::Result<u64> {
    let mut sum: u64 = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if !btrfs::is_subvolume(&path)? {
            continue;
        }
        if let Some(count) = count(&path)? {
            sum = sum.saturating_add(count.limit.unwrap_or(count.referenced));
        }
    }
    Ok(sum)
}

/// Whether a count has reached zero; `false` if the count is unknown.
fn counts_nothing(dir: &Path) -> bool {
    ["referenced", "exclusive"].iter().all(|file| {
        let text = std::fs::read_to_string(dir.join(file));
        text.is_ok_and(|text| text.trim() == "0")
    })
}

/// Removes the counts of deleted subvolumes.
pub(crate) fn forget_removed(root: &Path, dirs: &[PathBuf]) -> io::Result<()> {
    let mut present = std::collections::BTreeSet::new();
    for dir in dirs {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if btrfs::is_subvolume(&path)? {
                present.insert(btrfs::subvolume_id(&path)?);
            }
        }
    }
    for entry in std::fs::read_dir(btrfs::counts_dir(root)?)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("0_"));
        let Some(number) = number.and_then(|text| text.parse::<u64>().ok()) else {
            continue;
        };
        // Smaller numbers belong to the file system itself. A subvolume that the kernel is still removing counts some
        // bytes: if its count were removed, Linux 6.10 and newer would stop the counts of all subvolumes. These kernels
        // remove the count themselves.
        if number >= 256 && !present.contains(&number) && counts_nothing(&entry.path()) {
            btrfs::forget_count(root, number).ok();
        }
    }
    Ok(())
}
