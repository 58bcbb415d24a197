//! The devices of one container in its specification for the runtime. Pure.

use std::path::{Path, PathBuf};

use container_runtime::spec::{ContainerSpec, Device, EnvVar, Mount, MountSource, Propagation};

use super::allocation_record::{DeviceEdits, DeviceMount, DeviceNode};
use super::cdi::{self, CdiEdits, CdiError, annotated_devices};

/// The devices of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerDevices {
    /// The changes that device plugins request.
    pub edits: Vec<DeviceEdits>,
    /// Full names of the CDI devices of claims.
    pub claimed: Vec<String>,
}

impl ContainerDevices {
    /// The CDI devices of plugins and claims.
    pub fn cdi_devices(&self) -> Vec<String> {
        let of_plugin = |edits: &DeviceEdits| -> Vec<String> {
            let annotated = annotated_devices(&edits.annotations);
            edits.cdi_devices.iter().cloned().chain(annotated).collect()
        };
        let of_plugins = self.edits.iter().flat_map(of_plugin);
        of_plugins.chain(self.claimed.iter().cloned()).collect()
    }
}

/// Adds devices to a container. Variables of the pod in `pod_env` have priority over those of plugins, and volumes of
/// the pod cover mounts of plugins. CDI edits have priority over all. `node_path` returns the path on this machine for
/// a path of a plugin.
///
/// # Errors
/// A change is not valid, or the runtime does not support it.
pub fn add(
    spec: &mut ContainerSpec,
    devices: &ContainerDevices,
    cdi_edits: &CdiEdits,
    pod_env: &[(String, String)],
    node_path: &dyn Fn(&Path) -> PathBuf,
) -> Result<(), CdiError> {
    let mut mounts = Vec::new();
    for edits in &devices.edits {
        add_variables(spec, edits, pod_env)?;
        for mount in &edits.mounts {
            mounts.push(mount_of(mount, node_path)?);
        }
        for node in &edits.device_nodes {
            let device = device(node, node_path)?;
            spec.devices
                .retain(|existing| existing.container_path != device.container_path);
            spec.devices.push(device);
        }
        spec.annotations.extend(edits.annotations.clone());
    }
    spec.mounts.splice(0..0, mounts);
    let mut cdi_edits = cdi_edits.clone();
    for mount in &mut cdi_edits.mounts {
        let path = node_path(Path::new(&mount.host_path));
        mount.host_path = path.to_string_lossy().into_owned();
    }
    cdi::apply(spec, &cdi_edits)
}

fn add_variables(
    spec: &mut ContainerSpec,
    edits: &DeviceEdits,
    pod_env: &[(String, String)],
) -> Result<(), CdiError> {
    for (name, value) in &edits.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(CdiError::Invalid(format!("{name:?} is no variable")));
        }
        if pod_env.iter().any(|(existing, _)| existing == name) {
            continue;
        }
        spec.env.retain(|existing| existing.name != *name);
        spec.env.push(EnvVar {
            name: name.clone(),
            value: value.clone(),
        });
    }
    Ok(())
}

fn mount_of(mount: &DeviceMount, node_path: &dyn Fn(&Path) -> PathBuf) -> Result<Mount, CdiError> {
    Ok(Mount {
        destination: cdi::absolute(&mount.container_path)?,
        source: MountSource::Bind {
            path: node_path(&cdi::absolute(&mount.host_path)?),
            sub_path: None,
            recursive_read_only: false,
            propagation: Propagation::Private,
        },
        read_only: mount.read_only,
    })
}

