//! Devices of a container: their nodes, and the rules for their use.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cgroup::{DeviceKind, DeviceRule, DeviceRules};
use crate::spec::{ContainerSpec, Device};

/// A device node in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    /// Its path in the container.
    pub path: PathBuf,
    /// The path of the same device on the node.
    pub on_node: PathBuf,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The reason why a container cannot get a device.
#[derive(Debug, thiserror::Error)]
#[error("examine device {}", path.display())]
pub(crate) struct DeviceError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The devices of every container: name, major and minor number.
const USUAL: [(&str, u32, u32); 6] = [
    (NULL, 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The path of the null device.
pub(crate) const NULL: &str = "/dev/null";

/// Names in `/dev` that the runtime creates in every container.
const RUNTIME_DEVICES: [&str; 9] = [
    "pts", "shm", "fd", "mqueue", "ptmx", "console", "stdin", "stdout", "stderr",
];

/// Nodes in a container's `/dev`: the requested nodes, all nodes of the node for a privileged container,
/// and the default nodes.
pub(crate) fn in_dev(container: &ContainerSpec) -> Result<Vec<DeviceNode>, DeviceError> {
    let mut list = Vec::new();
    // Devices outside of `/dev` are in the root already.
    for device in container.devices.iter().filter(|device| is_in_dev(device)) {
        list.push(node(device)?);
    }
    if container.security.privileged {
        let mut paths = Vec::new();
        collect(Path::new("/dev"), &mut paths);
        for path in paths {
            if !list.iter().any(|node| node.path == path) {
                list.push(node(&Device {
                    host_path: path.clone(),
                    container_path: path,
                    access: "rwm".to_owned(),
                    ..Device::default()
                })?);
            }
        }
    }
    add_usual(&mut list);
    Ok(list)
}

/// Adds the default devices that are not in the list; pure.
fn add_usual(list: &mut Vec<DeviceNode>) {
    for (name, major, minor) in USUAL {
        if !list.iter().any(|node| node.path == Path::new(name)) {
            list.push(DeviceNode {
                path: name.into(),
                on_node: name.into(),
                kind: DeviceKind::Character,
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
            });
        }
    }
}

/// The node's devices, without the names that the runtime creates in every container.
fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if RUNTIME_DEVICES.iter().any(|excluded| name == *excluded)
            || name.as_encoded_bytes().starts_with(b".")
        {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), paths);
        } else if kind.is_char_device() || kind.is_block_device() {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
}

/// Whether a device is in `/dev`, which is a separate file system in a container.
pub(crate) fn is_in_dev(device: &Device) -> bool {
    device.container_path.starts_with("/dev")
}

fn is_read_only(device: &Device) -> bool {
    !device.access.contains('w')
}

/// The device node with its attributes on the node, and with its path and owner in the container.
pub(crate) fn node(device: &Device) -> Result<DeviceNode, DeviceError> {
    let failed = |source| DeviceError {
        path: device.host_path.clone(),
        source,
    };
    let metadata = fs::metadata(&device.host_path).map_err(failed)?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => DeviceKind::Character,
        kind if kind.is_block_device() => DeviceKind::Block,
        _ => return Err(failed(io::Error::other("is no device"))),
    };
    let on_node = metadata.mode() & 0o777;
    let mut mode = match (device.mode, device.gid) {
        (Some(mode), _) => mode & 0o777,
        // The group has the rights of the owner.
        (None, Some(_)) => on_node | (on_node & 0o700) >> 3,
        (None, None) => on_node,
    };
    if is_read_only(device) {
        mode &= 0o555;
    }
    Ok(DeviceNode {
        path: device.container_path.clone(),
        on_node: device.host_path.clone(),
        kind,
        major: libc::major(metadata.rdev()),
        minor: libc::minor(metadata.rdev()),
        mode,
        uid: device.uid.unwrap_or(metadata.uid()),
        gid: device.gid.unwrap_or(metadata.gid()),
    })
}

/// The devices that the container may use: the listed devices, or all.
pub(crate) fn rules(container: &ContainerSpec) -> Result<DeviceRules, DeviceError> {
    if container.security.privileged {
        return Ok(DeviceRules::All);
    }
    let rule = |device: &Device| {
        let node = node(device)?;
        Ok(DeviceRule::new(
            node.kind,
            node.major,
            node.minor,
            &device.access,
        ))
    };
    let rules: Result<_, DeviceError> = container.devices.iter().map(rule).collect();
    rules.map(DeviceRules::Only)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_was_given_takes_the_place_of_a_usual_one() {
        let given = Device {
            host_path: "/dev/zero".into(),
            container_path: NULL.into(),
            access: "r".to_owned(),
            mode: Some(0o640),
            uid: Some(7),
            gid: None,
        };
        let mut list = vec![node(&given).unwrap()];
        add_usual(&mut list);
        assert_eq!(list.len(), USUAL.len());
        let null = &list[0];
        assert_eq!((null.major, null.minor, null.uid), (1, 5, 7));
        assert_eq!(null.mode, 0o440);
        assert!(list[1..].iter().all(|node| node.path != Path::new(NULL)));
    }
}
