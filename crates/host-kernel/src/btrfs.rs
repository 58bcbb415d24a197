//! System calls of btrfs for subvolumes, snapshots, quotas and a new size.
//!
//! The calls and their structures are defined in `linux/btrfs.h`. Existing crates generate their bindings with a C
//! library at build time, so the few necessary calls are declared here.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FsWord, statfs};

/// `BTRFS_SUPER_MAGIC`.
const MAGIC: FsWord = 0x9123_683e;
/// The inode number of every subvolume's root.
const SUBVOLUME_INODE: u64 = 256;
const MAGIC_NUMBER: u8 = 0x94;
const NAME_MAX: usize = 255;

const SNAPSHOT_READ_ONLY: u64 = 1 << 1;
const QUOTA_ENABLE: u64 = 1;
const LIMIT_REFERENCED: u64 = 1;

#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

#[repr(C)]
struct VolumeArguments2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

#[repr(C)]
struct InodeLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

#[repr(C)]
struct QuotaControl {
    command: u64,
    status: u64,
}

#[repr(C)]
struct QuotaRescan {
    flags: u64,
    progress: u64,
    reserved: [u64; 6],
}

#[repr(C)]
struct GroupCreate {
    create: u64,
    group: u64,
}

#[repr(C)]
struct GroupLimit {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

#[repr(C)]
struct SendArguments {
    fd: i64,
    clone_sources_count: u64,
    clone_sources: u64,
    parent: u64,
    flags: u64,
    version: u32,
    reserved: [u8; 28],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RootReference {
    tree: u64,
    directory: u64,
}

#[repr(C)]
struct RootReferences {
    first: u64,
    references: [RootReference; 255],
    count: u8,
    align: [u8; 7],
}

#[repr(C)]
struct SubvolumeInfo {
    tree: u64,
    name: [u8; 256],
    parent: u64,
    directory: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    // Other identities, transactions and times, which are unused.
    rest: [u64; 24],
}

#[repr(C)]
struct FileSystemInfo {
    max_id: u64,
    devices: u64,
    uuid: [u8; 16],
    rest: [u8; 992],
}

/// The ioctl calls.
mod call {
    use super::*;

    nix::ioctl_write_ptr!(resize, MAGIC_NUMBER, 3, VolumeArguments);
    nix::ioctl_none!(sync_all, MAGIC_NUMBER, 8);
    nix::ioctl_write_ptr!(destroy, MAGIC_NUMBER, 15, VolumeArguments);
    nix::ioctl_readwrite!(lookup, MAGIC_NUMBER, 18, InodeLookup);
    nix::ioctl_write_ptr!(snapshot_create, MAGIC_NUMBER, 23, VolumeArguments2);
    nix::ioctl_write_ptr!(subvolume_create, MAGIC_NUMBER, 24, VolumeArguments2);
    nix::ioctl_read!(info, MAGIC_NUMBER, 31, FileSystemInfo);
    nix::ioctl_write_ptr!(send, MAGIC_NUMBER, 38, SendArguments);
    nix::ioctl_readwrite!(quota_control, MAGIC_NUMBER, 40, QuotaControl);
    nix::ioctl_write_ptr!(group_create, MAGIC_NUMBER, 42, GroupCreate);
    nix::ioctl_read!(group_limit, MAGIC_NUMBER, 43, GroupLimit);
    nix::ioctl_write_ptr!(quota_rescan, MAGIC_NUMBER, 44, QuotaRescan);
    nix::ioctl_none!(quota_rescan_wait, MAGIC_NUMBER, 46);
    nix::ioctl_read!(subvolume_info, MAGIC_NUMBER, 60, SubvolumeInfo);
    nix::ioctl_readwrite!(root_references, MAGIC_NUMBER, 61, RootReferences);
}

/// Whether the path is on a btrfs file system.
///
/// # Errors
/// The path cannot be read.
pub fn is_btrfs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type == MAGIC)
}

/// Whether the path is the root of a subvolume; links are not followed.
///
/// # Errors
/// The path cannot be read.
pub fn is_subvolume(path: &Path) -> io::Result<bool> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(metadata.is_dir() && metadata.ino() == SUBVOLUME_INODE && is_btrfs(path)?)
}

/// Creates an empty subvolume.
///
/// # Errors
/// Errors of the kernel, `AlreadyExists` among them.
pub fn create_subvolume(path: &Path) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let arguments = VolumeArguments2 {
        fd: 0,
        transaction: 0,
        flags: 0,
        unused: [0; 4],
        name: filled(name)?,
    };
    // SAFETY: `arguments` is valid for the length of the call, its name ends with a zero.
    unsafe { call::subvolume_create(parent.as_raw_fd(), &arguments) }?;
    Ok(())
}

