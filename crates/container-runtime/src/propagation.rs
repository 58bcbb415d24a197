//! Propagation of mounts into containers.

use std::path::Path;

use host_kernel::mount_table::MountPoint;

use crate::spec::Propagation;

/// Checks that the propagation of a path allows the propagation that a container requests. The texts of the
/// errors are containerd's. Without the check, later mounts would silently be missing in the container.
pub(crate) fn check_propagation(
    table: &[MountPoint],
    path: &Path,
    propagation: Propagation,
) -> Result<(), String> {
    // If several mounts have one path, the last mount is the visible one.
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
        false => {
            cov_mark::hit!(findings_c25);
            Err(format!(
                "path {:?} is mounted on {:?} but it is not a {wanted} mount",
                path.display(),
                on.display()
            ))
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
            check("/slave/x", Bidirectional).unwrap_err(),
            "path \"/slave/x\" is mounted on \"/slave\" but it is not a shared mount"
        );
        assert_eq!(
            check("/sharedness", HostToContainer).unwrap_err(),
            "path \"/sharedness\" is mounted on \"/\" but it is not a shared or slave mount"
        );
    }
}
