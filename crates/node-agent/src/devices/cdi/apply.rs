//! The effect of CDI edits on a container. Pure.

use std::path::{Path, PathBuf};

use container_runtime::spec::{ContainerSpec, Device, EnvVar, Mount, MountSource, Propagation};

use super::CdiError;
use super::spec::{CdiDeviceNode, CdiEdits, CdiMount};

/// Applies edits to a container.
///
/// # Errors
/// An edit is not valid, or the runtime does not support it: a container never has a part of its device.
pub fn apply(spec: &mut ContainerSpec, edits: &CdiEdits) -> Result<(), CdiError> {
    let unsupported = |part: &str| Err(CdiError::Unsupported(part.to_owned()));
    if let Some(hook) = edits.hooks.first() {
        return unsupported(&format!("the hook {} ({})", hook.path, hook.hook_name));
    }
    if edits.intel_rdt.is_some() {
        return unsupported("intelRdt");
    }
    if !edits.net_devices.is_empty() {
        return unsupported("netDevices");
    }
    for variable in &edits.env {
        set_variable(spec, variable)?;
    }
    for node in &edits.device_nodes {
        let device = device(node)?;
        spec.devices
            .retain(|existing| existing.container_path != device.container_path);
        spec.devices.push(device);
    }
    for mount in &edits.mounts {
        spec.mounts.push(mount_of(mount)?);
    }
    // As the specification says, the group 0 is not added.
    let groups = edits.additional_gids.iter().filter(|gid| **gid != 0);
    for gid in groups {
        if !spec.user.supplementary_groups.contains(gid) {
            spec.user.supplementary_groups.push(*gid);
        }
    }
    Ok(())
}

fn set_variable(spec: &mut ContainerSpec, variable: &str) -> Result<(), CdiError> {
    let named = variable
        .split_once('=')
        .filter(|(name, _)| !name.is_empty());
    let is_valid = !variable.contains('\0');
    let (name, value) = named
        .filter(|_| is_valid)
        .ok_or_else(|| CdiError::Invalid(format!("{variable:?} is no variable")))?;
    spec.env.retain(|existing| existing.name != name);
    spec.env.push(EnvVar {
        name: name.to_owned(),
        value: value.to_owned(),
    });
    Ok(())
}

/// An absolute path without `..`.
pub fn absolute(path: &str) -> Result<PathBuf, CdiError> {
    let climbs = Path::new(path)
        .components()
        .any(|part| part.as_os_str() == "..");
    match path.starts_with('/') && !climbs && !path.contains('\0') {
        true => Ok(PathBuf::from(path)),
        false => Err(CdiError::Invalid(format!("{path:?} is no absolute path"))),
    }
}

fn device(node: &CdiDeviceNode) -> Result<Device, CdiError> {
    let invalid = |reason: String| Err(CdiError::Invalid(reason));
    if !matches!(node.node_type.as_str(), "" | "b" | "c" | "u") {
        return invalid(format!(
            "{} has the type {:?}, and only devices are supported",
            node.path, node.node_type
        ));
    }
    if let Some(letter) = node.permissions.chars().find(|c| !"rwm".contains(*c)) {
        return invalid(format!("{} has the permission {letter:?}", node.path));
    }
    let host_path = match node.host_path.as_str() {
        "" => &node.path,
        path => path,
    };
    let access = match node.permissions.as_str() {
        "" => "rwm",
        permissions => permissions,
    };
    Ok(Device {
        host_path: absolute(host_path)?,
        container_path: absolute(&node.path)?,
        access: access.to_owned(),
        mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    })
}

fn mount_of(mount: &CdiMount) -> Result<Mount, CdiError> {
    let mut read_only = false;
    let mut propagation = Propagation::Private;
    for option in &mount.options {
        match option.as_str() {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "rslave" | "slave" => propagation = Propagation::HostToContainer,
            "rshared" | "shared" => propagation = Propagation::Bidirectional,
            // The files of a mount give a process no more than the container has: without `nosuid` a program may
            // change the user inside of the container, and devices are limited by the control group.
            "bind" | "rbind" | "private" | "rprivate" | "nosuid" | "nodev" | "noexec" | "suid"
            | "dev" | "exec" | "relatime" | "noatime" | "nodiratime" => {}
            other => {
                return Err(CdiError::Unsupported(format!(
                    "the option {other:?} of the mount {}",
                    mount.container_path
                )));
            }
        }
    }
    let source = match mount.mount_type.as_str() {
        "" | "bind" | "none" => MountSource::Bind {
            path: absolute(&mount.host_path)?,
            sub_path: None,
            recursive_read_only: false,
            propagation,
        },
        "tmpfs" => MountSource::Tmpfs {
            size_bytes: None,
            mode: 0o1777,
        },
        other => {
            return Err(CdiError::Unsupported(format!(
                "the type {other:?} of the mount {}",
                mount.container_path
            )));
        }
    };
    Ok(Mount {
        destination: absolute(&mount.container_path)?,
        source,
        read_only,
    })
}

