//! Volumes that are ready to be mounted into containers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A volume that is ready to be mounted into containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// The path of the volume on the node.
    pub path: PathBuf,
    /// The kind of the block volume; `None` for a file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockVolume>,
    /// Whether no container may write to it.
    pub read_only: bool,
    /// Whether the files of the volume have a project quota.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_project: bool,
    /// Whether the files are on a remote machine: while that machine does not respond, each access waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub remote: bool,
    /// The layers of an image volume, the top layer last. If there are layers, `path` is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<PathBuf>,
}

/// The kind of file behind a block volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockVolume {
    Device,
    /// An image file, which is attached to a loop device.
    Image,
}

/// The prepared volumes of a pod, by name.
pub type PreparedVolumes = BTreeMap<String, Prepared>;
