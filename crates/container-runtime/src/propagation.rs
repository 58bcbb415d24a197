//! Propagation of mounts into containers.

use std::path::{Path, PathBuf};

use host_kernel::mount_table::MountPoint;

use crate::spec::Propagation;

/// The mount of the node does not support the propagation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "path {:?} is mounted on {:?} but it is not a {required} mount",
    path.display(), mount_point.display()
)]
pub(crate) struct PropagationMismatch {
    path: PathBuf,
    mount_point: PathBuf,
    /// The supported kinds of mounts.
    required: &'static str,
}

/// Checks that the propagation of a path allows the propagation that a container requests. The texts of the
/// errors are containerd's. Without the check, later mounts would silently be missing in the container.
pub(crate) fn check_propagation(
    table: &[MountPoint],
    path: &Path,
    propagation: Propagation,
) -> Result<(), PropagationMismatch> {
    // If several mounts have one path, the last mount is the visible one.
    let mount = table
        .iter()
        .filter(|mount| path.starts_with(&mount.path))
        .max_by_key(|mount| mount.path.as_os_str().len());
    let existing = mount.map(|mount| mount.propagation).unwrap_or_default();
    let (is_possible, required) = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => (existing.shared || existing.slave, "shared or slave"),
        Propagation::Bidirectional => (existing.shared, "shared"),
    };
    let mount_point = mount
        .map(|mount| mount.path.as_path())
        .unwrap_or(Path::new("/"));
    match is_possible {
        true => Ok(()),
        false => {
            cov_mark::hit!(findings_c25);
            Err(PropagationMismatch {
                path: path.to_owned(),
                mount_point: mount_point.to_owned(),
                required,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings C25
    #[test]
    fn mounts_travel_where_they_can_and_are_refused_where_they_cannot() {
        cov_mark::check!(findings_c25);
        let table = host_kernel::mount_table::parse(
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
            check("/slave/x", Bidirectional).unwrap_err().to_string(),
            "path \"/slave/x\" is mounted on \"/slave\" but it is not a shared mount"
        );
        assert_eq!(
            check("/sharedness", HostToContainer)
                .unwrap_err()
                .to_string(),
            "path \"/sharedness\" is mounted on \"/\" but it is not a shared or slave mount"
        );
    }
}
