//! Volumes with a quota: each volume is a directory with a separate project id.
//!
//! All programs share the project ids of a file system, and the kernel does not allocate them. The id of a volume is
//! the first id without limit and usage. The search begins in a wide range, at an id that is computed from the path of
//! the volume.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

use host_kernel::project_quota;

use crate::subvolumes::VolumeCount;

/// The first project id for volumes, far above the ids that administrators and other programs use.
const FIRST: u32 = 0x4d00_0000;
/// The number of ids from the first on.
const RANGE: u32 = 1 << 24;
/// Maximum number of ids to try.
const ATTEMPTS: u32 = 1 << 10;

/// Creates a directory at `path`. The path exists only when the directory is complete and has its limit.
pub(crate) fn make(unfinished: &Path, path: &Path, bytes: u64) -> io::Result<()> {
    match remove_empty(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::create_dir(unfinished)?,
    }
    let project = unused(unfinished, path)?;
    // The limit is set last: the removal reads the id of the directory to remove the limit.
    project_quota::assign(unfinished, project)?;
    project_quota::limit(unfinished, project, Some(bytes))?;
    std::fs::rename(unfinished, path)
}

/// Changes the limit of a volume. A volume without a project id, from before quotas were enabled,
/// is only watched.
pub(crate) fn limit(path: &Path, bytes: u64) -> io::Result<()> {
    match volume_project(path)? {
        Some(project) => project_quota::limit(path, project, Some(bytes)),
        None => Ok(()),
    }
}

/// The usage of a volume, if it has a project id.
pub(crate) fn count(path: &Path) -> io::Result<Option<VolumeCount>> {
    let Some(project) = volume_project(path)? else {
        return Ok(None);
    };
    let counted = project_quota::count(path, project)?;
    Ok(counted.map(|counted| VolumeCount {
        referenced: counted.used,
        limit: counted.limit,
    }))
}

/// Removes the limit of a volume's project id before its directory is removed, so that another
/// volume may use the id.
pub(crate) fn release(path: &Path) -> io::Result<()> {
    match volume_project(path)? {
        Some(project) => free(path, project),
        None => Ok(()),
    }
}

/// Removes a directory if it is empty, and releases its project id.
pub(crate) fn remove_empty(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    let project = volume_project(path)?;
    std::fs::remove_dir(path)?;
    match project {
        Some(project) => free(parent, project),
        None => Ok(()),
    }
}

/// Removes the limit of a project; no-op if quotas are off now.
fn free(path: &Path, project: u32) -> io::Result<()> {
    match project_quota::limit(path, project, None) {
        Err(error) if project_quota::has_none(&error) => Ok(()),
        result => result,
    }
}

/// The project id of a volume, if it is in the range.
fn volume_project(path: &Path) -> io::Result<Option<u32>> {
    let is_in_range = |project: &u32| (FIRST..FIRST + RANGE).contains(project);
    Ok(project_quota::project(path)?.filter(is_in_range))
}

/// An unused project id on the file system of `directory`.
fn unused(directory: &Path, volume: &Path) -> io::Result<u32> {
    let mut hasher = DefaultHasher::new();
    volume.hash(&mut hasher);
    let offset = hasher.finish() as u32;
    for attempt in 0..ATTEMPTS {
        let project = FIRST + offset.wrapping_add(attempt) % RANGE;
        match project_quota::count(directory, project)? {
            Some(count) if count == project_quota::Count::default() => return Ok(project),
            Some(_) => {}
            None => return Err(io::Error::other("the file system counts no projects")),
        }
    }
    Err(io::Error::other("no project is free"))
}