#[cfg(test)]
mod tests {
    use super::super::spec::CdiSpec;
    use super::*;

    fn edits(text: &str) -> CdiEdits {
        let text = format!(r#"{{"cdiVersion": "1.0.0", "kind": "v/c", "containerEdits": {text}}}"#);
        CdiSpec::parse(&text, true).unwrap().container_edits
    }

    fn applied(text: &str) -> Result<ContainerSpec, String> {
        let variable = |name: &str, value: &str| EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let mut spec = ContainerSpec {
            env: vec![variable("A", "image"), variable("B", "image")],
            ..ContainerSpec::default()
        };
        spec.user.supplementary_groups = vec![7];
        let result = apply(&mut spec, &edits(text));
        result.map(|()| spec).map_err(|error| error.to_string())
    }

    #[test]
    fn a_container_gets_variables_devices_mounts_and_groups() {
        let spec = applied(
            r#"{"env": ["A=x=y", "C="],
            "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/null", "permissions": "r",
                "fileMode": 384, "uid": 5}, {"path": "/dev/zero"}],
            "mounts": [{"hostPath": "/opt/lib", "containerPath": "/lib/gpu", "options":
                ["ro", "nosuid", "rbind", "rslave"]},
                {"containerPath": "/scratch", "type": "tmpfs"}],
            "additionalGids": [7, 44, 0]}"#,
        )
        .unwrap();
        let variables: Vec<String> = spec
            .env
            .iter()
            .map(|variable| format!("{}={}", variable.name, variable.value))
            .collect();
        assert_eq!(variables, ["B=image", "A=x=y", "C="]);
        let gpu = &spec.devices[0];
        assert_eq!(gpu.host_path, Path::new("/dev/null"));
        assert_eq!(
            (gpu.access.as_str(), gpu.mode, gpu.uid, gpu.gid),
            ("r", Some(0o600), Some(5), None)
        );
        let zero = &spec.devices[1];
        assert_eq!(
            (&zero.host_path, zero.access.as_str()),
            (&zero.container_path, "rwm")
        );
        let MountSource::Bind {
            path, propagation, ..
        } = &spec.mounts[0].source
        else {
            panic!("{:?}", spec.mounts)
        };
        assert_eq!(
            (path.as_path(), *propagation),
            (Path::new("/opt/lib"), Propagation::HostToContainer)
        );
        assert!(spec.mounts[0].read_only && !spec.mounts[1].read_only);
        assert_eq!(spec.user.supplementary_groups, [7, 44]);
    }

    #[test]
    fn an_edit_that_has_no_effect_here_is_refused() {
        for (text, words) in [
            (
                r#"{"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}"#,
                "the hook /bin/x",
            ),
            (r#"{"intelRdt": {}}"#, "intelRdt"),
            (r#"{"netDevices": [{}]}"#, "netDevices"),
            (r#"{"env": ["=x"]}"#, "no variable"),
            (
                r#"{"deviceNodes": [{"path": "dev/x"}]}"#,
                "no absolute path",
            ),
            (
                r#"{"deviceNodes": [{"path": "/dev/../x"}]}"#,
                "no absolute path",
            ),
            (
                r#"{"deviceNodes": [{"path": "/dev/x", "type": "p"}]}"#,
                "only devices",
            ),
            (
                r#"{"deviceNodes": [{"path": "/dev/x", "permissions": "x"}]}"#,
                "permission",
            ),
            (
                r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["remount"]}]}"#,
                "remount",
            ),
            (
                r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "proc"}]}"#,
                "proc",
            ),
        ] {
            let error = applied(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
