//! The measurement of a volume, from the summary of its node (`/stats/summary` of the kubelet).

use jiff::Timestamp;
use json_tree::Value;
use k8s_openapi::api::core::v1::PersistentVolume;
use object_model::ObjectKey;
use resource_kinds::storage::Driver;
use resource_kinds::storage::nfs_class::is_nfs_directory;

/// A used part of a total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    pub total: u64,
}

impl Usage {
    /// In percent, rounded down; `None` without a total.
    pub fn percent(self) -> Option<u64> {
        let percent = u128::from(self.used) * 100;
        let percent = percent.checked_div(u128::from(self.total))?;
        Some(u64::try_from(percent).unwrap_or(u64::MAX))
    }
}

/// The measurement of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    pub at: Timestamp,
    /// Used bytes.
    pub used: u64,
    /// The size of the volume's own file system in bytes; `None` if it has none.
    pub file_system: Option<u64>,
    /// The inodes of the volume's own file system.
    pub inodes: Option<Usage>,
    /// Free bytes on the disk that the volume shares with others.
    pub room: Option<u64>,
}

/// The measurement of a claim's volume; `None` if the summary has no figures of the volume alone.
pub fn of_claim(
    claim: &ObjectKey,
    volume: &PersistentVolume,
    summary: &Value,
) -> Option<Measurement> {
    // Directories of one NFS export share its file system.
    if is_nfs_directory(volume) {
        return None;
    }
    let pods = summary["pods"].as_array()?.iter();
    let mut volumes = pods.flat_map(|pod| pod["volume"].as_array().into_iter().flatten());
    let figures = volumes.find(|volume| {
        let of = &volume["pvcRef"];
        of["name"] == *claim.name && of["namespace"] == *claim.namespace
    })?;
    let at = figures["time"].as_str()?.parse().ok()?;
    if Driver::of_volume(volume).is_some() {
        let path = &volume.spec.as_ref()?.local.as_ref()?.path;
        let mut local = summary["localVolumes"].as_array()?.iter();
        let local = local.find(|local| local["path"] == *path)?;
        return Some(Measurement {
            at,
            used: local["usedBytes"].as_u64()?,
            file_system: None,
            inodes: None,
            room: local["availableBytes"].as_u64(),
        });
    }
    // The figures of a directory on the node's disk are those of the disk.
    let capacity = &figures["capacityBytes"];
    if *capacity == summary["node"]["fs"]["capacityBytes"] {
        return None;
    }
    let inodes = figures["inodesUsed"]
        .as_u64()
        .zip(figures["inodes"].as_u64());
    Some(Measurement {
        at,
        used: figures["usedBytes"].as_u64()?,
        file_system: capacity.as_u64(),
        inodes: inodes.map(|(used, total)| Usage { used, total }),
        room: None,
    })
}
