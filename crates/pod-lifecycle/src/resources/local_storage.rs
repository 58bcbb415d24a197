//! Limits of local ephemeral storage (statefulset.md §12.14).
//!
//! No quota limits the writes of a container. The usage of a container is measured periodically, and a pod
//! above its limit is evicted, as in kubelet.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};
use object_model::quantity::Quantity;

use crate::record::PodFailure;
use crate::spec::containers;

const RESOURCE: &str = "ephemeral-storage";

/// Grace period of an evicted pod, in seconds.
const GRACE_SECONDS: i64 = 1;

/// A pod's disk usage in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Writable layers and logs, by container.
    pub containers: BTreeMap<String, i64>,
    /// Sizes of emptyDir volumes on disk, by name.
    pub volumes: BTreeMap<String, i64>,
    /// Files of the node that containers may write, such as `/etc/hosts`.
    pub files: i64,
}

/// Whether the pod has any limit, so that its usage must be measured.
pub fn is_limited(spec: &PodSpec) -> bool {
    containers(spec).any(|(_, container)| limit(container).is_some())
        || disk_volumes(spec).any(|volume| size_limit(volume).is_some())
}

pub fn disk_volume_names(spec: &PodSpec) -> impl Iterator<Item = &str> {
    disk_volumes(spec).map(|volume| volume.name.as_str())
}

/// The failure of the pod; `None` if it exceeds no limit.
pub fn overrun(spec: &PodSpec, usage: &DiskUsage) -> Option<PodFailure> {
    let message = volume_overrun(spec, usage)
        .or_else(|| pod_overrun(spec, usage))
        .or_else(|| container_overrun(spec, usage))?;
    Some(PodFailure {
        reason: "Evicted".to_owned(),
        message,
        grace_seconds: Some(GRACE_SECONDS),
        disrupts: true,
    })
}

fn volume_overrun(spec: &PodSpec, usage: &DiskUsage) -> Option<String> {
    disk_volumes(spec).find_map(|volume| {
        let limit = size_limit(volume)?;
        let used = *usage.volumes.get(&volume.name)?;
        (used > limit.value()).then(|| {
            let name = &volume.name;
            format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". ")
        })
    })
}

/// The sum of the containers' limits is the limit of the pod, which also counts volumes.
fn pod_overrun(spec: &PodSpec, usage: &DiskUsage) -> Option<String> {
    let limits = containers(spec).filter_map(|(_, container)| limit(container));
    let limit = limits.reduce(|sum, more| sum.plus(&more))?;
    let used: i64 = usage
        .containers
        .values()
        .chain(usage.volumes.values())
        .chain([&usage.files])
        .fold(0, |sum, more| sum.saturating_add(*more));
    (used > limit.value()).then(|| {
        cov_mark::hit!(findings_s22);
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
    })
}

fn container_overrun(spec: &PodSpec, usage: &DiskUsage) -> Option<String> {
    containers(spec).find_map(|(_, container)| {
        let limit = limit(container)?;
        let used = *usage.containers.get(&container.name)?;
        (used > limit.value()).then(|| {
            let name = &container.name;
            format!("Container {name} exceeded its local ephemeral storage limit \"{limit}\". ")
        })
    })
}

fn limit(container: &Container) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get(RESOURCE)?.0.parse().ok()
}

fn disk_volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten().filter(|volume| {
        let medium = volume
            .empty_dir
            .as_ref()
            .map(|source| source.medium.as_deref());
        medium.is_some_and(|medium| medium.unwrap_or_default().is_empty())
    })
}

fn size_limit(volume: &Volume) -> Option<Quantity> {
    let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
    limit
        .0
        .parse()
        .ok()
        .filter(|limit: &Quantity| !limit.is_zero())
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn spec() -> PodSpec {
        let limited = |name: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": "1Mi"}}});
        json_tree::from_value(json!({
            "containers": [limited("a"), limited("b"), {"name": "free"}],
            "volumes": [
                {"name": "small", "emptyDir": {"sizeLimit": "512Ki"}},
                {"name": "any", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}}]}))
        .unwrap()
    }

    fn overrun_message(containers: &[(&str, i64)], volumes: &[(&str, i64)]) -> Option<String> {
        let owned = |list: &[(&str, i64)]| {
            let each = list
                .iter()
                .map(|(name, kib)| ((*name).to_owned(), kib << 10));
            each.collect()
        };
        let usage = DiskUsage {
            containers: owned(containers),
            volumes: owned(volumes),
            files: 0,
        };
        overrun(&spec(), &usage).map(|failure| failure.message)
    }

    #[test]
    fn volumes_containers_and_the_pod_have_limits() {
        // statefulset.md 12.14
        assert_eq!(
            overrun_message(&[("a", 1024), ("b", 512)], &[("small", 512)]),
            None
        );
        assert_eq!(
            overrun_message(&[], &[("small", 513)]).as_deref(),
            Some("Usage of EmptyDir volume \"small\" exceeds the limit \"512Ki\". ")
        );
        assert_eq!(
            overrun_message(&[("a", 1025)], &[]).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"1Mi\". ")
        );
        assert_eq!(
            overrun_message(&[("a", 1024), ("free", 512)], &[("any", 513)]).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ")
        );
    }

    /// findings S22: state files, such as the hosts file, count for the pod's limit.
    #[test]
    fn files_of_the_node_count_against_the_limit_of_the_pod() {
        cov_mark::check!(findings_s22);
        let with = |files: i64| {
            let usage = DiskUsage {
                containers: [("a".to_owned(), 1 << 20)].into(),
                volumes: [].into(),
                files,
            };
            overrun(&spec(), &usage)
        };
        assert!(with(1 << 20).is_none());
        let over = with((1 << 20) + 1).unwrap();
        assert!(over.message.starts_with("Pod ephemeral"), "{over:?}");
    }

    #[test]
    fn what_has_no_limit_is_not_looked_at() {
        assert!(is_limited(&spec()));
        let names: Vec<&str> = disk_volume_names(&spec()).map(|_| "").collect();
        assert_eq!(names.len(), 2);
        let free = json!({"containers": [{"name": "c"}], "volumes": [
            {"name": "v", "emptyDir": {}},
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}}]});
        assert!(!is_limited(&json_tree::from_value(free).unwrap()));
    }
}
