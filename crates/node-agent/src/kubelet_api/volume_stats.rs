//! Statistics of the volumes of claims and CSI drivers: in `/stats/summary`, and in `/metrics` under
//! kubelet's names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use csi_client::VolumeStats;
use host_kernel::call_with_timeout_blocking;
use host_kernel::disk_usage::{VolumeUsage, VolumeUsages};
use json_tree::{Value, json};
use process_telemetry::prometheus::{Metric, Page};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_references::claim_of;

use crate::csi_volumes::CsiVolumes;
use crate::machine::machine_info;
use crate::pods::pod_manager::PodView;

/// Maximum wait for the server of a remote volume.
const REMOTE_MAX: Duration = Duration::from_secs(1);

/// This metric uses the summary's field with a corresponding meaning.
const ABNORMAL: Metric = Metric::gauge(
    "kubelet_volume_stats_health_status_abnormal",
    "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, \
     0 indicates volume is healthy",
);

/// The metrics, each with the name of its field in the summary.
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

/// The usage of the file system that contains a directory; null if it cannot be read.
pub fn file_system(path: &Path) -> Value {
    machine_info::disk(path).map_or(Value::Null, |disk| {
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

/// The usage of a volume on a remote machine; null while the remote machine does not respond.
fn remote_file_system(path: PathBuf) -> Value {
    let key = format!("figures {}", path.display());
    call_with_timeout_blocking(key, REMOTE_MAX, move || file_system(&path)).unwrap_or_default()
}

/// The volumes of the node's built-in storage classes, by path.
pub fn local_volumes(usages: &VolumeUsages) -> Vec<Value> {
    let volume_summary = |(path, usage): (&PathBuf, &VolumeUsage)| {
        let mut volume = json!({"path": path, "usedBytes": usage.used});
        if let Some(limit) = usage.limit {
            volume["limitBytes"] = json!(limit);
        }
        if let Some(disk) = machine_info::disk(path) {
            volume["availableBytes"] = json!(disk.free);
        }
        volume
    };
    usages.iter().map(volume_summary).collect()
}

/// Replaces the values of a file system by the values of a volume that may use only a part of the file
/// system.
fn apply_limit(figures: &mut Value, usage: VolumeUsage) {
    let file_system_bytes = figures["capacityBytes"].as_u64();
    let Some(limit) = usage.limit.filter(|limit| Some(*limit) < file_system_bytes) else {
        return;
    };
    let remaining_bytes = limit.saturating_sub(usage.used);
    let available_bytes = figures["availableBytes"]
        .as_u64()
        .unwrap_or(remaining_bytes);
    figures["capacityBytes"] = json!(limit);
    figures["usedBytes"] = json!(usage.used);
    figures["availableBytes"] = json!(remaining_bytes.min(available_bytes));
}

/// The statistics of a CSI volume; null for values that the driver does not report.
fn driver_statistics(stats: &VolumeStats) -> Value {
    let mut figures = json!({});
    if let Some(bytes) = stats.bytes {
        figures["availableBytes"] = json!(bytes.available);
        figures["capacityBytes"] = json!(bytes.total);
        figures["usedBytes"] = json!(bytes.used);
    }
    if let Some(inodes) = stats.inodes {
        figures["inodes"] = json!(inodes.total);
        figures["inodesFree"] = json!(inodes.available);
        figures["inodesUsed"] = json!(inodes.used);
    }
    if let Some(is_abnormal) = stats.is_abnormal {
        figures["volumeHealthStats"] = json!({ "abnormal": is_abnormal });
    }
    figures
}

/// The mounted volumes of a pod's claims and CSI drivers. The values of CSI volumes are from their drivers,
/// the values of other volumes from their quotas or file systems. Blocks.
pub fn volumes(view: &PodView, usages: &VolumeUsages, csi: &CsiVolumes, now: &str) -> Vec<Value> {
    let spec = view.pod.spec.as_ref();
    let volumes = spec
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    let Ok(pod) = view.pod.metadata.object_name() else {
        return Vec::new();
    };
    let statistics = volumes.iter().filter_map(|volume| {
        let claim = claim_of(pod, volume).map(|(name, _)| name);
        if claim.is_none() && volume.csi.is_none() {
            return None;
        }
        let prepared = view.volumes.get(&volume.name)?;
        let mut figures = if csi.directory().contains(&prepared.path) {
            driver_statistics(&csi.stats().get(&prepared.path)?)
        } else if prepared.block.is_some() {
            return None;
        } else if prepared.remote {
            remote_file_system(prepared.path.clone())
        } else {
            file_system(&prepared.path)
        };
        if figures.is_null() {
            return None;
        }
        if let Some(usage) = usages.get(&prepared.path) {
            apply_limit(&mut figures, *usage);
        }
        figures["time"] = json!(now);
        figures["name"] = json!(volume.name);
        if let Some(claim) = claim {
            figures["pvcRef"] = json!({"name": claim, "namespace": view.pod.metadata.namespace});
        }
        Some(figures)
    });
    statistics.collect()
}

/// Adds the statistics of volumes to a page. A claim is added once, because several pods may use it.
pub fn write(page: &mut Page, volumes: &[Value]) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let claim_key = |volume: &Value| {
        let claim = &volume["pvcRef"];
        (text(&claim["namespace"]), text(&claim["name"]))
    };
    let claim_volumes = volumes.iter().filter(|volume| volume["pvcRef"].is_object());
    let by_claim: BTreeMap<(String, String), &Value> = claim_volumes
        .map(|volume| (claim_key(volume), volume))
        .collect();
    let mut add = |metric, figure: &dyn Fn(&Value) -> Option<u64>| {
        page.describe(metric);
        for ((namespace, claim), figures) in &by_claim {
            if let Some(value) = figure(figures) {
                let labels = [
                    ("namespace", &**namespace),
                    ("persistentvolumeclaim", &**claim),
                ];
                page.add(metric, &labels, value);
            }
        }
    };
    for (metric, field) in METRICS {
        add(metric, &|figures| figures[field].as_u64());
    }
    let is_abnormal = |figures: &Value| figures["volumeHealthStats"]["abnormal"].as_bool();
    add(ABNORMAL, &|figures| is_abnormal(figures).map(u64::from));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limited_volume_is_not_as_large_as_its_file_system() {
        let usage = |limit| VolumeUsage { used: 40, limit };
        let limited = |limit| {
            let mut figures =
                json!({"capacityBytes": 1000, "usedBytes": 700, "availableBytes": 300});
            super::apply_limit(&mut figures, usage(limit));
            let figure = |name: &str| figures[name].as_u64().unwrap();
            ["capacityBytes", "usedBytes", "availableBytes"].map(figure)
        };
        assert_eq!(limited(Some(100)), [100, 40, 60]);
        assert_eq!(
            limited(Some(900)),
            [900, 40, 300],
            "the file system is full first"
        );
        assert_eq!(limited(Some(30)), [30, 40, 0], "the limit was lowered");
        assert_eq!(limited(None), [1000, 700, 300]);
        // xfs and ext4 report the quota of a project as the size of the file system.
        assert_eq!(limited(Some(1000)), [1000, 700, 300]);
        let usages = VolumeUsages::from([
            ("/v/a".into(), usage(Some(100))),
            ("/v/b".into(), usage(None)),
        ]);
        let expected = [
            json!({"path": "/v/a", "usedBytes": 40, "limitBytes": 100}),
            json!({"path": "/v/b", "usedBytes": 40}),
        ];
        assert_eq!(local_volumes(&usages), expected);
    }

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
            let matching = text.lines().filter(|line| line.starts_with(start));
            matching.map(str::to_owned).collect::<Vec<_>>()
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

    #[test]
    fn values_without_a_report_of_the_driver_are_absent() {
        let usage = csi_client::Usage {
            total: 9,
            used: 4,
            available: 5,
        };
        let lines = |stats: VolumeStats| {
            let mut volume = driver_statistics(&stats);
            volume["pvcRef"] = json!({"namespace": "shop", "name": "a"});
            let mut page = Page::default();
            write(
                &mut page,
                &[volume, json!({"name": "inline", "usedBytes": 7})],
            );
            let text = page.text();
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(VolumeStats::default()), [""; 0]);
        let bytes = lines(VolumeStats {
            bytes: Some(usage),
            ..VolumeStats::default()
        });
        assert_eq!(bytes.len(), 3);
        let health = lines(VolumeStats {
            is_abnormal: Some(true),
            ..VolumeStats::default()
        });
        assert_eq!(
            health,
            [
                "kubelet_volume_stats_health_status_abnormal{namespace=\"shop\",\
                persistentvolumeclaim=\"a\"} 1"
            ]
        );
    }
}
