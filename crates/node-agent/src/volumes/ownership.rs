//! `fsGroup`: the group ownership of volumes.

use std::io;
use std::path::Path;

use host_kernel::tree::{self, Handle, Mounts, TreeEntry, Visitor};
use k8s_openapi::api::core::v1::Pod;
use rustix::fs::FileType;

pub fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|gid| u32::try_from(gid).ok())
}

/// Changes the group of the target of `root` and of everything below it: files become readable and writable
/// for the group, and directories also get the setgid bit. With `on_mismatch_only`, a root that has the
/// group already is skipped.
///
/// The root may be a symbolic link, as for a `local` volume; links below the root are not followed. Mounts
/// below the root are included, as in kubelet.
pub fn give_to_group(root: &Path, gid: u32, on_mismatch_only: bool) -> io::Result<()> {
    let root = Handle::at(root)?;
    let stat = root.stat();
    if on_mismatch_only && stat.st_gid == gid && stat.st_mode & 0o2070 == 0o2070 {
        return Ok(());
    }
    set_group(&root, gid)?;
    match root.file_type() {
        FileType::Directory => tree::walk(&root, Mounts::Enter, &mut ToGroup(gid)),
        _ => Ok(()),
    }
}

struct ToGroup(u32);

impl Visitor for ToGroup {
    fn entry(&mut self, entry: &TreeEntry<'_>) -> io::Result<()> {
        set_group(&entry.handle()?, self.0)
    }
}

fn set_group(file: &Handle, gid: u32) -> io::Result<()> {
    file.set_group(gid)?;
    let added_mode = match file.file_type() {
        FileType::Symlink => return Ok(()),
        FileType::Directory => 0o2770,
        _ => 0o660,
    };
    file.set_mode((file.stat().st_mode & 0o7777) | added_mode)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use super::*;

    const GROUP: u32 = 3000;

    fn group_and_mode(path: &Path) -> (u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.gid(), metadata.mode() & 0o7777)
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
        assert_eq!(group_and_mode(&volume).1 & 0o2070, 0o2070);
        assert_eq!(group_and_mode(&volume.join("dir")).0, GROUP);
        assert_eq!(group_and_mode(&inside), (GROUP, 0o660));
        assert_eq!(group_and_mode(&volume.join("link")).0, GROUP);
        assert_eq!(group_and_mode(&outside), (0, 0o640));
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
        assert_eq!(group_and_mode(&later).0, 0, "OnRootMismatch");
        give_to_group(temp.path(), GROUP, false).unwrap();
        assert_eq!(group_and_mode(&later).0, GROUP, "Always");
    }

    #[test]
    fn a_volume_that_is_a_link_is_what_the_link_leads_to() {
        // findings C10
        let temp = tempfile::tempdir().unwrap();
        let (volume, link) = (temp.path().join("volume"), temp.path().join("link"));
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&volume, &link).unwrap();
        give_to_group(&link, GROUP, true).unwrap();
        assert_eq!(group_and_mode(&volume).0, GROUP);
        assert_eq!(group_and_mode(&volume.join("file")).0, GROUP);
    }
}
