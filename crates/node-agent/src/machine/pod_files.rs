use std::path::{Path, PathBuf};

use host_kernel::disk_usage::{self, DiskSpace};
use k8s_openapi::api::core::v1::Pod;
use pod_lifecycle::PodRecord;
use pod_lifecycle::resources::eviction::{PodUsage, Resource};
use pod_lifecycle::resources::local_storage::{self, DiskUsage};
use pod_lifecycle::spec;

use crate::paths::{PodDir, runtime_id};

/// The paths that a pod writes to: each container's writable layer, logs and termination message,
/// the volumes by name, and the files common to all containers.
pub struct PodPaths {
    files: Vec<PathBuf>,
    containers: Vec<(String, [PathBuf; 3])>,
    volumes: Vec<(String, PathBuf)>,
}

/// The sizes of a pod's files.
#[derive(Clone, Debug, Default)]
pub struct PodFiles {
    /// State files such as `/etc/hosts`.
    files: DiskSpace,
    /// Per container: the writable layer, and the logs with the termination message.
    containers: Vec<(String, [DiskSpace; 2])>,
    /// emptyDir volumes on disk by name.
    volumes: Vec<(String, DiskSpace)>,
}

impl PodPaths {
    /// The paths of the pod's started containers and its volumes.
    pub fn new(pod: &Pod, record: &PodRecord, dir: &PodDir) -> Self {
        let Some(pod_spec) = &pod.spec else {
            return Self {
                files: Vec::new(),
                containers: Vec::new(),
                volumes: Vec::new(),
            };
        };
        let containers = spec::containers(pod_spec).filter_map(|(_, container)| {
            let name = &container.name;
            let container_record = record.containers.get(name)?;
            let layer = dir.rootfs(&runtime_id(name, container_record.restart_count));
            let message = dir.termination_log(name, container_record.restart_count);
            Some((name.clone(), [layer, dir.logs(name), message]))
        });
        let volumes = local_storage::disk_volume_names(pod_spec)
            .map(|name| (name.to_owned(), dir.volume(name)));
        Self {
            // As in kubelet, the files that all containers share are counted; containers may write to all
            // three.
            files: vec![dir.hosts(), dir.hostname(), dir.resolv_conf()],
            containers: containers.collect(),
            volumes: volumes.collect(),
        }
    }

    /// Measures the sizes of the files. Blocks.
    pub fn measure(&self) -> PodFiles {
        let containers = self.containers.iter().map(|(name, dirs)| {
            let [layer, logs, message] = dirs.each_ref().map(|dir| disk_space(dir));
            (name.clone(), [layer, logs.plus(message)])
        });
        let files = self.files.iter().map(|file| disk_space(file));
        let volumes = self.volumes.iter();
        PodFiles {
            files: files.fold(DiskSpace::default(), DiskSpace::plus),
            containers: containers.collect(),
            volumes: volumes
                .map(|(name, dir)| (name.clone(), disk_space(dir)))
                .collect(),
        }
    }
}

impl PodFiles {
    /// The disk usage in bytes, for eviction decisions.
    pub fn bytes(&self) -> DiskUsage {
        let containers = self.containers.iter();
        let volumes = self.volumes.iter();
        DiskUsage {
            containers: containers
                .map(|(name, [layer, logs])| (name.clone(), amount(layer.plus(*logs).bytes)))
                .collect(),
            volumes: volumes
                .map(|(name, space)| (name.clone(), amount(space.bytes)))
                .collect(),
            files: amount(self.files.bytes),
        }
    }

    /// The writable layer and the logs of a container.
    pub fn of_container(&self, name: &str) -> Option<[DiskSpace; 2]> {
        let mut containers = self.containers.iter();
        let container = containers.find(|(container, _)| container == name);
        container.map(|(_, spaces)| *spaces)
    }

    /// The sum of all files, in bytes and inodes.
    pub fn total(&self) -> DiskSpace {
        let containers = self.containers.iter();
        let containers = containers.map(|(_, [layer, logs])| layer.plus(*logs));
        let volumes = self.volumes.iter().map(|(_, space)| *space);
        let each = containers.chain(volumes).chain([self.files]);
        each.fold(DiskSpace::default(), DiskSpace::plus)
    }

    /// The pod's emptyDir volumes on disk, by name.
    pub fn volumes(&self) -> &[(String, DiskSpace)] {
        &self.volumes
    }

    /// The usage that is compared when the node is short of the resource.
    pub fn usage(&self, resource: Resource) -> PodUsage {
        let compared = |space: &DiskSpace| match resource {
            Resource::Inodes => amount(space.files),
            Resource::EphemeralStorage | Resource::Memory => amount(space.bytes),
        };
        let containers = self.containers.iter();
        let containers: Vec<(String, i64)> = containers
            .map(|(name, [layer, logs])| (name.clone(), compared(&layer.plus(*logs))))
            .collect();
        PodUsage {
            total: compared(&self.total()),
            containers,
        }
    }
}

/// The size of a directory. Files that are removed meanwhile have no size.
fn disk_space(dir: &Path) -> DiskSpace {
    disk_usage::taken(dir).unwrap_or_default()
}

fn amount(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use json_tree::json;
    use pod_lifecycle::record::ContainerRecord;

    use super::*;

    #[test]
    fn layers_logs_and_volumes_are_the_pods_files() {
        // statefulset.md 12.14
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::at(temp.path().to_owned());
        let pod: Pod = json_tree::from_value(json!({"spec": {
            "containers": [{"name": "c"}, {"name": "never-ran"}],
            "volumes": [{"name": "v", "emptyDir": {}}]}}))
        .unwrap();
        let container = ContainerRecord {
            restart_count: 2,
            ..ContainerRecord::default()
        };
        let record = PodRecord {
            containers: [("c".to_owned(), container)].into(),
            ..PodRecord::default()
        };
        let empty = PodPaths::new(&pod, &record, &dir).measure();
        assert_eq!(empty.usage(Resource::EphemeralStorage).total, 0);
        for path in [dir.rootfs("c-2"), dir.logs("c"), dir.volume("v")] {
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("file"), vec![1; 1 << 20]).unwrap();
        }
        let files = PodPaths::new(&pod, &record, &dir).measure();
        let bytes = files.bytes();
        assert!(bytes.containers["c"] >= 2 << 20 && bytes.volumes["v"] >= 1 << 20);
        let usage = files.usage(Resource::EphemeralStorage);
        assert_eq!(usage.total, bytes.containers["c"] + bytes.volumes["v"]);
        let inodes = files.usage(Resource::Inodes);
        assert_eq!(
            (inodes.total, inodes.containers),
            (6, vec![("c".to_owned(), 4)])
        );
        // findings S22
        let before = files.bytes();
        for file in [dir.hosts(), dir.hostname(), dir.resolv_conf()] {
            fs::write(file, vec![1; 1 << 20]).unwrap();
        }
        fs::write(dir.termination_log("c", 2), vec![1; 1 << 20]).unwrap();
        let after = PodPaths::new(&pod, &record, &dir).measure();
        let bytes = after.bytes();
        assert!(bytes.files >= 3 << 20);
        assert!(bytes.containers["c"] >= before.containers["c"] + (1 << 20));
        let usage = after.usage(Resource::EphemeralStorage).total;
        let volumes = bytes.volumes["v"];
        assert_eq!(usage, bytes.files + bytes.containers["c"] + volumes);
        assert_eq!(after.total().bytes, usage.unsigned_abs());
    }
}
