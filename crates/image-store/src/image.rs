//! What is known of an image on this node.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An image whose layers are unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The configuration's digest (`sha256:…`): the image's id.
    pub id: String,
    /// The complete reference it is known under (`docker.io/library/nginx:1.27`).
    pub reference: String,
    /// The manifests it was found by, each `repository@sha256:…`; empty for imports without
    /// a name.
    pub digests: Vec<String>,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Unpacked layers, topmost last.
    pub layers: Vec<PathBuf>,
    /// Bytes of its unpacked layers.
    pub size: u64,
}

/// The part of an image's configuration that says how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The command's beginning.
    #[serde(rename = "Entrypoint", deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Arguments, or the whole command when there is no entry point.
    #[serde(rename = "Cmd", deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Environment, each `NAME=value`.
    #[serde(rename = "Env", deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Directory to start in.
    #[serde(rename = "WorkingDir", deserialize_with = "or_default")]
    pub working_dir: String,
    /// User to run as: empty, `uid`, `name`, `uid:gid` or `name:group`.
    #[serde(rename = "User", deserialize_with = "or_default")]
    pub user: String,
    /// Signal that ends it in good order (`SIGQUIT`, `3`).
    #[serde(rename = "StopSignal", deserialize_with = "or_default")]
    pub stop_signal: String,
    /// Directories it wants to be volumes.
    #[serde(rename = "Volumes", deserialize_with = "or_default")]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Ports it says it listens on (`80/tcp`).
    #[serde(rename = "ExposedPorts", deserialize_with = "or_default")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Labels.
    #[serde(rename = "Labels", deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// Build tools write `null` for what is not set.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
