//! The root file system of a container: its layers, the sub-paths of volumes, and the user files of the
//! image.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use super::devices::DeviceNode;
use super::inside::{self, SymlinkPolicy};
use super::mapped_mounts::{self, MountDepth};
use super::overlay;
use super::user_namespace::UserNamespace;
use crate::cgroup::DeviceKind;
use crate::spec::RootfsSpec;

/// Maximum size of `/etc/passwd` and `/etc/group`.
const USER_FILE_BYTES_MAX: u64 = 1 << 20;

/// Mounts the overlay at `target`. With `users`, its ids are mapped to the ids of the user namespace.
///
/// Written files have the mapped ids on disk, because the overlay also creates files as the node's root,
/// which has no id in the namespace. The writable directories are removed with the container.
pub(crate) fn mount_overlay(
    rootfs: &RootfsSpec,
    target: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    for dir in [target, &rootfs.upper_dir, &rootfs.work_dir] {
        fs::create_dir_all(dir)?;
    }
    // The permissions of the root directory come from the upper directory. The owner comes from the image.
    fs::set_permissions(
        &rootfs.upper_dir,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let (user, group) = match rootfs.lowerdirs.last() {
        Some(top) => fs::metadata(top).map(|facts| (facts.uid(), facts.gid()))?,
        None => (0, 0),
    };
    let on_node = |id: u32| match users {
        Some(users) => users.ids.on_node(id).or(users.ids.on_node(0)),
        None => Some(id),
    };
    std::os::unix::fs::chown(&rootfs.upper_dir, on_node(user), on_node(group))?;
    let mut layers = rootfs.lowerdirs.clone();
    if layers.is_empty() {
        layers.push(empty_layer(target, 0)?);
    }
    let written = Some((rootfs.upper_dir.as_path(), rootfs.work_dir.as_path()));
    overlay::mount(&layers, written, target, users)
}

/// Mounts layers at `target`, read-only; with `users`, their ids are mapped.
pub(crate) fn mount_layers(
    layers: &[PathBuf],
    target: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let mut layers = layers.to_vec();
    // Without an upper directory, the kernel requires at least two layers.
    while layers.len() < 2 {
        layers.push(empty_layer(target, layers.len())?);
    }
    overlay::mount(&layers, None, target, users)
}

/// An empty directory next to the mount point.
fn empty_layer(target: &Path, number: usize) -> io::Result<PathBuf> {
    let empty = target.with_extension(format!("empty-{number}"));
    fs::create_dir_all(&empty)?;
    Ok(empty)
}

/// Reads a small file of a container without leaving the container's root. A missing file has an empty
/// content.
pub(crate) fn read_inside(root: &Path, path: &str) -> io::Result<String> {
    let dir = File::open(root)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(USER_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Bind-mounts `sub_path` of `volume` at `target`. The kernel resolves each component below the volume's
/// root, including links in the volume, and the resulting descriptor is mounted.
pub(crate) fn bind_sub_path(
    volume: &Path,
    sub_path: &Path,
    target: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    let source = open_beneath(volume, sub_path)?;
    mapped_mounts::bind(&source, target, MountDepth::All, users)
}

/// Creates a device node at a path below a root. An existing file is replaced.
pub(crate) fn make_node(root: &Path, node: &DeviceNode) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let parent = node.path.parent().unwrap_or(Path::new("/"));
    make_node_in(
        &inside::directory(&root, parent, SymlinkPolicy::Followed)?,
        node,
    )
}

/// Creates a device node in a directory. An existing file is replaced.
pub(crate) fn make_node_in(dir: &OwnedFd, node: &DeviceNode) -> io::Result<()> {
    let name = node
        .path
        .file_name()
        .ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
    let kind = match node.kind {
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Character => FileType::CharacterDevice,
    };
    let device = rustix::fs::makedev(node.major, node.minor);
    let mode = Mode::from_raw_mode(node.mode);
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    rustix::fs::mknodat(dir, name, kind, mode, device)?;
    // The process's umask has removed bits of the mode.
    rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?;
    let (owner, group) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::chownat(
        dir,
        name,
        Some(owner),
        Some(group),
        flags,
    )?)
}

fn open_beneath(volume: &Path, sub_path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let root = rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty())?;
    match rustix::fs::openat2(&root, sub_path, flags, Mode::empty(), resolve) {
        Ok(file) => return Ok(file),
        Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Missing directories are created one by one, each opened beneath its parent. They get the mode of the
    // volume, so that the volume's users and group may write to them.
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root)?.st_mode & 0o7777);
    let mut dir = root;
    for part in sub_path.components() {
        let name = match part {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "subPath leaves its volume",
                ));
            }
        };
        let open = |dir: &OwnedFd| {
            rustix::fs::openat2(dir.as_fd(), Path::new(name), flags, Mode::empty(), resolve)
        };
        dir = match open(&dir) {
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&dir, Path::new(name), Mode::RWXU)?;
                let created = open(&dir)?;
                // The path of the descriptor avoids links and the umask.
                let itself = format!("/proc/self/fd/{}", created.as_raw_fd());
                rustix::fs::chmod(itself, mode)?;
                created
            }
            result => result?,
        };
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn links_in_a_volume_do_not_lead_out_of_it_and_what_is_made_has_its_bits() {
        let dir = std::env::temp_dir().join(format!("sub-path-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("out")).unwrap();
        fs::create_dir(dir.join("in")).unwrap();
        std::os::unix::fs::symlink("in", dir.join("inside")).unwrap();
        assert!(open_beneath(&dir, Path::new("out/passwd")).is_err());
        assert!(open_beneath(&dir, Path::new("out/new")).is_err());
        assert!(open_beneath(&dir, Path::new("../x")).is_err());
        assert!(open_beneath(&dir, Path::new("inside/made/deep")).is_ok());
        assert!(dir.join("in/made/deep").is_dir());
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o2770)).unwrap();
        open_beneath(&dir, Path::new("for-group")).unwrap();
        let created = fs::metadata(dir.join("for-group")).unwrap();
        assert_eq!(created.permissions().mode() & 0o7777, 0o2770);
        fs::remove_dir_all(&dir).unwrap();
    }
}
