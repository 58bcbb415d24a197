//! The requests to a driver, built from a volume's specification. Pure.

use std::collections::BTreeMap;

use csi_client::{
    AccessMode, AccessType, ExpandRequest, NodeCapabilities, PublishRequest, StageRequest,
    VolumeCapability,
};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};
use k8s_openapi::api::storage::v1::CSIDriver;
use object_model::{IncompleteMetadata, ObjectKey, Uid};
use resource_kinds::MetadataIdentity;
use sha2::{Digest, Sha256};

use super::directory::{KubeletPath, hex};
use super::error::CsiVolumeError;

/// The driver of a CSI volume, and the volume's id at the driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeId {
    /// Name of the CSI driver.
    pub driver: String,
    /// The volume's id at the driver.
    pub handle: String,
}

impl VolumeId {
    /// The name of the volume in the status of Nodes.
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// The name of the VolumeAttachment for a node.
    pub fn attachment(&self, node: &str) -> String {
        let text = format!("{}{}{node}", self.handle, self.driver);
        format!("csi-{}", hex(&Sha256::digest(text)))
    }
}

/// A volume of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiVolume {
    /// The driver, and the volume's id at the driver.
    pub id: VolumeId,
    /// The name of the PersistentVolume, or the name of the inline volume in its pod.
    pub name: String,
    /// Whether the volume has the lifetime of the pod.
    pub is_ephemeral: bool,
    /// Whether the volume is a block device.
    pub is_block: bool,
    pub read_only: bool,
    fs_type: String,
    mount_options: Vec<String>,
    modes: Vec<String>,
    attributes: BTreeMap<String, String>,
    /// The Secret for staging (`nodeStageSecretRef`).
    pub stage_secret: Option<ObjectKey>,
    /// The Secret for publishing (`nodePublishSecretRef`).
    pub publish_secret: Option<ObjectKey>,
    /// The Secret for expansion (`nodeExpandSecretRef`).
    pub expand_secret: Option<ObjectKey>,
}