/// Creates a snapshot of the subvolume `source` at `path`, on the same file system.
///
/// # Errors
/// Errors of the kernel.
pub fn snapshot(source: &Path, path: &Path, read_only: bool) -> io::Result<()> {
    let source = File::open(source)?;
    let (parent, name) = split(path)?;
    let arguments = VolumeArguments2 {
        fd: source.as_raw_fd().into(),
        transaction: 0,
        flags: if read_only { SNAPSHOT_READ_ONLY } else { 0 },
        unused: [0; 4],
        name: filled(name)?,
    };
    // SAFETY: as above; the source stays open until the call returns.
    unsafe { call::snapshot_create(parent.as_raw_fd(), &arguments) }?;
    Ok(())
}

/// Removes a subvolume with its contents, except for nested subvolumes.
///
/// # Errors
/// Errors of the kernel: `DirectoryNotEmpty` if the subvolume contains subvolumes.
pub fn delete_subvolume(path: &Path) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let arguments = VolumeArguments {
        fd: 0,
        name: filled(name)?,
    };
    // SAFETY: `arguments` is valid for the length of the call, its name ends with a zero.
    unsafe { call::destroy(parent.as_raw_fd(), &arguments) }?;
    Ok(())
}

/// The id of the subvolume that contains the path.
///
/// # Errors
/// Errors of the kernel.
pub fn subvolume_id(path: &Path) -> io::Result<u64> {
    let file = File::open(path)?;
    let mut inode = InodeLookup {
        tree: 0,
        object: SUBVOLUME_INODE,
        name: [0; 4080],
    };
    // SAFETY: `inode` is valid and writable for the length of the call.
    unsafe { call::lookup(file.as_raw_fd(), &mut inode) }?;
    Ok(inode.tree)
}

/// The UUID of a subvolume. A stream of a subvolume that was not itself received has this UUID.
///
/// # Errors
/// Errors of the kernel.
pub fn subvolume_uuid(path: &Path) -> io::Result<[u8; 16]> {
    let file = File::open(path)?;
    let mut subvolume = SubvolumeInfo {
        tree: 0,
        name: [0; 256],
        parent: 0,
        directory: 0,
        generation: 0,
        flags: 0,
        uuid: [0; 16],
        rest: [0; 24],
    };
    // SAFETY: `subvolume` is valid and writable for the length of the call.
    unsafe { call::subvolume_info(file.as_raw_fd(), &mut subvolume) }?;
    Ok(subvolume.uuid)
}

