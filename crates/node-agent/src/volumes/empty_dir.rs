//! emptyDir volumes: on disk, in memory, or in huge pages (statefulset.md §12.14).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use host_kernel::Interrupted;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use object_model::quantity::Quantity;
use pod_lifecycle::spec::containers;

use super::mount_points::mounts_below;
use super::ownership;
use crate::resource_limits::{HUGE_PAGES, pod_resources};

/// The medium of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// The disk of the data directory. The size limit is checked at an interval, and not enforced.
    Disk,
    /// Memory that counts as memory of the pod.
    Memory {
        /// Size in bytes; 0 for the kernel's default limit.
        bytes: i64,
    },
    HugePages {
        /// Size of a huge page in bytes.
        page_bytes: i64,
    },
}

/// The reason why an emptyDir volume is not created.
#[derive(Debug, thiserror::Error)]
pub enum EmptyDirError {
    #[error("medium HugePages: no container asks for huge pages")]
    NoHugePages,
    #[error("medium HugePages: containers ask for several sizes; use HugePages-<size>")]
    SeveralPageSizes,
    #[error("unknown storage medium \"{0}\"")]
    UnknownMedium(String),
    #[error("\"{0}\" is no size of huge pages")]
    PageSize(String),
    #[error("make the directory: {0}")]
    Create(io::Error),
    #[error(transparent)]
    Mounts(io::Error),
    #[error("mount {file_system}: {errno}")]
    Mount {
        file_system: &'static str,
        errno: Errno,
    },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The medium of a pod's volume, on a node with `node_memory` bytes of memory.
///
/// # Errors
/// The medium is unknown, or the size of the huge pages is ambiguous.
pub fn medium(
    source: &EmptyDirVolumeSource,
    spec: &PodSpec,
    node_memory: i64,
) -> Result<Medium, EmptyDirError> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let size_limit = source.size_limit.as_ref();
            let size_limit = size_limit.and_then(|limit| limit.0.parse::<Quantity>().ok());
            // The smallest limit is used: of the volume, of the pod, and of the node's memory.
            let limits = [
                Some(node_memory),
                pod_resources(spec).memory_bytes,
                size_limit.map(|limit| limit.value()),
            ];
            let smallest_limit = limits
                .into_iter()
                .flatten()
                .filter(|bytes| *bytes > 0)
                .min();
            let bytes = smallest_limit.unwrap_or(0);
            Ok(Medium::Memory { bytes })
        }
        "HugePages" => {
            let mut sizes = huge_page_sizes(spec).into_iter();
            match (sizes.next(), sizes.next()) {
                (Some(size), None) => page(&size),
                (None, _) => Err(EmptyDirError::NoHugePages),
                (Some(_), Some(_)) => Err(EmptyDirError::SeveralPageSizes),
            }
        }
        medium => match medium.strip_prefix("HugePages-") {
            Some(size) => page(size),
            None => Err(EmptyDirError::UnknownMedium(medium.to_owned())),
        },
    }
}

fn page(size: &str) -> Result<Medium, EmptyDirError> {
    match size.parse::<Quantity>() {
        Ok(size) if size.value() > 0 => Ok(Medium::HugePages {
            page_bytes: size.value(),
        }),
        _ => Err(EmptyDirError::PageSize(size.to_owned())),
    }
}

/// The sizes of huge pages that a pod's containers request.
fn huge_page_sizes(spec: &PodSpec) -> BTreeSet<String> {
    let resources = containers(spec).filter_map(|(_, container)| container.resources.as_ref());
    let lists = resources.flat_map(|resources| [&resources.requests, &resources.limits]);
    let names = lists.flatten().flat_map(|list| list.keys());
    names
        .filter_map(|name| name.strip_prefix(HUGE_PAGES))
        .map(str::to_owned)
        .collect()
}

/// Creates the volume, unless it exists.
pub fn create(path: &Path, medium: Medium, gid: Option<u32>) -> Result<(), EmptyDirError> {
    fs::create_dir_all(path).map_err(EmptyDirError::Create)?;
    match medium {
        Medium::Disk => {}
        Medium::Memory { bytes } => {
            let size = (bytes > 0).then(|| format!("size={bytes}"));
            mount_once(path, "tmpfs", size.as_deref())?;
        }
        Medium::HugePages { page_bytes } => {
            mount_once(path, "hugetlbfs", Some(&format!("pagesize={page_bytes}")))?;
        }
    }
    // In memory, only the owner of a file may remove it, as in other temporary file systems and with
    // kubelet.
    let sticky = fs::metadata(path).map_err(EmptyDirError::Create)?.mode() & 0o1000;
    let permissions = fs::Permissions::from_mode(0o777 | sticky);
    fs::set_permissions(path, permissions).map_err(EmptyDirError::Create)?;
    match gid {
        Some(gid) => ownership::give_to_group(path, gid, true).map_err(EmptyDirError::Create),
        None => Ok(()),
    }
}