impl CsiVolume {
    /// The volume for a PersistentVolume; `None` if no CSI driver manages it.
    pub fn of_volume(
        volume: &PersistentVolume,
        read_only: bool,
    ) -> Result<Option<Self>, IncompleteMetadata> {
        let spec = volume.spec.as_ref();
        let Some((spec, source)) = spec.and_then(|spec| Some((spec, spec.csi.as_ref()?))) else {
            return Ok(None);
        };
        let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let reference = reference.as_ref()?;
            let (namespace, name) = (reference.namespace.as_deref()?, reference.name.as_deref()?);
            Some(ObjectKey::new(namespace, name))
        };
        Ok(Some(Self {
            id: VolumeId {
                driver: source.driver.clone(),
                handle: source.volume_handle.clone(),
            },
            name: volume.metadata.object_name()?.to_owned(),
            is_ephemeral: false,
            is_block: spec.volume_mode.as_deref() == Some("Block"),
            read_only: read_only || source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            modes: spec.access_modes.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            stage_secret: secret(&source.node_stage_secret_ref),
            publish_secret: secret(&source.node_publish_secret_ref),
            expand_secret: secret(&source.node_expand_secret_ref),
        }))
    }

    /// The inline volume of a pod; `None` if no CSI driver manages it. The handle is computed as in
    /// kubelet.
    pub fn inline(pod: &Pod, volume: &Volume) -> Result<Option<Self>, IncompleteMetadata> {
        let Some(source) = &volume.csi else {
            return Ok(None);
        };
        let uid = pod.metadata.object_uid()?;
        let hash = Sha256::digest(format!("{uid}{}", volume.name));
        let namespace = pod.metadata.object_namespace()?;
        let secret = source.node_publish_secret_ref.as_ref();
        Ok(Some(Self {
            id: VolumeId {
                driver: source.driver.clone(),
                handle: format!("csi-{}", hex(&hash)),
            },
            name: volume.name.clone(),
            is_ephemeral: true,
            is_block: false,
            read_only: source.read_only == Some(true),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            mount_options: Vec::new(),
            modes: Vec::new(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            stage_secret: None,
            publish_secret: secret.map(|secret| ObjectKey::new(namespace, &*secret.name)),
            expand_secret: None,
        }))
    }

    /// Checks that the CSIDriver object permits the volume's life cycle: persistent or inline.
    ///
    /// # Errors
    /// [`CsiVolumeError::LifeCycle`].
    pub fn check_life_cycle(&self, driver: Option<&CSIDriver>) -> Result<(), CsiVolumeError> {
        let modes = driver.and_then(|driver| driver.spec.volume_lifecycle_modes.as_deref());
        let modes = modes.filter(|modes| !modes.is_empty());
        let supported = match modes {
            None => vec!["Persistent".to_owned()],
            Some(modes) => modes.to_vec(),
        };
        let mode = if self.is_ephemeral {
            "Ephemeral"
        } else {
            "Persistent"
        };
        match supported.iter().any(|supported| supported == mode) {
            true => Ok(()),
            false => Err(CsiVolumeError::LifeCycle {
                mode,
                driver: self.id.driver.clone(),
                supported,
            }),
        }
    }

    /// Whether the volume must be attached to the node first.
    pub fn needs_attachment(&self, driver: Option<&CSIDriver>) -> bool {
        let required = driver.and_then(|driver| driver.spec.attach_required);
        !self.is_ephemeral && required.unwrap_or(true)
    }

    /// Whether only one pod may use the volume. If the volume has several access modes, the mode for the
    /// pod is unknown, so the result is `false`.
    pub fn is_for_one_pod(&self) -> bool {
        self.modes == ["ReadWriteOncePod"]
    }

    /// Whether the driver stages the volume. Inline volumes are only published.
    pub fn is_staged(&self, capabilities: NodeCapabilities) -> bool {
        capabilities.stage && !self.is_ephemeral
    }

    /// Which component changes the group of the files.
    pub fn group(
        &self,
        driver: Option<&CSIDriver>,
        capabilities: NodeCapabilities,
        group: Option<u32>,
    ) -> GroupUse {
        let Some(group) = group.filter(|_| !self.is_block) else {
            return GroupUse::None;
        };
        if capabilities.mount_group {
            return GroupUse::Driver(group);
        }
        let policy = driver.and_then(|driver| driver.spec.fs_group_policy.as_deref());
        let has_single_writer = self
            .modes
            .iter()
            .any(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod");
        let node_changes = match policy {
            Some("None") => false,
            Some("File") => true,
            _ => !self.fs_type.is_empty() && (self.is_ephemeral || has_single_writer),
        };
        match node_changes && !self.read_only {
            true => GroupUse::Node(group),
            false => GroupUse::None,
        }
    }

    fn capability(&self, capabilities: NodeCapabilities, group: GroupUse) -> VolumeCapability {
        let first_mode = self.modes.first().map(String::as_str);
        let distinguishes_writers = capabilities.single_node_multi_writer;
        let mode = match (first_mode, distinguishes_writers) {
            (Some("ReadOnlyMany"), _) => AccessMode::MultiNodeReaderOnly,
            (Some("ReadWriteMany"), _) => AccessMode::MultiNodeMultiWriter,
            (Some("ReadWriteOncePod"), true) => AccessMode::SingleNodeSingleWriter,
            (_, true) => AccessMode::SingleNodeMultiWriter,
            (_, false) => AccessMode::SingleNodeWriter,
        };
        let access = match self.is_block {
            true => AccessType::Block,
            false => AccessType::Mount {
                fs_type: self.fs_type.clone(),
                flags: self.mount_options.clone(),
                group: match group {
                    GroupUse::Driver(group) => Some(group.into()),
                    GroupUse::None | GroupUse::Node(_) => None,
                },
            },
        };
        VolumeCapability { access, mode }
    }

    pub fn staging_path(&self) -> KubeletPath {
        match self.is_block {
            true => KubeletPath::block_stage(&self.name),
            false => KubeletPath::stage(&self.id.driver, &self.id.handle),
        }
    }

    /// The target path for a pod, below the kubelet's directory.
    pub fn target_path(&self, pod: &Uid) -> KubeletPath {
        match self.is_block {
            true => KubeletPath::block_publication(pod.as_str(), &self.name),
            false => KubeletPath::publication(pod.as_str(), &self.name),
        }
    }

    pub fn stage(
        &self,
        capabilities: NodeCapabilities,
        group: GroupUse,
        data: &RequestData,
    ) -> StageRequest {
        StageRequest {
            volume_id: self.id.handle.clone(),
            publish_context: data.publish_context.clone(),
            staging_path: self.staging_path().for_driver(),
            capability: self.capability(capabilities, group),
            secrets: data.stage_secrets.clone(),
            volume_context: self.attributes.clone(),
        }
    }

    /// The request to expand the volume at its path for a pod.
    pub fn expansion(
        &self,
        capabilities: NodeCapabilities,
        pod: &Uid,
        required_bytes: i64,
        secrets: BTreeMap<String, String>,
    ) -> ExpandRequest {
        ExpandRequest {
            volume_id: self.id.handle.clone(),
            volume_path: self.target_path(pod).for_driver(),
            staging_path: self
                .is_staged(capabilities)
                .then(|| self.staging_path().for_driver()),
            required_bytes,
            capability: self.capability(capabilities, GroupUse::None),
            secrets,
        }
    }

    pub fn publication(
        &self,
        capabilities: NodeCapabilities,
        group: GroupUse,
        data: &RequestData,
        pod: &Pod,
        driver: Option<&CSIDriver>,
    ) -> Result<PublishRequest, IncompleteMetadata> {
        let (key, uid) = (pod.metadata.object_key()?, pod.metadata.object_uid()?);
        let mut context = self.attributes.clone();
        if driver.is_some_and(|driver| driver.spec.pod_info_on_mount == Some(true)) {
            let account = pod.spec.as_ref();
            let account = account.and_then(|spec| spec.service_account_name.clone());
            let facts = [
                ("pod.name", key.name.to_string()),
                ("pod.namespace", key.namespace.to_string()),
                ("pod.uid", uid.to_string()),
                ("serviceAccount.name", account.unwrap_or_default()),
                ("ephemeral", self.is_ephemeral.to_string()),
            ];
            let facts = facts.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value));
            context.extend(facts);
        }
        if let Some(tokens) = &data.tokens {
            let key = "csi.storage.k8s.io/serviceAccount.tokens";
            context.insert(key.to_owned(), tokens.clone());
        }
        Ok(PublishRequest {
            volume_id: self.id.handle.clone(),
            publish_context: data.publish_context.clone(),
            staging_path: self
                .is_staged(capabilities)
                .then(|| self.staging_path().for_driver()),
            target_path: self.target_path(&uid).for_driver(),
            capability: self.capability(capabilities, group),
            read_only: self.read_only,
            secrets: data.publish_secrets.clone(),
            volume_context: context,
        })
    }
}