/// Whether the subvolume contains other subvolumes.
///
/// # Errors
/// Errors of the kernel.
pub fn has_subvolumes(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let none = RootReference {
        tree: 0,
        directory: 0,
    };
    let mut search = RootReferences {
        first: 0,
        references: [none; 255],
        count: 0,
        align: [0; 7],
    };
    // SAFETY: `search` is valid and writable for the length of the call.
    match unsafe { call::root_references(file.as_raw_fd(), &mut search) } {
        Ok(_) => Ok(search.count > 0),
        // The subvolume contains more subvolumes than the buffer can hold.
        Err(nix::errno::Errno::EOVERFLOW) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Writes a read-only snapshot as a stream of protocol version 1. The stream contains the whole snapshot, or the
/// difference to `base`, another read-only snapshot of the same subvolume. Blocks until the reader has read the whole
/// stream.
///
/// # Errors Errors of the kernel: `BrokenPipe` when the reader has closed its end.
pub fn send(snapshot: &Path, base: Option<&Path>, to: impl AsFd) -> io::Result<()> {
    let file = File::open(snapshot)?;
    let arguments = SendArguments {
        fd: to.as_fd().as_raw_fd().into(),
        clone_sources_count: 0,
        clone_sources: 0,
        parent: base.map(subvolume_id).transpose()?.unwrap_or(0),
        flags: 0,
        version: 0,
        reserved: [0; 28],
    };
    // SAFETY: `arguments` is valid for the length of the call, and names no other memory.
    unsafe { call::send(file.as_raw_fd(), &arguments) }?;
    Ok(())
}

/// Limits the number of bytes that the subvolume references.
///
/// # Errors
/// Errors of the kernel: `ENOTCONN` if quotas are disabled.
pub fn limit(subvolume: &Path, bytes: u64) -> io::Result<()> {
    let file = File::open(subvolume)?;
    let mut limit = GroupLimit {
        // Zero selects the quota group of the subvolume itself.
        group: 0,
        flags: LIMIT_REFERENCED,
        max_referenced: bytes,
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    // SAFETY: `limit` is valid and writable for the length of the call.
    unsafe { call::group_limit(file.as_raw_fd(), &mut limit) }?;
    Ok(())
}

/// Enables accounting per subvolume, if it is not enabled yet.
///
/// # Errors
/// Errors of the kernel.
pub fn enable_quota(root: &Path) -> io::Result<()> {
    let file = File::open(root)?;
    let mut control = QuotaControl {
        command: QUOTA_ENABLE,
        status: 0,
    };
    // SAFETY: `control` is valid and writable for the length of the call.
    unsafe { call::quota_control(file.as_raw_fd(), &mut control) }?;
    Ok(())
}

/// Restarts the usage count of each subvolume (a quota rescan). A rescan in progress continues.
///
/// # Errors
/// Errors of the kernel.
pub fn count_anew(root: &Path) -> io::Result<()> {
    let file = File::open(root)?;
    let rescan = QuotaRescan {
        flags: 0,
        progress: 0,
        reserved: [0; 6],
    };
    // SAFETY: `rescan` is valid for the length of the call.
    match unsafe { call::quota_rescan(file.as_raw_fd(), &rescan) } {
        Ok(_) | Err(nix::errno::Errno::EINPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the end of a quota rescan. Until then, the kernel marks all counts as inconsistent.
///
/// # Errors
/// Errors of the kernel.
pub fn wait_for_count(root: &Path) -> io::Result<()> {
    let file = File::open(root)?;
    // SAFETY: the call has no argument.
    unsafe { call::quota_rescan_wait(file.as_raw_fd()) }?;
    Ok(())
}

/// Removes the quota group of a deleted subvolume.
///
/// # Errors
/// Errors of the kernel: `EBUSY` while the kernel is still cleaning up the subvolume.
pub fn forget_count(root: &Path, subvolume: u64) -> io::Result<()> {
    let file = File::open(root)?;
    let forget = GroupCreate {
        create: 0,
        group: subvolume,
    };
    // SAFETY: `forget` is valid for the length of the call.
    unsafe { call::group_create(file.as_raw_fd(), &forget) }?;
    Ok(())
}

/// Grows the file system to the size of its device.
///
/// # Errors
/// Errors of the kernel.
pub fn fill_device(root: &Path) -> io::Result<()> {
    let file = File::open(root)?;
    let arguments = VolumeArguments {
        fd: 0,
        name: filled(OsStr::new("max"))?,
    };
    // SAFETY: `arguments` is valid for the length of the call, its name ends with a zero.
    unsafe { call::resize(file.as_raw_fd(), &arguments) }?;
    Ok(())
}

/// Writes all cached data to the device.
///
/// # Errors
/// Errors of the kernel and of the device.
pub fn sync(root: &Path) -> io::Result<()> {
    let file = File::open(root)?;
    // SAFETY: the call takes no memory of ours.
    unsafe { call::sync_all(file.as_raw_fd()) }?;
    Ok(())
}

/// The directory in sysfs with the usage counts of the file system's subvolumes.
///
/// # Errors
/// Errors of the kernel.
pub fn counts_dir(root: &Path) -> io::Result<PathBuf> {
    let file = File::open(root)?;
    let mut file_system = FileSystemInfo {
        max_id: 0,
        devices: 0,
        uuid: [0; 16],
        rest: [0; 992],
    };
    // SAFETY: `file_system` is valid and writable for the length of the call.
    unsafe { call::info(file.as_raw_fd(), &mut file_system) }?;
    Ok(PathBuf::from(format!(
        "/sys/fs/btrfs/{}/qgroups",
        uuid_text(&file_system.uuid)
    )))
}

/// The usual spelling of a UUID.
fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// Opens the parent directory of a path, and returns it with the last name.
fn split(path: &Path) -> io::Result<(File, &OsStr)> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let parent = path.parent().ok_or_else(invalid)?;
    let name = path.file_name().ok_or_else(invalid)?;
    Ok((File::open(parent)?, name))
}

/// A name in the form of the kernel: padded with zeros.
fn filled<const N: usize>(name: &OsStr) -> io::Result<[u8; N]> {
    let bytes = name.as_bytes();
    if bytes.len() > NAME_MAX {
        return Err(io::Error::from(io::ErrorKind::InvalidFilename));
    }
    let mut out = [0; N];
    out[..bytes.len()].copy_from_slice(bytes);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<VolumeArguments>(), 4096);
        assert_eq!(size_of::<VolumeArguments2>(), 4096);
        assert_eq!(size_of::<InodeLookup>(), 4096);
        assert_eq!(size_of::<FileSystemInfo>(), 1024);
        assert_eq!(size_of::<QuotaRescan>(), 64);
        assert_eq!(size_of::<GroupLimit>(), 48);
        assert_eq!(size_of::<SendArguments>(), 72);
        assert_eq!(size_of::<RootReferences>(), 4096);
        assert_eq!(size_of::<SubvolumeInfo>(), 504);
    }

    #[test]
    fn names_end_with_a_zero() {
        assert_eq!(filled::<300>(OsStr::new("ab")).unwrap()[..3], *b"ab\0");
        let long = "a".repeat(256);
        assert!(filled::<300>(OsStr::new(&long)).is_err());
    }

    #[test]
    fn uuids_are_spelt_as_usual() {
        let text = uuid_text(&std::array::from_fn(|at| at as u8));
        assert_eq!(text, "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
