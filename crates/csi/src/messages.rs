//! The messages of CSI 1.x that a node uses: requests as bytes, answers as plain data.
//!
//! Field numbers: `csi.proto` of the specification, and `pluginregistration/v1/api.proto` of
//! `k8s.io/kubelet`. Unknown fields are skipped.

use std::collections::BTreeMap;

use object_model::protobuf::{WireError, Writer, bytes, fields, number};

use crate::wire::{entry, put_map, put_text, text};

/// The use of a volume by several nodes and pods. The numbers are the specification's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    SingleNodeWriter = 1,
    MultiNodeReaderOnly = 3,
    MultiNodeMultiWriter = 5,
    SingleNodeSingleWriter = 6,
    SingleNodeMultiWriter = 7,
}

/// The form in which a volume is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessType {
    /// As a device.
    Block,
    /// As a file system.
    Mount {
        /// The file system; the driver's choice if empty.
        fs_type: String,
        /// Mount options.
        flags: Vec<String>,
        /// The group of all files, for drivers that set it themselves.
        group: Option<i64>,
    },
}

/// A use of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeCapability {
    /// As a file system or as a block device.
    pub access: AccessType,
    /// The number of writers and nodes.
    pub mode: AccessMode,
}

impl VolumeCapability {
    fn write(&self, out: &mut Writer) {
        match &self.access {
            AccessType::Block => out.message(bytes(1), |_| ()),
            AccessType::Mount {
                fs_type,
                flags,
                group,
            } => out.message(bytes(2), |out| {
                put_text(out, 1, fs_type);
                for flag in flags {
                    out.bytes(bytes(2), flag.as_bytes());
                }
                if let Some(group) = group {
                    put_text(out, 3, &group.to_string());
                }
            }),
        }
        let mode = self.mode as u64;
        out.message(bytes(3), |out| out.varint(number(1), mode));
    }
}

/// `NodeStageVolumeRequest`: a volume is made ready on a node, once for all pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageRequest {
    /// The driver's name of the volume.
    pub volume_id: String,
    /// The result of the attachment.
    pub publish_context: BTreeMap<String, String>,
    /// The directory in which the driver makes it ready.
    pub staging_path: String,
    /// The access that the volume is staged for.
    pub capability: VolumeCapability,
    /// Credentials: the content of the Secret for staging.
    pub secrets: BTreeMap<String, String>,
    /// The attributes that the driver gave to the volume.
    pub volume_context: BTreeMap<String, String>,
}

impl StageRequest {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        put_text(&mut out, 1, &self.volume_id);
        put_map(&mut out, 2, &self.publish_context);
        put_text(&mut out, 3, &self.staging_path);
        out.message(bytes(4), |out| self.capability.write(out));
        put_map(&mut out, 5, &self.secrets);
        put_map(&mut out, 6, &self.volume_context);
        out.0
    }
}

/// `NodePublishVolumeRequest`: a volume is mounted for one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The driver's name of the volume.
    pub volume_id: String,
    /// The result of the attachment.
    pub publish_context: BTreeMap<String, String>,
    /// The directory in which it was staged, if the driver stages.
    pub staging_path: Option<String>,
    /// The path for the pod. Its parent exists, and the driver makes it.
    pub target_path: String,
    /// The access that the volume is published for.
    pub capability: VolumeCapability,
    /// Whether nothing may be written.
    pub read_only: bool,
    /// Credentials: the content of the Secret for publishing.
    pub secrets: BTreeMap<String, String>,
    /// The attributes of the volume, and of the pod where the driver asks for them.
    pub volume_context: BTreeMap<String, String>,
}

impl PublishRequest {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        put_text(&mut out, 1, &self.volume_id);
        put_map(&mut out, 2, &self.publish_context);
        put_text(
            &mut out,
            3,
            self.staging_path.as_deref().unwrap_or_default(),
        );
        put_text(&mut out, 4, &self.target_path);
        out.message(bytes(5), |out| self.capability.write(out));
        if self.read_only {
            out.varint(number(6), 1);
        }
        put_map(&mut out, 7, &self.secrets);
        put_map(&mut out, 8, &self.volume_context);
        out.0
    }
}

/// `NodeExpandVolumeRequest`: the node's part of a volume's growth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpandRequest {
    /// The driver's name of the volume.
    pub volume_id: String,
    /// The path at which the volume was published.
    pub volume_path: String,
    /// The directory in which it was staged, if the driver stages.
    pub staging_path: Option<String>,
    /// The wanted capacity in bytes.
    pub required_bytes: i64,
    /// The access that the volume is published for.
    pub capability: VolumeCapability,
    /// Credentials: the content of the Secret for expansion.
    pub secrets: BTreeMap<String, String>,
}

impl ExpandRequest {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        put_text(&mut out, 1, &self.volume_id);
        put_text(&mut out, 2, &self.volume_path);
        let required = self.required_bytes.cast_unsigned();
        out.message(bytes(3), |out| out.varint(number(1), required));
        put_text(
            &mut out,
            4,
            self.staging_path.as_deref().unwrap_or_default(),
        );
        out.message(bytes(5), |out| self.capability.write(out));
        put_map(&mut out, 6, &self.secrets);
        out.0
    }
}

/// Encodes `NodeUnstageVolumeRequest` or `NodeUnpublishVolumeRequest`: both have the same fields.
pub(crate) fn undo(volume_id: &str, path: &str) -> Vec<u8> {
    let mut out = Writer::default();
    put_text(&mut out, 1, volume_id);
    put_text(&mut out, 2, path);
    out.0
}

