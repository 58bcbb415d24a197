//! The root file system of a container: the overlay, sub-paths, the image's user files.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use super::devices::DeviceNode;
use super::mapped_mounts::{self, MappedLayers, MountDepth};
use super::user_namespace::UserNamespace;
use crate::cgroup::DeviceKind;
use crate::spec::RootfsSpec;

/// Longest mount data: one page, with the end of the string.
const MOUNT_DATA_BYTES_MAX: usize = 4095;

/// Maximum size of `/etc/passwd` and `/etc/group`.
const USER_FILE_BYTES_MAX: u64 = 1 << 20;

/// Mounts the overlay at `target`; with `users`, its ids are mapped to those of the user namespace.
///
/// Written files keep the mapped ids on disk: the overlay also makes files as the node's root, which
/// has no id in the namespace. The directories are removed with the container.
pub(crate) fn mount_overlay(
    rootfs: &RootfsSpec,
    target: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    for dir in [target, &rootfs.upper_dir, &rootfs.work_dir] {
        fs::create_dir_all(dir)?;
    }
    // The root directory's own owner and bits come from the upper directory.
    fs::set_permissions(
        &rootfs.upper_dir,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let mount = |layers: &[PathBuf]| {
        let data = |relative_to: Option<&Path>| overlay_data(layers, rootfs, relative_to);
        mount_data(layers, data, target, MsFlags::empty())
    };
    let Some(users) = users else {
        return mount(&rootfs.lowerdirs);
    };
    let root = users.ids.on_node(0);
    std::os::unix::fs::chown(&rootfs.upper_dir, root, root)?;
    let staged = target.with_extension("layers");
    let layers = MappedLayers::mount(&rootfs.lowerdirs, &staged, users)?;
    mount(&layers.lowerdirs)
}

/// Mounts an overlay with the options that `data` makes for paths relative to a directory.
fn mount_data(
    layers: &[PathBuf],
    data: impl Fn(Option<&Path>) -> Vec<u8>,
    target: &Path,
    flags: MsFlags,
) -> io::Result<()> {
    let mut options = data(None);
    let mut old_dir = None;
    if options.len() > MOUNT_DATA_BYTES_MAX
        && let Some(parent) = common_parent(layers)
    {
        // Many layers: name them relative to the directory they are all in.
        options = data(Some(&parent));
        old_dir = Some(std::env::current_dir()?);
        std::env::set_current_dir(&parent)?;
    }
    let options = OsString::from_vec(options);
    let kind = Some("overlay");
    let mounted = mount(kind, target, kind, flags, Some(options.as_os_str()));
    if let Some(dir) = old_dir {
        std::env::set_current_dir(dir)?;
    }
    mounted.map_err(|errno| {
        io::Error::new(
            io::Error::from(errno).kind(),
            format!("mount the overlay of {} layers: {errno}", layers.len()),
        )
    })
}

/// Mounts layers at `target`, read-only; with `users`, their ids are mapped.
pub(crate) fn mount_layers(
    layers: &[PathBuf],
    target: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    // Without anything to write to, the kernel wants two directories at least.
    let empty = target.with_extension("empty");
    for dir in [target, &empty] {
        fs::create_dir_all(dir)?;
    }
    let mut all: Vec<PathBuf> = std::iter::once(empty)
        .chain(layers.iter().cloned())
        .collect();
    let mapped = match users {
        Some(users) => {
            let staged = target.with_extension("mapped");
            Some(MappedLayers::mount(&all, &staged, users)?)
        }
        None => None,
    };
    if let Some(mapped) = &mapped {
        all.clone_from(&mapped.lowerdirs);
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // The empty one may be elsewhere, and is then named as it is.
    let data = |relative_to: Option<&Path>| layers_data(&all, relative_to);
    mount_data(&all[1..], data, target, flags)
}

/// The overlay's mount options; pure.
fn overlay_data(lowerdirs: &[PathBuf], rootfs: &RootfsSpec, relative_to: Option<&Path>) -> Vec<u8> {
    let mut data = layers_data(lowerdirs, relative_to);
    data.extend(b",upperdir=");
    escape(&rootfs.upper_dir, b",\\", &mut data);
    data.extend(b",workdir=");
    escape(&rootfs.work_dir, b",\\", &mut data);
    data
}

fn layers_data(lowerdirs: &[PathBuf], relative_to: Option<&Path>) -> Vec<u8> {
    let mut data = b"lowerdir=".to_vec();
    // The kernel wants the topmost first.
    for (index, dir) in lowerdirs.iter().rev().enumerate() {
        if index > 0 {
            data.push(b':');
        }
        let dir = relative_to
            .and_then(|base| dir.strip_prefix(base).ok())
            .unwrap_or(dir);
        escape(dir, b":,\\", &mut data);
    }
    data
}

fn escape(path: &Path, special: &[u8], out: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

fn common_parent(paths: &[PathBuf]) -> Option<PathBuf> {
    let mut common = paths.first()?.parent()?.to_owned();
    while !paths.iter().all(|path| path.starts_with(&common)) {
        common = common.parent()?.to_owned();
    }
    Some(common)
}

/// Reads a small file of the container's, without leaving its root. A missing one is empty.
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

/// Binds `sub_path` of `volume` to `target`. The kernel resolves each component below the volume's root, also
/// with links in the volume, and the resulting descriptor is bound.
pub(crate) fn bind_sub_path(
    volume: &Path,
    sub_path: &Path,
    target: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<()> {
    let found = open_beneath(volume, sub_path)?;
    mapped_mounts::bind(&found, target, MountDepth::All, users)
}

/// Makes a device node at a path below a root; an existing file at the path is replaced.
pub(crate) fn make_node(root: &Path, node: &DeviceNode) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    let inside = node.path.strip_prefix("/").map_err(|_| invalid())?;
    let parent = inside
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let dir = open_beneath(root, parent.unwrap_or(Path::new(".")))?;
    make_node_in(&dir, node)
}

/// Makes a device node in a directory; an existing file of its name is replaced.
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
    // The mask took its part of the mode.
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
        Ok(found) => return Ok(found),
        Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    // Make the missing directories one by one, each opened beneath the last. They get the mode of
    // the volume, so that its users, also by group, may write to them.
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
                let made = open(&dir)?;
                // By the descriptor's own name: neither a link nor the mask comes between.
                let itself = format!("/proc/self/fd/{}", made.as_raw_fd());
                rustix::fs::chmod(itself, mode)?;
                made
            }
            other => other?,
        };
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn topmost_layer_comes_first_and_special_characters_are_escaped() {
        let rootfs = RootfsSpec {
            lowerdirs: vec!["/l/base".into(), "/l/top:x".into()],
            upper_dir: "/u,1".into(),
            work_dir: "/w".into(),
            read_only: false,
        };
        let text = |data| String::from_utf8(data).unwrap();
        assert_eq!(
            text(overlay_data(&rootfs.lowerdirs, &rootfs, None)),
            r"lowerdir=/l/top\:x:/l/base,upperdir=/u\,1,workdir=/w"
        );
        let parent = common_parent(&rootfs.lowerdirs).unwrap();
        assert_eq!(parent, Path::new("/l"));
        let relative = text(overlay_data(&rootfs.lowerdirs, &rootfs, Some(&parent)));
        assert!(relative.starts_with(r"lowerdir=top\:x:base,"));
    }

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
        let made = fs::metadata(dir.join("for-group")).unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, 0o2770);
        fs::remove_dir_all(&dir).unwrap();
    }
}
