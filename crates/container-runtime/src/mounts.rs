//! Attributes and propagation of mounts.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use mount_table::MountPoint;

use crate::spec::Propagation;

// Of `linux/mount.h`.
pub(crate) const READ_ONLY: u64 = 0x1;
pub(crate) const NO_SETUID: u64 = 0x2;
pub(crate) const NO_DEVICES: u64 = 0x4;
pub(crate) const NO_EXECUTION: u64 = 0x8;
pub(crate) const STRICT_ACCESS_TIME: u64 = 0x20;
pub(crate) const IDS_MAPPED: u64 = 0x0010_0000;

/// `struct mount_attr` of `linux/mount.h`.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    /// Descriptor of the user namespace whose ids are mapped.
    pub user_namespace: u64,
}

/// Changes the attributes of a mount, with `AT_RECURSIVE` of all below it.
pub(crate) fn set_attributes(
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

/// Checks that the propagation of a path allows the propagation that a container asks for, with the texts of
/// containerd. Without the check the container would not see later mounts.
pub(crate) fn check_propagation(
    table: &[MountPoint],
    path: &Path,
    propagation: Propagation,
) -> Result<(), String> {
    // Of several mounts at one place the last is the one that is seen.
    let mount = table
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.as_os_str().len());
    let travel = mount.map(|mount| mount.propagation).unwrap_or_default();
    let (possible, wanted) = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => (travel.shared || travel.slave, "shared or slave"),
        Propagation::Bidirectional => (travel.shared, "shared"),
    };
    let on = mount
        .map(|mount| mount.path.as_path())
        .unwrap_or(Path::new("/"));
    match possible {
        true => Ok(()),
        false => Err(format!(
            "path {:?} is mounted on {:?} but it is not a {wanted} mount",
            path.display(),
            on.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings C25
    #[test]
    fn mounts_travel_where_they_can_and_are_refused_where_they_cannot() {
        let table = mount_table::parse(
            b"1 0 8:1 / / rw - ext4 /dev/a rw\n\
              2 1 8:2 / /shared rw shared:1 - ext4 /dev/b rw\n\
              3 1 8:3 / /slave rw master:1 - ext4 /dev/c rw\n",
        );
        let check = |path: &str, how| check_propagation(&table, Path::new(path), how);
        use Propagation::{Bidirectional, HostToContainer, Private};
        for path in ["/x", "/shared/x", "/slave/x", "/sharedness"] {
            assert_eq!(check(path, Private), Ok(()));
        }
        assert_eq!(check("/shared/x", Bidirectional), Ok(()));
        assert_eq!(check("/shared", HostToContainer), Ok(()));
        assert_eq!(check("/slave/x", HostToContainer), Ok(()));
        assert_eq!(
            check("/slave/x", Bidirectional).unwrap_err(),
            "path \"/slave/x\" is mounted on \"/slave\" but it is not a shared mount"
        );
        assert_eq!(
            check("/sharedness", HostToContainer).unwrap_err(),
            "path \"/sharedness\" is mounted on \"/\" but it is not a shared or slave mount"
        );
    }
}
