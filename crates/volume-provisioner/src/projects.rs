//! Volumes with a quota: directories with a project of their own each.
//!
//! Projects are numbers that all who use a file system share, and the kernel gives out none. A
//! volume's is the first from a place in a wide range on, which its path chooses, that nobody has
//! limited and nothing is counted of.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;

use container_runtime::project_quota;

use crate::subvolumes::Count;

/// The first project that may be a volume's: far above those that administrators and other
/// programs begin with.
const FIRST: u32 = 0x4d00_0000;
/// How many there are from the first on.
const RANGE: u32 = 1 << 24;
/// How many are tried.
const ATTEMPTS: u32 = 1 << 10;

/// Makes a directory at `path`, which appears only when it is complete, limit and all.
pub(crate) fn make(unfinished: &Path, path: &Path, bytes: u64) -> io::Result<()> {
    match remove_empty(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::create_dir(unfinished)?,
    }
    let project = unused(unfinished, path)?;
    // The limit last: it is found again, and let go of, by the directory's project.
    project_quota::assign(unfinished, project)?;
    project_quota::limit(unfinished, project, Some(bytes))?;
    std::fs::rename(unfinished, path)
}

/// Gives a volume another limit. One that has no project, since it was made when the file system
/// counted none, is watched as before.
pub(crate) fn limit(path: &Path, bytes: u64) -> io::Result<()> {
    match own(path)? {
        Some(project) => project_quota::limit(path, project, Some(bytes)),
        None => Ok(()),
    }
}

/// What is counted of a volume, if it has a project.
pub(crate) fn count(path: &Path) -> io::Result<Option<Count>> {
    let Some(project) = own(path)? else {
        return Ok(None);
    };
    let counted = project_quota::count(path, project)?;
    Ok(counted.map(|counted| Count {
        referenced: counted.used,
        limit: counted.limit,
    }))
}

/// Lets go of a project with its limit, for another volume to have, before its directory goes.
pub(crate) fn release(path: &Path) -> io::Result<()> {
    match own(path)? {
        Some(project) => free(path, project),
        None => Ok(()),
    }
}

/// Removes a directory if it is empty; then its project is free.
pub(crate) fn remove_empty(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    let project = own(path)?;
    std::fs::remove_dir(path)?;
    match project {
        Some(project) => free(parent, project),
        None => Ok(()),
    }
}

/// Takes its limit from a project; where quotas are off now, there is none to take.
fn free(path: &Path, project: u32) -> io::Result<()> {
    match project_quota::limit(path, project, None) {
        Err(error) if project_quota::has_none(&error) => Ok(()),
        other => other,
    }
}

/// The project of a volume. What others have given it is none of ours.
fn own(path: &Path) -> io::Result<Option<u32>> {
    let ours = |project: &u32| (FIRST..FIRST + RANGE).contains(project);
    Ok(project_quota::project(path)?.filter(ours))
}

/// A project that nobody uses on the file system of `directory`.
fn unused(directory: &Path, volume: &Path) -> io::Result<u32> {
    let mut place = DefaultHasher::new();
    volume.hash(&mut place);
    let place = place.finish() as u32;
    for attempt in 0..ATTEMPTS {
        let project = FIRST + place.wrapping_add(attempt) % RANGE;
        match project_quota::count(directory, project)? {
            Some(count) if count == project_quota::Count::default() => return Ok(project),
            Some(_) => {}
            None => return Err(io::Error::other("the file system counts no projects")),
        }
    }
    Err(io::Error::other("no project is free"))
}
