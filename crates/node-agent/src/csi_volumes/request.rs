//! The requests to a driver, built from a volume's specification. Pure.

use std::collections::BTreeMap;

use csi_client::{
    AccessMode, AccessType, ExpandRequest, NodeCapabilities, PublishRequest, StageRequest,
    VolumeCapability,
};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, Volume};
use k8s_openapi::api::storage::v1::CSIDriver;
use sha2::{Digest, Sha256};

use super::directory::{KubeletPath, hex};

/// The name and the namespace of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    pub namespace: String,
    pub name: String,
}

/// The identity of a CSI volume: the driver, and the volume's id at the driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Name of the CSI driver.
    pub driver: String,
    /// The volume's id at the driver.
    pub handle: String,
}

impl Identity {
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
    pub id: Identity,
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
    pub stage_secret: Option<SecretName>,
    /// The Secret for publishing (`nodePublishSecretRef`).
    pub publish_secret: Option<SecretName>,
    /// The Secret for expansion (`nodeExpandSecretRef`).
    pub expand_secret: Option<SecretName>,
}

impl CsiVolume {
    /// The volume for a PersistentVolume; `None` if no CSI driver manages it.
    pub fn of_volume(volume: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let source = spec.csi.as_ref()?;
        let secret = |reference: &Option<k8s_openapi::api::core::v1::SecretReference>| {
            let reference = reference.as_ref()?;
            Some(SecretName {
                namespace: reference.namespace.clone()?,
                name: reference.name.clone()?,
            })
        };
        Some(Self {
            id: Identity {
                driver: source.driver.clone(),
                handle: source.volume_handle.clone(),
            },
            name: volume.metadata.name.clone().unwrap_or_default(),
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
        })
    }

