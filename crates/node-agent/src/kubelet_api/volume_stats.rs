//! Figures of the volumes of claims: in `/stats/summary`, and in `/metrics` under kubelet's names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container_runtime::apart;
use reconcile::prometheus::{Metric, Page};
use serde_json::{Value, json};

use crate::machine::machine_info;
use crate::pods::pod_manager::PodView;

/// Until the server of a volume has answered.
const REMOTE_MAX: Duration = Duration::from_secs(1);

/// The metrics, each with its field of the summary.
const METRICS: [(Metric, &str); 6] = [
    (
        Metric::gauge(
            "kubelet_volume_stats_capacity_bytes",
            "Capacity in bytes of the volume",
        ),
        "capacityBytes",
    ),
    (
        Metric::gauge(
            "kubelet_volume_stats_available_bytes",
            "Number of available bytes in the volume",
        ),
        "availableBytes",
    ),
    (
        Metric::gauge(
            "kubelet_volume_stats_used_bytes",
            "Number of used bytes in the volume",
        ),
        "usedBytes",
    ),
    (
        Metric::gauge(
            "kubelet_volume_stats_inodes",
            "Maximum number of inodes in the volume",
        ),
        "inodes",
    ),
    (
        Metric::gauge(
            "kubelet_volume_stats_inodes_free",
            "Number of free inodes in the volume",
        ),
        "inodesFree",
    ),
    (
        Metric::gauge(
            "kubelet_volume_stats_inodes_used",
            "Number of used inodes in the volume",
        ),
        "inodesUsed",
    ),
];

/// The file system that holds a directory; null if it cannot be looked at.
pub fn file_system(place: &Path) -> Value {
    machine_info::disk(place).map_or(Value::Null, |disk| {
        json!({
            "availableBytes": disk.free,
            "capacityBytes": disk.total,
            "usedBytes": disk.total - disk.free,
            "inodes": disk.files,
            "inodesFree": disk.files_free,
            "inodesUsed": disk.files.saturating_sub(disk.files_free),
        })
    })
}

/// The figures of a volume on another machine; null while that does not answer.
fn remote_file_system(place: PathBuf) -> Value {
    let key = format!("figures {}", place.display());
    apart(key, REMOTE_MAX, move || file_system(&place)).unwrap_or_default()
}

/// The volumes of a pod's claims that are mounted, by the file systems that they are on. Blocks.
pub fn claims(view: &PodView, now: &str) -> Vec<Value> {
    let spec = view.pod.spec.as_ref();
    let volumes = spec
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let pod = view.pod.metadata.name.as_deref().unwrap_or_default();
    let each = volumes.iter().filter_map(|volume| {
        let named = volume.persistent_volume_claim.as_ref();
        let named = named.map(|source| source.claim_name.clone());
        let made = || {
            volume
                .ephemeral
                .as_ref()
                .map(|_| format!("{pod}-{}", volume.name))
        };
        let claim = named.or_else(made)?;
        let prepared = view.volumes.get(&volume.name)?;
        if prepared.block.is_some() {
            return None;
        }
        let mut figures = match prepared.remote {
            true => remote_file_system(prepared.path.clone()),
            false => file_system(&prepared.path),
        };
        if figures.is_null() {
            return None;
        }
        figures["time"] = json!(now);
        figures["name"] = json!(volume.name);
        figures["pvcRef"] = json!({"name": claim, "namespace": view.pod.metadata.namespace});
        Some(figures)
    });
    each.collect()
}

/// Adds the figures of volumes to a page, those of a claim once: several pods may use it.
pub fn write(page: &mut Page, volumes: &[Value]) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of_claim = |volume: &Value| {
        let claim = &volume["pvcRef"];
        (text(&claim["namespace"]), text(&claim["name"]))
    };
    let by_claim: BTreeMap<(String, String), &Value> = volumes
        .iter()
        .map(|volume| (of_claim(volume), volume))
        .collect();
    for (metric, field) in METRICS {
        page.describe(metric);
        for ((namespace, claim), figures) in &by_claim {
            if let Some(value) = figures[field].as_u64() {
                let labels = [
                    ("namespace", &**namespace),
                    ("persistentvolumeclaim", &**claim),
                ];
                page.add(metric, &labels, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_of_several_pods_is_counted_once() {
        let volume = |claim: &str| {
            json!({"pvcRef": {"namespace": "shop", "name": claim}, "capacityBytes": 100,
                "usedBytes": 40, "availableBytes": 60, "inodes": 9, "inodesFree": 5,
                "inodesUsed": 4})
        };
        let mut page = Page::default();
        write(&mut page, &[volume("a"), volume("b"), volume("a")]);
        let text = page.text();
        let lines = |start: &str| {
            let found = text.lines().filter(|line| line.starts_with(start));
            found.map(str::to_owned).collect::<Vec<_>>()
        };
        let line = |claim: &str| {
            format!(
                "kubelet_volume_stats_used_bytes{{namespace=\"shop\",\
                 persistentvolumeclaim=\"{claim}\"}} 40"
            )
        };
        assert_eq!(
            lines("kubelet_volume_stats_used_bytes"),
            [line("a"), line("b")]
        );
        assert_eq!(lines("kubelet_volume_stats_").len(), 12);
    }
}
