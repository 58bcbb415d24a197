//! The messages of CSI 1.x that a node uses, with the types of this crate.

use std::collections::BTreeMap;

use service_protocols::csi_v1::{
    self as api,
    node_service_capability::{self, rpc},
    volume_capability::{self, access_mode::Mode},
    volume_usage::Unit,
};

/// The use of a volume by several nodes and pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMode {
    SingleNodeWriter,
    MultiNodeReaderOnly,
    MultiNodeMultiWriter,
    SingleNodeSingleWriter,
    SingleNodeMultiWriter,
}

/// The form in which a volume is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessType {
    Block,
    Mount {
        /// Empty if the driver chooses the file system.
        fs_type: String,
        /// Mount options.
        flags: Vec<String>,
        /// The group of all files, for drivers that set the group.
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

impl From<AccessMode> for Mode {
    fn from(mode: AccessMode) -> Self {
        match mode {
            AccessMode::SingleNodeWriter => Self::SingleNodeWriter,
            AccessMode::MultiNodeReaderOnly => Self::MultiNodeReaderOnly,
            AccessMode::MultiNodeMultiWriter => Self::MultiNodeMultiWriter,
            AccessMode::SingleNodeSingleWriter => Self::SingleNodeSingleWriter,
            AccessMode::SingleNodeMultiWriter => Self::SingleNodeMultiWriter,
        }
    }
}

impl From<&AccessType> for volume_capability::AccessType {
    fn from(access: &AccessType) -> Self {
        match access {
            AccessType::Block => Self::Block(volume_capability::BlockVolume {}),
            AccessType::Mount {
                fs_type,
                flags,
                group,
            } => Self::Mount(volume_capability::MountVolume {
                fs_type: fs_type.clone(),
                mount_flags: flags.clone(),
                volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
            }),
        }
    }
}

impl From<&VolumeCapability> for api::VolumeCapability {
    fn from(capability: &VolumeCapability) -> Self {
        let mode = Mode::from(capability.mode).into();
        Self {
            access_mode: Some(volume_capability::AccessMode { mode }),
            access_type: Some((&capability.access).into()),
        }
    }
}

/// `NodeStageVolumeRequest`: prepares a volume on a node, once for all pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageRequest {
    /// The id of the volume at the driver.
    pub volume_id: String,
    /// The metadata of the VolumeAttachment.
    pub publish_context: BTreeMap<String, String>,
    /// The directory in which the driver stages the volume.
    pub staging_path: String,
    pub capability: VolumeCapability,
    /// Credentials: the content of the Secret for staging.
    pub secrets: BTreeMap<String, String>,
    /// The attributes of the volume (`volumeAttributes`).
    pub volume_context: BTreeMap<String, String>,
}

impl From<&StageRequest> for api::NodeStageVolumeRequest {
    fn from(stage: &StageRequest) -> Self {
        Self {
            volume_id: stage.volume_id.clone(),
            publish_context: stage.publish_context.clone(),
            staging_target_path: stage.staging_path.clone(),
            volume_capability: Some((&stage.capability).into()),
            secrets: stage.secrets.clone(),
            volume_context: stage.volume_context.clone(),
        }
    }
}

/// `NodePublishVolumeRequest`: mounts a volume for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// The id of the volume at the driver.
    pub volume_id: String,
    /// The metadata of the VolumeAttachment.
    pub publish_context: BTreeMap<String, String>,
    /// The directory in which the volume is staged; `None` if the driver does not stage.
    pub staging_path: Option<String>,
    /// The path for the pod. The parent directory exists, and the driver creates the path.
    pub target_path: String,
    pub capability: VolumeCapability,
    pub read_only: bool,
    /// Credentials: the content of the Secret for publishing.
    pub secrets: BTreeMap<String, String>,
    /// The attributes of the volume, and of the pod if the driver requests them.
    pub volume_context: BTreeMap<String, String>,
}

impl From<&PublishRequest> for api::NodePublishVolumeRequest {
    fn from(publication: &PublishRequest) -> Self {
        Self {
            volume_id: publication.volume_id.clone(),
            publish_context: publication.publish_context.clone(),
            staging_target_path: publication.staging_path.clone().unwrap_or_default(),
            target_path: publication.target_path.clone(),
            volume_capability: Some((&publication.capability).into()),
            readonly: publication.read_only,
            secrets: publication.secrets.clone(),
            volume_context: publication.volume_context.clone(),
        }
    }
}

/// `NodeExpandVolumeRequest`: grows the file system of a volume on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpandRequest {
    /// The id of the volume at the driver.
    pub volume_id: String,
    /// The path at which the volume is published.
    pub volume_path: String,
    /// The directory in which the volume is staged; `None` if the driver does not stage.
    pub staging_path: Option<String>,
    pub required_bytes: i64,
    pub capability: VolumeCapability,
    /// Credentials: the content of the Secret for expansion.
    pub secrets: BTreeMap<String, String>,
}