fn device(node: &DeviceNode, node_path: &dyn Fn(&Path) -> PathBuf) -> Result<Device, CdiError> {
    let access = match node.permissions.as_str() {
        "" => "rwm",
        permissions => permissions,
    };
    Ok(Device {
        host_path: node_path(&cdi::absolute(&node.host_path)?),
        container_path: cdi::absolute(&node.container_path)?,
        access: access.to_owned(),
        ..Device::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn text(text: &str) -> String {
        text.to_owned()
    }

    fn edits() -> DeviceEdits {
        let pairs = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            let list = list.iter();
            list.map(|(name, value)| (text(name), text(value)))
                .collect()
        };
        DeviceEdits {
            env: pairs(&[("OF_POD", "plugin"), ("OF_IMAGE", "plugin")]),
            mounts: vec![DeviceMount {
                container_path: text("/lib/gpu"),
                host_path: text("/var/lib/kubelet/lib"),
                read_only: true,
            }],
            device_nodes: vec![DeviceNode {
                container_path: text("/dev/gpu"),
                host_path: text("/dev/null"),
                permissions: text("rw"),
            }],
            annotations: pairs(&[("cdi.k8s.io/x", "v/c=b"), ("other", "x")]),
            cdi_devices: vec![text("v/c=a")],
        }
    }

    fn spec() -> ContainerSpec {
        let variable = |name: &str| EnvVar {
            name: text(name),
            value: text("before"),
        };
        ContainerSpec {
            env: vec![variable("OF_POD"), variable("OF_IMAGE")],
            mounts: vec![Mount {
                destination: "/data".into(),
                source: MountSource::Tmpfs {
                    size_bytes: None,
                    mode: 0o755,
                },
                read_only: false,
            }],
            ..ContainerSpec::default()
        }
    }

    fn added(edits: DeviceEdits) -> Result<ContainerSpec, String> {
        let mut spec = spec();
        let devices = ContainerDevices {
            edits: vec![edits],
            claimed: Vec::new(),
        };
        let cdi_edits = CdiEdits {
            env: vec![text("OF_POD=cdi")],
            ..CdiEdits::default()
        };
        let pod_env = [(text("OF_POD"), text("before"))];
        let node_path = |path: &Path| match path.strip_prefix("/var/lib/kubelet") {
            Ok(below) => Path::new("/data/kubelet").join(below),
            Err(_) => path.to_owned(),
        };
        let result = add(&mut spec, &devices, &cdi_edits, &pod_env, &node_path);
        result.map(|()| spec).map_err(|error| error.to_string())
    }

    #[test]
    fn the_pod_has_priority_over_plugins_and_cdi_over_the_pod() {
        let spec = added(edits()).unwrap();
        let env: Vec<String> = spec
            .env
            .iter()
            .map(|variable| format!("{}={}", variable.name, variable.value))
            .collect();
        assert_eq!(env, ["OF_IMAGE=plugin", "OF_POD=cdi"]);
        let destinations: Vec<_> = spec.mounts.iter().map(|mount| &mount.destination).collect();
        assert_eq!(destinations, [Path::new("/lib/gpu"), Path::new("/data")]);
        let MountSource::Bind { path, .. } = &spec.mounts[0].source else {
            panic!("{:?}", spec.mounts)
        };
        assert_eq!(path, Path::new("/data/kubelet/lib"));
        assert_eq!(spec.devices[0].access, "rw");
        assert_eq!(spec.annotations["other"], "x");
    }

    #[test]
    fn devices_are_named_by_plugins_annotations_and_claims() {
        let devices = ContainerDevices {
            edits: vec![edits()],
            claimed: vec![text("v/c=c")],
        };
        assert_eq!(devices.cdi_devices(), ["v/c=a", "v/c=b", "v/c=c"]);
    }

    #[test]
    fn a_change_that_is_not_valid_is_refused() {
        let change = |change: fn(&mut DeviceEdits)| {
            let mut edits = edits();
            change(&mut edits);
            added(edits).unwrap_err()
        };
        let refused = [
            change(|edits| edits.mounts[0].container_path = "lib".to_owned()),
            change(|edits| edits.mounts[0].host_path = "/a/../b".to_owned()),
            change(|edits| edits.device_nodes[0].container_path = String::new()),
        ];
        for error in refused {
            assert!(error.contains("no absolute path"), "{error}");
        }
        let error = change(|edits| {
            edits.env.insert("A=B".to_owned(), String::new());
        });
        assert!(error.contains("no variable"), "{error}");
    }
}
