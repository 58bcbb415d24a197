//! Attributes of mounts.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `MOUNT_ATTR_RDONLY` of `linux/mount.h`.
pub const READ_ONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`: set-user-ID bits of programs have no effect.
pub const NO_SETUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NO_DEVICES: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NO_EXECUTION: u64 = 0x8;
/// `MOUNT_ATTR_STRICTATIME`.
pub const STRICT_ACCESS_TIME: u64 = 0x20;
/// `MOUNT_ATTR_IDMAP`: ids are mapped by a user namespace.
pub const IDS_MAPPED: u64 = 0x0010_0000;

/// `struct mount_attr` of `linux/mount.h`.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Attributes {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE` or `MS_PRIVATE`; 0 keeps the propagation.
    pub propagation: u64,
    /// Descriptor of the user namespace whose ids are mapped.
    pub user_namespace: u64,
}

/// Changes the attributes of a mount; with `AT_RECURSIVE` also those of all mounts below it.
///
/// # Errors
/// The kernel refuses the change.
pub fn set_attributes(
    tree: &OwnedFd,
    attributes: &Attributes,
    flags: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the empty name and the structure, of the size given, live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
