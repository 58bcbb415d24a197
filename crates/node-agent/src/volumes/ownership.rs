//! fsGroup: volumes that belong to a pod's group.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// Gives everything below `root` to the group: files may be read and written by it, directories
/// also hand the group on to what is made in them. With `on_mismatch_only`, a root that belongs to
/// the group already is left alone.
pub fn give_to_group(root: &Path, gid: u32, on_mismatch_only: bool) -> io::Result<()> {
    let found = fs::symlink_metadata(root)?;
    if on_mismatch_only && found.gid() == gid && found.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    give(root, gid)
}

fn give(path: &Path, gid: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return std::os::unix::fs::lchown(path, None, Some(gid));
    }
    chown(path, None, Some(gid))?;
    let more = if found.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(
        path,
        fs::Permissions::from_mode((found.mode() & 0o7777) | more),
    )?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), gid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: u32 = 3000;

    fn shown(path: &Path) -> (u32, u32) {
        let found = fs::symlink_metadata(path).unwrap();
        (found.gid(), found.mode() & 0o7777)
    }

    #[test]
    fn the_group_may_read_and_write_and_links_are_not_followed() {
        // statefulset.md 12.16; needs root, as the agent does
        let temp = tempfile::tempdir().unwrap();
        let volume = temp.path().join("volume");
        fs::create_dir_all(volume.join("dir")).unwrap();
        let (inside, outside) = (volume.join("dir/file"), temp.path().join("outside"));
        for file in [&inside, &outside] {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        give_to_group(&volume, GROUP, false).unwrap();
        assert_eq!(shown(&volume).1 & 0o2070, 0o2070);
        assert_eq!(shown(&volume.join("dir")).0, GROUP);
        assert_eq!(shown(&inside), (GROUP, 0o660));
        assert_eq!(shown(&volume.join("link")).0, GROUP);
        assert_eq!(shown(&outside), (0, 0o640));
    }

    #[test]
    fn a_volume_that_is_the_groups_already_is_only_gone_through_when_asked() {
        // statefulset.md 12.16
        let temp = tempfile::tempdir().unwrap();
        give_to_group(temp.path(), GROUP, true).unwrap();
        let later = temp.path().join("later");
        fs::write(&later, "").unwrap();
        chown(&later, None, Some(0)).unwrap();
        give_to_group(temp.path(), GROUP, true).unwrap();
        assert_eq!(shown(&later).0, 0, "OnRootMismatch");
        give_to_group(temp.path(), GROUP, false).unwrap();
        assert_eq!(shown(&later).0, GROUP, "Always");
    }
}