    /// The inline volume of a pod; `None` if no CSI driver manages it. The handle is computed as in
    /// kubelet.
    pub fn inline(pod: &Pod, volume: &Volume) -> Option<Self> {
        let source = volume.csi.as_ref()?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let hash = Sha256::digest(format!("{uid}{}", volume.name));
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let secret = source.node_publish_secret_ref.as_ref();
        Some(Self {
            id: Identity {
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
            publish_secret: secret.map(|secret| SecretName {
                namespace,
                name: secret.name.clone(),
            }),
            expand_secret: None,
        })
    }

    /// Checks that the CSIDriver object permits the volume's life cycle: persistent or inline.
    ///
    /// *Errors.* A message for users.
    pub fn check_life_cycle(&self, driver: Option<&CSIDriver>) -> Result<(), String> {
        let modes = driver.and_then(|driver| driver.spec.volume_lifecycle_modes.as_deref());
        let modes = modes.filter(|modes| !modes.is_empty());
        let allowed = match modes {
            None => vec!["Persistent"],
            Some(modes) => modes.iter().map(String::as_str).collect(),
        };
        let own = if self.is_ephemeral {
            "Ephemeral"
        } else {
            "Persistent"
        };
        match allowed.contains(&own) {
            true => Ok(()),
            false => Err(format!(
                "volume mode {own:?} not supported by driver {} (only supports {allowed:?})",
                self.id.driver
            )),
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
    pub fn is_staged(&self, can: NodeCapabilities) -> bool {
        can.stage && !self.is_ephemeral
    }

    /// Which component changes the group of the files.
    pub fn group(
        &self,
        driver: Option<&CSIDriver>,
        can: NodeCapabilities,
        group: Option<u32>,
    ) -> GroupUse {
        let Some(group) = group.filter(|_| !self.is_block) else {
            return GroupUse::None;
        };
        if can.mount_group {
            return GroupUse::Driver(group);
        }
        let policy = driver.and_then(|driver| driver.spec.fs_group_policy.as_deref());
        let has_single_writer = self
            .modes
            .iter()
            .any(|mode| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod");
        let applies = match policy {
            Some("None") => false,
            Some("File") => true,
            _ => !self.fs_type.is_empty() && (self.is_ephemeral || has_single_writer),
        };
        match applies && !self.read_only {
            true => GroupUse::Node(group),
            false => GroupUse::None,
        }
    }

    fn capability(&self, can: NodeCapabilities, group: GroupUse) -> VolumeCapability {
        let first = self.modes.first().map(String::as_str);
        let single = can.single_node_multi_writer;
        let mode = match (first, single) {
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

    pub fn stage_place(&self) -> KubeletPath {
        match self.is_block {
            true => KubeletPath::block_stage(&self.name),
            false => KubeletPath::stage(&self.id.driver, &self.id.handle),
        }
    }

    /// The target path for a pod, below the kubelet's directory.
    pub fn publication_place(&self, pod: &str) -> KubeletPath {
        match self.is_block {
            true => KubeletPath::block_publication(pod, &self.name),
            false => KubeletPath::publication(pod, &self.name),
        }
    }

    pub fn stage(
        &self,
        can: NodeCapabilities,
        group: GroupUse,
        found: &RequestData,
    ) -> StageRequest {
        StageRequest {
            volume_id: self.id.handle.clone(),
            publish_context: found.publish_context.clone(),
            staging_path: self.stage_place().told(),
            capability: self.capability(can, group),
            secrets: found.stage_secrets.clone(),
            volume_context: self.attributes.clone(),
        }
    }

    /// The request to expand the volume at its path for a pod.
    pub fn expansion(
        &self,
        can: NodeCapabilities,
        pod: &str,
        required_bytes: i64,
        secrets: BTreeMap<String, String>,
    ) -> ExpandRequest {
        ExpandRequest {
            volume_id: self.id.handle.clone(),
            volume_path: self.publication_place(pod).told(),
            staging_path: self.is_staged(can).then(|| self.stage_place().told()),
            required_bytes,
            capability: self.capability(can, GroupUse::None),
            secrets,
        }
    }

    pub fn publication(
        &self,
        can: NodeCapabilities,
        group: GroupUse,
        found: &RequestData,
        pod: &Pod,
        driver: Option<&CSIDriver>,
    ) -> PublishRequest {
        let meta = &pod.metadata;
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut context = self.attributes.clone();
        if driver.is_some_and(|driver| driver.spec.pod_info_on_mount == Some(true)) {
            let account = pod.spec.as_ref();
            let account = account.and_then(|spec| spec.service_account_name.clone());
            let facts = [
                ("pod.name", own(&meta.name)),
                ("pod.namespace", own(&meta.namespace)),
                ("pod.uid", own(&meta.uid)),
                ("serviceAccount.name", own(&account)),
                ("ephemeral", self.is_ephemeral.to_string()),
            ];
            let facts = facts.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value));
            context.extend(facts);
        }
        if let Some(tokens) = &found.tokens {
            let key = "csi.storage.k8s.io/serviceAccount.tokens";
            context.insert(key.to_owned(), tokens.clone());
        }
        PublishRequest {
            volume_id: self.id.handle.clone(),
            publish_context: found.publish_context.clone(),
            staging_path: self.is_staged(can).then(|| self.stage_place().told()),
            target_path: self.publication_place(&own(&meta.uid)).told(),
            capability: self.capability(can, group),
            read_only: self.read_only,
            secrets: found.publish_secrets.clone(),
            volume_context: context,
        }
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
        CsiVolume::of_volume(&json_tree::from_value(volume).unwrap(), false).unwrap()
    }

    fn driver(spec: Value) -> CSIDriver {
        json_tree::from_value(json!({"metadata": {"name": "d.example.com"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_group_is_set_by_the_policy_of_the_driver() {
        let (plain, own) = (
            NodeCapabilities::default(),
            NodeCapabilities {
                mount_group: true,
                ..NodeCapabilities::default()
            },
        );
        let of = |wanted: &CsiVolume, policy: Option<&str>, can| {
            let driver = driver(json!({"fsGroupPolicy": policy}));
            wanted.group(Some(&driver), can, Some(7))
        };
        let once = volume(json!(["ReadWriteOnce"]), json!({}));
        let many = volume(json!(["ReadWriteMany"]), json!({}));
        let untyped = volume(json!(["ReadWriteOnce"]), json!({"fsType": ""}));
        let read = volume(json!(["ReadWriteOnce"]), json!({"readOnly": true}));
        let default = Some("ReadWriteOnceWithFSType");
        assert_eq!(of(&once, None, plain), GroupUse::Node(7));
        assert_eq!(of(&once, default, plain), GroupUse::Node(7));
        assert_eq!(of(&many, default, plain), GroupUse::None);
        assert_eq!(of(&untyped, default, plain), GroupUse::None);
        assert_eq!(of(&many, Some("File"), plain), GroupUse::Node(7));
        assert_eq!(of(&read, Some("File"), plain), GroupUse::None);
        assert_eq!(of(&once, Some("None"), plain), GroupUse::None);
        assert_eq!(of(&once, Some("None"), own), GroupUse::Driver(7));
        assert_eq!(once.group(None, plain, None), GroupUse::None);
    }

    #[test]
    fn modes_of_access_are_those_that_the_driver_distinguishes() {
        let mode = |mode: &str, can| {
            let wanted = volume(json!([mode]), json!({}));
            wanted.capability(can, GroupUse::None).mode
        };
        let plain = NodeCapabilities::default();
        let fine = NodeCapabilities {
            single_node_multi_writer: true,
            ..plain
        };
        use AccessMode::*;
        assert_eq!(mode("ReadWriteOnce", plain), SingleNodeWriter);
        assert_eq!(mode("ReadWriteOnce", fine), SingleNodeMultiWriter);
        assert_eq!(mode("ReadWriteOncePod", plain), SingleNodeWriter);
        assert_eq!(mode("ReadWriteOncePod", fine), SingleNodeSingleWriter);
        assert_eq!(mode("ReadOnlyMany", fine), MultiNodeReaderOnly);
        assert_eq!(mode("ReadWriteMany", plain), MultiNodeMultiWriter);
    }

    #[test]
    fn facts_about_the_pod_are_sent_only_where_they_are_wanted() {
        let pod: Pod = json_tree::from_value(json!({"metadata": {"name": "p", "namespace": "n",
            "uid": "u"}, "spec": {"containers": [], "serviceAccountName": "a"}}))
        .unwrap();
        let wanted = volume(
            json!(["ReadWriteOnce"]),
            json!({"volumeAttributes": {"k": "v"}}),
        );
        let can = NodeCapabilities {
            stage: true,
            ..NodeCapabilities::default()
        };
        let request = |driver: &CSIDriver| {
            wanted.publication(
                can,
                GroupUse::None,
                &RequestData::default(),
                &pod,
                Some(driver),
            )
        };
        let silent = request(&driver(json!({})));
        assert_eq!(silent.volume_context.len(), 1);
        assert_eq!(silent.staging_path, Some(wanted.stage_place().told()));
        let told = request(&driver(json!({"podInfoOnMount": true})));
        let fact = |key: &str| told.volume_context[&format!("csi.storage.k8s.io/{key}")].clone();
        assert_eq!(fact("pod.name") + &fact("serviceAccount.name"), "pa");
        assert_eq!(fact("ephemeral"), "false");
        let inline: Volume =
            json_tree::from_value(json!({"name": "v", "csi": {"driver": "d.example.com"}}))
                .unwrap();
        let inline = CsiVolume::inline(&pod, &inline).unwrap();
        assert_eq!(
            inline.id.handle,
            format!("csi-{}", hex(&Sha256::digest("uv")))
        );
        assert!(!inline.is_staged(can) && !inline.needs_attachment(None));
        assert!(inline.check_life_cycle(None).is_err());
        let both = driver(json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]}));
        assert!(inline.check_life_cycle(Some(&both)).is_ok());
        assert!(wanted.needs_attachment(None));
        assert!(!wanted.needs_attachment(Some(&driver(json!({"attachRequired": false})))));
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
        let mut wanted = volume(json!(["ReadWriteOnce"]), json!({}));
        wanted.mount_options = options.map(str::to_owned).to_vec();
        wanted
            .mount_options
            .extend((0..500).map(|number| format!("o{number}")));
        let (can, found) = (NodeCapabilities::default(), RequestData::default());
        let pod = Pod::default();
        let uses = [
            wanted.stage(can, GroupUse::None, &found).capability,
            wanted
                .publication(can, GroupUse::None, &found, &pod, None)
                .capability,
            wanted.expansion(can, "u", 5, BTreeMap::new()).capability,
        ];
        for used in uses {
            let AccessType::Mount { flags, .. } = used.access else {
                panic!("{used:?}");
            };
            assert_eq!(flags, wanted.mount_options);
        }
        wanted.is_block = true;
        let device = wanted.stage(can, GroupUse::None, &found).capability;
        assert_eq!(device.access, AccessType::Block);
    }

    #[test]
    fn an_expansion_names_the_paths_of_the_volume_s_mode() {
        let can = NodeCapabilities {
            stage: true,
            ..NodeCapabilities::default()
        };
        let reference = json!({"namespace": "n", "name": "grow"});
        let mut wanted = volume(
            json!(["ReadWriteOnce"]),
            json!({ "nodeExpandSecretRef": reference }),
        );
        let secret = wanted.expand_secret.clone().unwrap();
        assert_eq!(secret.namespace + &secret.name, "ngrow");
        let mounted = wanted.expansion(can, "u", 5, BTreeMap::new());
        assert_eq!(
            mounted.volume_path,
            KubeletPath::publication("u", "pv").told()
        );
        assert_eq!(
            mounted.staging_path,
            Some(KubeletPath::stage("d.example.com", "h").told())
        );
        wanted.is_block = true;
        let device = wanted.expansion(NodeCapabilities::default(), "u", 5, BTreeMap::new());
        let place = KubeletPath::block_publication("u", "pv");
        assert_eq!(device.volume_path, place.told());
        assert_eq!(
            (device.staging_path, device.capability.access),
            (None, AccessType::Block)
        );
    }

    #[test]
    fn names_are_those_of_kubernetes() {
        let id = Identity {
            driver: "d".to_owned(),
            handle: "h".to_owned(),
        };
        assert_eq!(id.unique_name(), "kubernetes.io/csi/d^h");
        // The result of: printf %s hdn | sha256sum
        let hash = hex(&Sha256::digest("hdn"));
        assert_eq!(id.attachment("n"), format!("csi-{hash}"));
    }
}