impl From<&ExpandRequest> for api::NodeExpandVolumeRequest {
    fn from(expansion: &ExpandRequest) -> Self {
        Self {
            volume_id: expansion.volume_id.clone(),
            volume_path: expansion.volume_path.clone(),
            capacity_range: Some(api::CapacityRange {
                required_bytes: expansion.required_bytes,
                limit_bytes: 0,
            }),
            staging_target_path: expansion.staging_path.clone().unwrap_or_default(),
            volume_capability: Some((&expansion.capability).into()),
            secrets: expansion.secrets.clone(),
        }
    }
}

/// `GetPluginInfoResponse`: the identity of a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginInfo {
    /// The driver's name, for instance `hostpath.csi.k8s.io`.
    pub name: String,
    /// The version that the vendor gave the driver.
    pub vendor_version: String,
}

impl From<api::GetPluginInfoResponse> for PluginInfo {
    fn from(info: api::GetPluginInfoResponse) -> Self {
        Self {
            name: info.name,
            vendor_version: info.vendor_version,
        }
    }
}

/// `NodeGetInfoResponse`: the id and the topology of the node at the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The id of the node at the driver.
    pub node_id: String,
    /// Maximum number of volumes on the node; `None` for no limit.
    pub volumes_max: Option<i32>,
    /// The topology segments of the node.
    pub topology: BTreeMap<String, String>,
}

impl From<api::NodeGetInfoResponse> for NodeInfo {
    fn from(info: api::NodeGetInfoResponse) -> Self {
        // The number in a CSINode has 32 bits; kubelet writes the largest number in place of a larger limit.
        let volumes_max = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
        let topology = info.accessible_topology.unwrap_or_default();
        Self {
            node_id: info.node_id,
            volumes_max: Some(volumes_max).filter(|count| *count > 0),
            topology: topology.segments,
        }
    }
}

/// `NodeGetCapabilitiesResponse`: the optional calls of a driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeCapabilities {
    /// The driver stages volumes before it publishes them.
    pub stage: bool,
    /// The driver reports the usage of volumes.
    pub stats: bool,
    /// The driver grows file systems and devices on the node (`EXPAND_VOLUME`).
    pub expand: bool,
    /// The driver distinguishes one writing pod from several writing pods on a node.
    pub single_node_multi_writer: bool,
    /// The driver sets the group of all files.
    pub mount_group: bool,
    /// The driver reports whether a volume is damaged.
    pub condition: bool,
}

impl From<api::NodeGetCapabilitiesResponse> for NodeCapabilities {
    fn from(response: api::NodeGetCapabilitiesResponse) -> Self {
        let mut supported = Self::default();
        for capability in response.capabilities {
            if let Some(node_service_capability::Type::Rpc(rpc)) = capability.r#type {
                supported.add(rpc.r#type());
            }
        }
        supported
    }
}

impl NodeCapabilities {
    fn add(&mut self, call: rpc::Type) {
        match call {
            rpc::Type::StageUnstageVolume => self.stage = true,
            rpc::Type::GetVolumeStats => self.stats = true,
            rpc::Type::ExpandVolume => self.expand = true,
            rpc::Type::VolumeCondition => self.condition = true,
            rpc::Type::SingleNodeMultiWriter => self.single_node_multi_writer = true,
            rpc::Type::VolumeMountGroup => self.mount_group = true,
            rpc::Type::Unknown => {}
        }
    }
}

/// Capacity and usage of a volume, in bytes or in inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub total: u64,
    pub used: u64,
    /// The free amount for users without privileges.
    pub available: u64,
}

/// `NodeGetVolumeStatsResponse`; `None` for values that the driver does not report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Usage in bytes.
    pub bytes: Option<Usage>,
    /// Usage in inodes.
    pub inodes: Option<Usage>,
    /// Whether the volume is damaged.
    pub is_abnormal: Option<bool>,
}

impl From<api::NodeGetVolumeStatsResponse> for VolumeStats {
    fn from(response: api::NodeGetVolumeStatsResponse) -> Self {
        let mut stats = Self {
            is_abnormal: response.volume_condition.map(|state| state.abnormal),
            ..Self::default()
        };
        for usage in response.usage {
            match usage.unit() {
                Unit::Bytes => stats.bytes = Some((&usage).into()),
                Unit::Inodes => stats.inodes = Some((&usage).into()),
                Unit::Unknown => {}
            }
        }
        stats
    }
}

impl From<&api::VolumeUsage> for Usage {
    fn from(usage: &api::VolumeUsage) -> Self {
        // The specification forbids negative amounts.
        let amount = |number: i64| u64::try_from(number).unwrap_or(0);
        Self {
            total: amount(usage.total),
            used: amount(usage.used),
            available: amount(usage.available),
        }
    }
}
