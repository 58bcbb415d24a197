//! The content of a CDI specification.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::names::{is_device_name, is_kind};

/// The versions whose fields are all known.
const VERSIONS: [&str; 10] = [
    "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0", "1.2.0",
];

/// A file with devices of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdiSpec {
    pub cdi_version: String,
    /// `vendor/class`.
    pub kind: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub devices: Vec<CdiDevice>,
    /// The edits for a container with any device of the file.
    #[serde(default)]
    pub container_edits: CdiEdits,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CdiDevice {
    pub name: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub container_edits: CdiEdits,
}

/// The changes of a container that has a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CdiEdits {
    /// `NAME=value`.
    pub env: Vec<String>,
    pub device_nodes: Vec<CdiDeviceNode>,
    pub mounts: Vec<CdiMount>,
    /// Groups of the container's user.
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
    pub hooks: Vec<CdiHook>,
    pub intel_rdt: Option<Unsupported>,
    pub net_devices: Vec<Unsupported>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CdiDeviceNode {
    /// The path in the container.
    pub path: String,
    /// The path on the node; empty if both paths are equal.
    pub host_path: String,
    /// `b`, `c` or `u`; empty for the type of the node's file.
    #[serde(rename = "type")]
    pub node_type: String,
    pub major: i64,
    pub minor: i64,
    /// Permission bits; `None` for those of the node's file.
    pub file_mode: Option<u32>,
    /// Any of `r`, `w`, `m`; empty for all.
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CdiMount {
    pub host_path: String,
    pub container_path: String,
    pub options: Vec<String>,
    #[serde(rename = "type")]
    pub mount_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CdiHook {
    pub hook_name: String,
    pub path: String,
}

/// A part whose presence alone matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Unsupported {}

impl CdiSpec {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The text is not a specification of a known version.
    pub fn parse(text: &str, is_json: bool) -> Result<Self, String> {
        let spec: Self = match is_json {
            true => serde_json::from_str(text).map_err(|error| error.to_string())?,
            false => serde_saphyr::from_str(text).map_err(|error| error.to_string())?,
        };
        let version = spec.cdi_version.strip_prefix('v');
        let version = version.unwrap_or(&spec.cdi_version);
        if !VERSIONS.contains(&version) {
            return Err(format!("the version {version:?} is unknown"));
        }
        if !is_kind(&spec.kind) {
            return Err(format!("{:?} is no kind of devices", spec.kind));
        }
        let mut names = spec.devices.iter().map(|device| &device.name);
        if let Some(name) = names.find(|name| !is_device_name(name)) {
            return Err(format!("{name:?} is no name of a device"));
        }
        Ok(spec)
    }
}

impl CdiEdits {
    /// Adds the edits of another part of the specification.
    pub fn extend(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.device_nodes.extend_from_slice(&other.device_nodes);
        self.mounts.extend_from_slice(&other.mounts);
        self.additional_gids
            .extend_from_slice(&other.additional_gids);
        self.hooks.extend_from_slice(&other.hooks);
        self.net_devices.extend_from_slice(&other.net_devices);
        self.intel_rdt = self.intel_rdt.clone().or_else(|| other.intel_rdt.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
devices:
- name: "0"
  containerEdits:
    env: [GPU=0]
    deviceNodes:
    - path: /dev/gpu0
      hostPath: /dev/vendor/gpu0
      type: c
      major: 195
      fileMode: 432
      permissions: rw
      uid: 5
containerEdits:
  additionalGids: [44]
  mounts:
  - {hostPath: /usr/lib/gpu, containerPath: /usr/lib/gpu, options: [ro, nosuid]}
"#;

    #[test]
    fn both_forms_of_a_file_are_read() {
        let yaml = CdiSpec::parse(YAML, false).unwrap();
        let node = &yaml.devices[0].container_edits.device_nodes[0];
        assert_eq!(
            (node.path.as_str(), node.major, node.file_mode),
            ("/dev/gpu0", 195, Some(0o660))
        );
        assert_eq!(yaml.container_edits.additional_gids, [44]);
        let json = r#"{"cdiVersion": "v1.0.0", "kind": "v/c", "devices": [{"name": "a",
            "containerEdits": {"hooks": [{"hookName": "prestart", "path": "/x", "args": ["x"]}],
            "intelRdt": {"closID": "c"}}}]}"#;
        let json = CdiSpec::parse(json, true).unwrap();
        assert!(json.devices[0].container_edits.intel_rdt.is_some());
        assert_eq!(json.devices[0].container_edits.hooks[0].path, "/x");
    }

    #[test]
    fn a_file_that_is_not_understood_whole_is_refused() {
        for (text, words) in [
            (r#"{"cdiVersion": "9.0.0", "kind": "v/c"}"#, "unknown"),
            (r#"{"cdiVersion": "1.0.0", "kind": "v"}"#, "no kind"),
            (
                r#"{"cdiVersion": "1.0.0", "kind": "v/c", "devices": [{"name": "a/b"}]}"#,
                "no name",
            ),
            (
                r#"{"cdiVersion": "1.0.0", "kind": "v/c", "containerEdits": {"rootfs": "x"}}"#,
                "rootfs",
            ),
            ("[", "EOF"),
        ] {
            let error = CdiSpec::parse(text, true).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