/// Encodes `RegistrationStatus`: registered, or the error.
pub(crate) fn registration_status(error: Option<&str>) -> Vec<u8> {
    let mut out = Writer::default();
    match error {
        None => out.varint(number(1), 1),
        Some(error) => put_text(&mut out, 2, error),
    }
    out.0
}

/// `GetPluginInfoResponse`: the identity of a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginInfo {
    /// The driver's name, for instance `hostpath.csi.k8s.io`.
    pub name: String,
    /// The version that the vendor gave the driver.
    pub vendor_version: String,
}

impl PluginInfo {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut info = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => info.name = text(wire)?,
                2 => info.vendor_version = text(wire)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(info)
    }
}

/// `PluginInfo` of the registration socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegisteredPlugin {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) versions: Vec<String>,
}

impl RegisteredPlugin {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut info = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => info.kind = text(wire)?,
                2 => info.name = text(wire)?,
                3 => info.endpoint = text(wire)?,
                4 => info.versions.push(text(wire)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(info)
    }
}

/// `NodeGetInfoResponse`: the node as the driver names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The driver's name of the node.
    pub node_id: String,
    /// Most volumes on it; `None` for no limit.
    pub volumes_max: Option<i32>,
    /// The place of the node.
    pub topology: BTreeMap<String, String>,
}

impl NodeInfo {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut info = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => info.node_id = text(wire)?,
                2 => {
                    // CSINode has 32 bits; kubelet writes the largest number for more.
                    let count = wire.varint()?.cast_signed();
                    let count = i32::try_from(count).unwrap_or(i32::MAX);
                    info.volumes_max = Some(count).filter(|count| *count > 0);
                }
                3 => fields(wire.bytes()?, |field, wire| {
                    if field == 1 {
                        let (key, value) = entry(wire)?;
                        info.topology.insert(key, value);
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(info)
    }
}

/// `NodeGetCapabilitiesResponse`: the optional calls of a driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCapabilities {
    /// Volumes are staged before they are published.
    pub stage: bool,
    /// It knows how full a volume is.
    pub stats: bool,
    /// It grows file systems and devices on the node (`EXPAND_VOLUME`).
    pub expand: bool,
    /// It distinguishes one writing pod from several on one node.
    pub single_node_multi_writer: bool,
    /// It gives all files to a group itself.
    pub mount_group: bool,
    /// It knows whether a volume is damaged.
    pub condition: bool,
}

impl NodeCapabilities {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut known = Self::default();
        fields(message, |field, wire| {
            if field != 1 {
                return Ok(());
            }
            fields(wire.bytes()?, |field, wire| {
                if field != 1 {
                    return Ok(());
                }
                fields(wire.bytes()?, |field, wire| {
                    if field == 1 {
                        known.add(wire.varint()?);
                    }
                    Ok(())
                })
            })
        })?;
        Ok(known)
    }

    fn add(&mut self, kind: u64) {
        match kind {
            1 => self.stage = true,
            2 => self.stats = true,
            3 => self.expand = true,
            4 => self.condition = true,
            5 => self.single_node_multi_writer = true,
            6 => self.mount_group = true,
            _ => {}
        }
    }
}

/// Encodes `NodeGetVolumeStatsRequest`.
pub(crate) fn stats_of(volume_id: &str, path: &str, staging_path: Option<&str>) -> Vec<u8> {
    let mut out = Writer::default();
    put_text(&mut out, 1, volume_id);
    put_text(&mut out, 2, path);
    put_text(&mut out, 3, staging_path.unwrap_or_default());
    out.0
}

/// Capacity and usage of a volume, in bytes or in inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The capacity.
    pub total: u64,
    /// The used amount.
    pub used: u64,
    /// The amount that is free for users.
    pub available: u64,
}

/// `NodeGetVolumeStatsResponse`; `None` for figures that the driver does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Usage in bytes.
    pub bytes: Option<Usage>,
    /// Usage in inodes.
    pub inodes: Option<Usage>,
    /// Whether the volume is damaged.
    pub is_abnormal: Option<bool>,
}

impl VolumeStats {
    pub(crate) fn read(message: &[u8]) -> Result<Self, WireError> {
        let mut stats = Self::default();
        fields(message, |field, wire| {
            match field {
                1 => stats.add(wire.bytes()?)?,
                2 => {
                    let is_abnormal = stats.is_abnormal.insert(false);
                    fields(wire.bytes()?, |field, wire| {
                        if field == 1 {
                            *is_abnormal = wire.varint()? != 0;
                        }
                        Ok(())
                    })?;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(stats)
    }

    fn add(&mut self, message: &[u8]) -> Result<(), WireError> {
        let (mut usage, mut unit) = (Usage::default(), 0);
        fields(message, |field, wire| {
            // The specification forbids negative amounts.
            let amount = |number: u64| u64::try_from(number.cast_signed()).unwrap_or(0);
            match field {
                1 => usage.available = amount(wire.varint()?),
                2 => usage.total = amount(wire.varint()?),
                3 => usage.used = amount(wire.varint()?),
                4 => unit = wire.varint()?,
                _ => {}
            }
            Ok(())
        })?;
        match unit {
            1 => self.bytes = Some(usage),
            2 => self.inodes = Some(usage),
            _ => {}
        }
        Ok(())
    }
}

/// Whether an answer is a message, whatever its fields.
pub(crate) fn check(answer: &[u8]) -> Result<(), WireError> {
    fields(answer, |_, _| Ok(()))
}
