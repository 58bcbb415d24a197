//! Project quotas, which limit the total size of a project's files, on xfs, ext4 and other file systems with project
//! quotas.
//!
//! Files in a directory of a project inherit the project. The calls and their structures are defined in `linux/fs.h`
//! and `linux/dqblk_xfs.h`, and work on every file system with project quotas.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `FS_XFLAG_PROJINHERIT`: new files of a directory inherit its project.
const INHERIT: u32 = 0x200;

const PROJECTS: u32 = 2;
const GET_RECORD: u32 = command(3);
const SET_LIMIT: u32 = command(4);
const GET_STATE: u32 = command(5);

/// `FS_QUOTA_PDQ_ENFD`.
const STATE_ENFORCED: u16 = 1 << 5;
/// `FS_DQUOT_VERSION`.
const RECORD_VERSION: i8 = 1;
/// `FS_PROJ_QUOTA`.
const RECORD_OF_PROJECT: i8 = 2;
/// `FS_DQ_BHARD`.
const FIELD_LIMIT: u16 = 1 << 3;
/// Unit of the amounts.
const UNIT: u64 = 512;

/// The `Q_X…` command of the kernel, for projects.
const fn command(number: u32) -> u32 {
    ((('X' as u32) << 8) + number) << 8 | PROJECTS
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copied_extent_size: u32,
    padding: [u8; 8],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct Record {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    blocks_max: u64,
    blocks_soft_max: u64,
    inodes_max: u64,
    inodes_soft_max: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    timers_high: [i8; 4],
    real_time: [u64; 3],
    real_time_timer: i32,
    real_time_warnings: u16,
    padding: [u8; 10],
}

/// `struct fs_quota_stat`.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    padding: i8,
    files: [[u64; 3]; 2],
    rest: [u32; 6],
}

/// The ioctl calls.
mod call {
    use super::Attributes;

    nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
    nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);
}

/// The usage of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The size of the project's files in bytes.
    pub used: u64,
    /// The limit of the project in bytes; `None` if it has no limit.
    pub limit: Option<u64>,
    /// The number of the project's files, including directories.
    pub files: u64,
}

/// Whether the file system of the path enforces project quotas: it supports them, and was mounted with them.
///
/// # Errors
/// The path cannot be opened.
pub fn are_enforced(path: &Path) -> io::Result<bool> {
    let mut state = State::default();
    let result = control(&File::open(path)?, GET_STATE, 0, &mut state);
    // A file system without quotas returns any other error.
    Ok(result.is_ok() && state.flags & STATE_ENFORCED != 0)
}

/// The project of a directory or regular file; `None` for the default project, and if the file system has no projects.
///
/// # Errors
/// The path cannot be opened.
pub fn project(path: &Path) -> io::Result<Option<u32>> {
    match attributes(&open(path)?) {
        Ok(attributes) => Ok(Some(attributes.project).filter(|project| *project != 0)),
        Err(error) if has_none(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Assigns an empty directory to a project. Later files in it inherit the project.
///
/// # Errors
/// Errors of the kernel.
pub fn assign(directory: &Path, project: u32) -> io::Result<()> {
    let file = open(directory)?;
    let mut attributes = attributes(&file)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    // SAFETY: `attributes` is valid for the length of the call.
    unsafe { call::set_attributes(file.as_raw_fd(), &attributes) }?;
    Ok(())
}

/// Sets the limit of a project on the file system of a path; `None` removes the limit.
///
/// # Errors
/// Errors of the kernel.
pub fn limit(path: &Path, project: u32, bytes: Option<u64>) -> io::Result<()> {
    let mut record = Record {
        version: RECORD_VERSION,
        flags: RECORD_OF_PROJECT,
        fields: FIELD_LIMIT,
        id: project,
        // The kernel interprets zero as no limit, so the smallest limit is one unit.
        blocks_max: bytes.map_or(0, |bytes| (bytes / UNIT).max(1)),
        ..Record::default()
    };
    control(&File::open(path)?, SET_LIMIT, project, &mut record)
}

/// The usage of a project; `None` if the file system has no record of it.
///
/// # Errors
/// Errors of the kernel.
pub fn count(path: &Path, project: u32) -> io::Result<Option<Count>> {
    let file = File::open(path)?;
    let mut record = Record::default();
    match control(&file, GET_RECORD, project, &mut record) {
        Ok(()) => Ok(Some(Count {
            used: record.blocks.saturating_mul(UNIT),
            limit: Some(record.blocks_max.saturating_mul(UNIT)).filter(|limit| *limit > 0),
            files: record.inodes,
        })),
        // The kernel has no record of the project yet.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Some(Count::default())),
        Err(error) if has_none(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error means that the file system does not support projects, or does not count their usage.
pub fn has_none(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    number.is_some_and(|number| {
        [
            libc::ENOSYS,
            libc::ENOTTY,
            libc::EOPNOTSUPP,
            libc::EINVAL,
            libc::ESRCH,
        ]
        .contains(&number)
    })
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.read(true).custom_flags(flags).open(path)
}

fn attributes(file: &File) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: `attributes` is valid and writable for the length of the call.
    unsafe { call::get_attributes(file.as_raw_fd(), &mut attributes) }?;
    Ok(attributes)
}

/// `quotactl_fd(2)` with the command's data.
fn control<T>(file: &File, command: u32, id: u32, data: &mut T) -> io::Result<()> {
    let data: *mut T = data;
    // SAFETY: `data` is the structure of the command, valid and writable for the length of the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command,
            id,
            data.cast::<c_void>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_and_commands_are_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Record>(), 112);
        assert_eq!(std::mem::offset_of!(Record, real_time), 72);
        assert_eq!(size_of::<State>(), 80);
        assert_eq!(GET_RECORD, 0x0058_0302);
    }

    #[test]
    fn what_is_in_no_project_says_so() {
        // A file system in memory has no projects, or all its files are in the default project.
        let memory = Path::new("/dev/shm");
        assert_eq!(project(memory).unwrap(), None);
        assert!(!are_enforced(memory).unwrap());
        assert_eq!(count(memory, 7).unwrap(), None);
        assert!(project(&memory.join("missing-of-project-quota")).is_err());
    }
}
