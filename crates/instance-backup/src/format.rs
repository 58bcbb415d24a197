//! The entries of a backup, and its header.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volume_storage::Class;

pub const HEADER: &str = "backup.json";
/// The entry with the objects.
pub const OBJECTS: &str = "objects";
/// The directory with the files from which the settings of the server were read.
pub const CONFIGURATION: &str = "configuration";
/// The directory with the volumes, by class.
pub const VOLUMES: &str = "volumes";
/// The directory with the volume snapshots, by class.
pub const SNAPSHOTS: &str = "snapshots";
/// The newest format that is read.
pub const FORMAT: u32 = 2;
/// The format of a backup without volume snapshots, which earlier versions read too.
pub const FORMAT_WITHOUT_SNAPSHOTS: u32 = 1;

/// The contents of the first entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    pub format: u32,
    pub made_by: String,
    pub made_at: Timestamp,
    pub data_dir: PathBuf,
    pub host: String,
    pub revision: u64,
    pub objects: u64,
    /// The maximum size of each volume of the pool, in bytes.
    pub pool_volumes: BTreeMap<String, u64>,
    /// Volumes of the class local that the backup contains, and those that it leaves out.
    pub local_volumes: Vec<String>,
    pub left_out: Vec<String>,
    /// Volumes of the class local that pods may have written while they were copied.
    #[serde(default)]
    pub live_volumes: Vec<String>,
    /// Volume snapshots that the backup contains, and those that it leaves out.
    #[serde(default)]
    pub snapshots: Vec<SnapshotHeader>,
    #[serde(default)]
    pub snapshots_left_out: Vec<String>,
    pub configured_by: Vec<PathBuf>,
}

/// A volume snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotHeader {
    pub class: Class,
    pub name: String,
    /// Used bytes; `None` if the file system does not report them.
    pub bytes: Option<u64>,
}

/// The path of a volume in the backup.
pub fn volume_path(class: Class, volume: &str) -> PathBuf {
    [VOLUMES, class.name(), volume].iter().collect()
}

/// The path of a volume snapshot in the backup.
pub fn snapshot_path(class: Class, snapshot: &str) -> PathBuf {
    [SNAPSHOTS, class.name(), snapshot].iter().collect()
}

/// The path of a configuration file in the backup; with a number, because two files may have the same name.
pub fn configuration(number: usize, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Path::new(CONFIGURATION).join(format!("{number}-{name}"))
}
