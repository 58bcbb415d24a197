//! The devices of a pod, as a file in the directory of the pod: the file exists while the pod has devices of plugins.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use host_kernel::durable_file::{Durability, replace};
use serde::{Deserialize, Serialize};

use crate::paths::PodDir;

/// The devices of a pod by container and resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDevices {
    pub containers: BTreeMap<String, BTreeMap<String, AllocatedDevices>>,
}

/// The devices of one resource in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllocatedDevices {
    pub ids: Vec<String>,
    /// Whether the plugin is called before each start of the container.
    pub pre_start_required: bool,
    pub edits: DeviceEdits,
}

/// The changes of a container that a plugin requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceEdits {
    pub env: BTreeMap<String, String>,
    pub mounts: Vec<DeviceMount>,
    pub device_nodes: Vec<DeviceNode>,
    pub annotations: BTreeMap<String, String>,
    /// Full names of CDI devices.
    pub cdi_devices: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceMount {
    pub container_path: String,
    pub host_path: String,
    pub read_only: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    pub container_path: String,
    pub host_path: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

impl PodDevices {
    /// The devices of a container's resource.
    pub fn of(&self, container: &str, resource: &str) -> Option<&AllocatedDevices> {
        self.containers.get(container)?.get(resource)
    }

    /// The ids of a resource's devices in all containers.
    pub fn ids<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a String> {
        let containers = self.containers.values();
        let allocated = containers.filter_map(move |resources| resources.get(resource));
        allocated.flat_map(|devices| &devices.ids)
    }

    /// Reads the file of a pod; `None` if the pod has no devices.
    ///
    /// # Errors
    /// The file cannot be read. It is not taken for absent, because its devices would be allocated twice.
    pub fn read(dir: &PodDir) -> io::Result<Option<Self>> {
        let path = dir.devices();
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let devices = serde_json::from_slice(&bytes).map_err(|error| {
            let path = path.display();
            io::Error::other(format!(
                "the devices of a pod in {path} are malformed: {error}"
            ))
        });
        devices.map(Some)
    }

    /// Writes the file of a pod durably.
    ///
    /// # Errors
    /// An error of the disk.
    pub fn write(&self, dir: &PodDir) -> io::Result<()> {
        fs::create_dir_all(dir.state())?;
        let text = serde_json::to_vec(self)?;
        replace(&dir.devices(), &text, 0o600, Durability::Name)
    }
}

/// Removes the file of a pod.
///
/// # Errors
/// An error of the disk.
pub fn remove(dir: &PodDir) -> io::Result<()> {
    match fs::remove_file(dir.devices()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_of_a_pod_are_read_as_they_were_written() {
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::at(temp.path().join("pod"));
        assert_eq!(PodDevices::read(&dir).unwrap(), None);
        let devices = AllocatedDevices {
            ids: vec!["a".to_owned(), "b".to_owned()],
            pre_start_required: true,
            edits: DeviceEdits {
                cdi_devices: vec!["v/c=a".to_owned()],
                ..DeviceEdits::default()
            },
        };
        let resources = BTreeMap::from([("v.com/gpu".to_owned(), devices.clone())]);
        let pod = PodDevices {
            containers: BTreeMap::from([("c".to_owned(), resources)]),
        };
        pod.write(&dir).unwrap();
        assert_eq!(PodDevices::read(&dir).unwrap().as_ref(), Some(&pod));
        assert_eq!(pod.of("c", "v.com/gpu"), Some(&devices));
        assert_eq!(pod.ids("v.com/gpu").count(), 2);
        assert_eq!(pod.ids("v.com/other").count(), 0);
        fs::write(dir.devices(), "{").unwrap();
        assert!(PodDevices::read(&dir).is_err());
        for _ in 0..2 {
            remove(&dir).unwrap();
        }
        assert_eq!(PodDevices::read(&dir).unwrap(), None);
    }
}