fn mount_once(
    path: &Path,
    file_system: &'static str,
    options: Option<&str>,
) -> Result<(), EmptyDirError> {
    let mounted = mounts_below(path).map_err(EmptyDirError::Mounts)?;
    if !mounted.is_empty() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let result = mount(Some(file_system), path, Some(file_system), flags, options);
    result.map_err(|errno| EmptyDirError::Mount { file_system, errno })
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::release::release;
    use super::*;
    use crate::paths::PodDir;

    fn parse(
        source: json_tree::Value,
        resources: json_tree::Value,
    ) -> Result<Medium, EmptyDirError> {
        let source = json_tree::from_value(source).unwrap();
        let spec = json!({"containers": [{"name": "c", "resources": resources}]});
        medium(&source, &json_tree::from_value(spec).unwrap(), 1 << 30)
    }

    #[test]
    fn memory_is_no_more_than_pod_and_node_have() {
        // statefulset.md 12.14
        let memory = |limit: Option<&str>| json!({"medium": "Memory", "sizeLimit": limit});
        let no_limits = || json!({});
        let memory_limit = || json!({"limits": {"memory": "64Mi"}});
        for (source, resources, bytes) in [
            (memory(None), no_limits(), 1 << 30),
            (memory(Some("1Mi")), no_limits(), 1 << 20),
            (memory(None), memory_limit(), 64 << 20),
            (memory(Some("1Gi")), memory_limit(), 64 << 20),
        ] {
            assert_eq!(parse(source, resources).unwrap(), Medium::Memory { bytes });
        }
        let limited_disk = parse(json!({"sizeLimit": "1Mi"}), no_limits());
        assert_eq!(limited_disk.unwrap(), Medium::Disk);
    }

    #[test]
    fn the_size_of_huge_pages_is_the_volumes_or_the_only_requested_size() {
        // statefulset.md 12.14
        let explicit_size = json!({"medium": "HugePages-1Gi"});
        let expected = Medium::HugePages {
            page_bytes: 1 << 30,
        };
        assert_eq!(parse(explicit_size, json!({})).unwrap(), expected);
        let default_size = || json!({"medium": "HugePages"});
        let single_size = json!({"limits": {"hugepages-2Mi": "4Mi"}});
        let expected = Medium::HugePages {
            page_bytes: 2 << 20,
        };
        assert_eq!(parse(default_size(), single_size).unwrap(), expected);
        let several_sizes = json!({"limits": {"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"}});
        assert!(matches!(
            parse(default_size(), several_sizes),
            Err(EmptyDirError::SeveralPageSizes)
        ));
        assert!(parse(default_size(), json!({})).is_err());
        assert!(parse(json!({"medium": "Tape"}), json!({})).is_err());
    }

    #[test]
    fn memory_and_huge_pages_are_mounted_and_released() {
        // statefulset.md 12.14; needs root, as the agent does
        let temp = tempfile::tempdir().unwrap();
        let dir = PodDir::at(temp.path().to_path_buf());
        let path = dir.volume("shm");
        for _ in 0..2 {
            create(&path, Medium::Memory { bytes: 1 << 20 }, None).unwrap();
        }
        assert_eq!(mounts_below(temp.path()).unwrap().len(), 1);
        let bits = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(bits(&path), 0o1777);
        fs::write(path.join("x"), vec![0; 1 << 19]).unwrap();
        assert!(fs::write(path.join("y"), vec![0; 1 << 20]).is_err());
        if fs::read_to_string("/proc/filesystems")
            .unwrap()
            .contains("hugetlbfs")
        {
            let pages = Medium::HugePages {
                page_bytes: 2 << 20,
            };
            create(&dir.volume("huge"), pages, Some(7)).unwrap();
            assert_eq!(mounts_below(temp.path()).unwrap().len(), 2);
        }
        let disk = dir.volume("disk");
        create(&disk, Medium::Disk, None).unwrap();
        assert_eq!(bits(&disk), 0o777);
        fs::write(disk.join("x"), "kept").unwrap();
        release(&dir, &BTreeSet::from(["disk".to_owned()])).unwrap();
        assert!(mounts_below(temp.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.volumes()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(disk.join("x")).unwrap(), "kept");
        release(&dir, &BTreeSet::new()).unwrap();
        assert!(!dir.volumes().exists());
    }
}