/// The component that changes the group of a volume's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupUse {
    /// The files keep their group.
    None,
    Driver(u32),
    /// The node changes the group after the volume is published.
    Node(u32),
}

/// Data from the API for requests to a driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestData {
    /// The metadata of the VolumeAttachment.
    pub publish_context: BTreeMap<String, String>,
    /// The content of the Secret for staging.
    pub stage_secrets: BTreeMap<String, String>,
    /// The content of the Secret for publishing.
    pub publish_secrets: BTreeMap<String, String>,
    /// Tokens of the pod's service account, as JSON by audience.
    pub tokens: Option<String>,
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};

    use super::*;

    fn volume(modes: Value, source: Value) -> CsiVolume {
        let mut csi = json!({"driver": "d.example.com", "volumeHandle": "h", "fsType": "ext4"});
        csi.as_object_mut()
            .unwrap()
            .extend(source.as_object().unwrap().clone());
        let volume =
            json!({"metadata": {"name": "pv"}, "spec": {"accessModes": modes, "csi": csi}});
        let volume = CsiVolume::of_volume(&json_tree::from_value(volume).unwrap(), false);
        volume.unwrap().unwrap()
    }

    fn driver(spec: Value) -> CSIDriver {
        json_tree::from_value(json!({"metadata": {"name": "d.example.com"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_group_is_set_by_the_policy_of_the_driver() {
        let (default_capabilities, mount_group) = (
            NodeCapabilities::default(),
            NodeCapabilities {
                mount_group: true,
                ..NodeCapabilities::default()
            },
        );
        let group = |volume: &CsiVolume, policy: Option<&str>, capabilities| {
            let driver = driver(json!({"fsGroupPolicy": policy}));
            volume.group(Some(&driver), capabilities, Some(7))
        };
        let once = volume(json!(["ReadWriteOnce"]), json!({}));
        let shared = volume(json!(["ReadWriteMany"]), json!({}));
        let untyped = volume(json!(["ReadWriteOnce"]), json!({"fsType": ""}));
        let read_only = volume(json!(["ReadWriteOnce"]), json!({"readOnly": true}));
        let default = Some("ReadWriteOnceWithFSType");
        assert_eq!(group(&once, None, default_capabilities), GroupUse::Node(7));
        assert_eq!(
            group(&once, default, default_capabilities),
            GroupUse::Node(7)
        );
        assert_eq!(
            group(&shared, default, default_capabilities),
            GroupUse::None
        );
        assert_eq!(
            group(&untyped, default, default_capabilities),
            GroupUse::None
        );
        assert_eq!(
            group(&shared, Some("File"), default_capabilities),
            GroupUse::Node(7)
        );
        assert_eq!(
            group(&read_only, Some("File"), default_capabilities),
            GroupUse::None
        );
        assert_eq!(
            group(&once, Some("None"), default_capabilities),
            GroupUse::None
        );
        assert_eq!(group(&once, Some("None"), mount_group), GroupUse::Driver(7));
        assert_eq!(once.group(None, default_capabilities, None), GroupUse::None);
    }

    #[test]
    fn modes_of_access_are_those_that_the_driver_distinguishes() {
        let mode = |mode: &str, capabilities| {
            let volume = volume(json!([mode]), json!({}));
            volume.capability(capabilities, GroupUse::None).mode
        };
        let default_capabilities = NodeCapabilities::default();
        let single_node_capabilities = NodeCapabilities {
            single_node_multi_writer: true,
            ..default_capabilities
        };
        use AccessMode::*;
        assert_eq!(
            mode("ReadWriteOnce", default_capabilities),
            SingleNodeWriter
        );
        assert_eq!(
            mode("ReadWriteOnce", single_node_capabilities),
            SingleNodeMultiWriter
        );
        assert_eq!(
            mode("ReadWriteOncePod", default_capabilities),
            SingleNodeWriter
        );
        assert_eq!(
            mode("ReadWriteOncePod", single_node_capabilities),
            SingleNodeSingleWriter
        );
        assert_eq!(
            mode("ReadOnlyMany", single_node_capabilities),
            MultiNodeReaderOnly
        );
        assert_eq!(
            mode("ReadWriteMany", default_capabilities),
            MultiNodeMultiWriter
        );
    }

    #[test]
    fn facts_about_the_pod_are_sent_only_on_request() {
        let pod: Pod = json_tree::from_value(json!({"metadata": {"name": "p", "namespace": "n",
            "uid": "u"}, "spec": {"containers": [], "serviceAccountName": "a"}}))
        .unwrap();
        let persistent = volume(
            json!(["ReadWriteOnce"]),
            json!({"volumeAttributes": {"k": "v"}}),
        );
        let capabilities = NodeCapabilities {
            stage: true,
            ..NodeCapabilities::default()
        };
        let request = |driver: &CSIDriver| {
            let request = persistent.publication(
                capabilities,
                GroupUse::None,
                &RequestData::default(),
                &pod,
                Some(driver),
            );
            request.unwrap()
        };
        let without_pod = request(&driver(json!({})));
        assert_eq!(without_pod.volume_context.len(), 1);
        assert_eq!(
            without_pod.staging_path,
            Some(persistent.staging_path().for_driver())
        );
        let with_pod = request(&driver(json!({"podInfoOnMount": true})));
        let fact =
            |key: &str| with_pod.volume_context[&format!("csi.storage.k8s.io/{key}")].clone();
        assert_eq!(fact("pod.name") + &fact("serviceAccount.name"), "pa");
        assert_eq!(fact("ephemeral"), "false");
        let inline: Volume =
            json_tree::from_value(json!({"name": "v", "csi": {"driver": "d.example.com"}}))
                .unwrap();
        let inline = CsiVolume::inline(&pod, &inline).unwrap().unwrap();
        assert_eq!(
            inline.id.handle,
            format!("csi-{}", hex(&Sha256::digest("uv")))
        );
        assert!(!inline.is_staged(capabilities) && !inline.needs_attachment(None));
        assert!(inline.check_life_cycle(None).is_err());
        let both_modes = driver(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        assert!(inline.check_life_cycle(Some(&both_modes)).is_ok());
        assert!(persistent.needs_attachment(None));
        assert!(!persistent.needs_attachment(Some(&driver(json!({"attachRequired": false})))));
    }

    /// CSI `mount_flags`: the driver checks the options, as with kubelet. The options are neither split nor
    /// changed.
    #[test]
    fn mount_options_reach_the_driver_as_they_are() {
        let long = "o".repeat(5000);
        let options = [
            "suid",
            "bind",
            "remount,move",
            "a b",
            " ",
            "",
            "line\nbreak",
            "nul\0",
            "x-mount.mkdir",
            "é\"",
            &long,
        ];
        let mut volume = volume(json!(["ReadWriteOnce"]), json!({}));
        volume.mount_options = options.map(str::to_owned).to_vec();
        volume
            .mount_options
            .extend((0..500).map(|number| format!("o{number}")));
        let (capabilities, data) = (NodeCapabilities::default(), RequestData::default());
        let uid: Uid = "u".parse().unwrap();
        let pod: Pod =
            json_tree::from_value(json!({"metadata": {"name": "p", "uid": uid.as_str()}})).unwrap();
        let volume_capabilities = [
            volume.stage(capabilities, GroupUse::None, &data).capability,
            volume
                .publication(capabilities, GroupUse::None, &data, &pod, None)
                .unwrap()
                .capability,
            volume
                .expansion(capabilities, &uid, 5, BTreeMap::new())
                .capability,
        ];
        for capability in volume_capabilities {
            let AccessType::Mount { flags, .. } = capability.access else {
                panic!("{capability:?}");
            };
            assert_eq!(flags, volume.mount_options);
        }
        volume.is_block = true;
        let device = volume.stage(capabilities, GroupUse::None, &data).capability;
        assert_eq!(device.access, AccessType::Block);
    }

    #[test]
    fn an_expansion_names_the_paths_of_the_volume_s_mode() {
        let capabilities = NodeCapabilities {
            stage: true,
            ..NodeCapabilities::default()
        };
        let reference = json!({"namespace": "n", "name": "grow"});
        let mut volume = volume(
            json!(["ReadWriteOnce"]),
            json!({ "nodeExpandSecretRef": reference }),
        );
        let secret = volume.expand_secret.clone().unwrap();
        assert_eq!(secret, ObjectKey::new("n", "grow"));
        let uid: Uid = "u".parse().unwrap();
        let mounted = volume.expansion(capabilities, &uid, 5, BTreeMap::new());
        assert_eq!(
            mounted.volume_path,
            KubeletPath::publication("u", "pv").for_driver()
        );
        assert_eq!(
            mounted.staging_path,
            Some(KubeletPath::stage("d.example.com", "h").for_driver())
        );
        volume.is_block = true;
        let device = volume.expansion(NodeCapabilities::default(), &uid, 5, BTreeMap::new());
        let target = KubeletPath::block_publication("u", "pv");
        assert_eq!(device.volume_path, target.for_driver());
        assert_eq!(
            (device.staging_path, device.capability.access),
            (None, AccessType::Block)
        );
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        let id = VolumeId {
            driver: "d".to_owned(),
            handle: "h".to_owned(),
        };
        assert_eq!(id.unique_name(), "kubernetes.io/csi/d^h");
        // The result of: printf %s hdn | sha256sum
        let hash = hex(&Sha256::digest("hdn"));
        assert_eq!(id.attachment("n"), format!("csi-{hash}"));
    }
}
