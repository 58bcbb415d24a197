//! The provisioner of a node: the claims that it makes volumes for, and the volumes that it removes.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::IncompleteMetadata;
use resource_kinds::annotations::PROVISIONED_BY;
use resource_kinds::labels::HOSTNAME;
use resource_kinds::snapshot;
use resource_kinds::storage::Driver;
use resource_kinds::storage::driver::REMOVAL_FINALIZER;
use resource_kinds::storage::nfs_class::{NFS_PROVISIONER, NfsClass, is_nfs_directory};
use resource_kinds::storage::volume_move;
use resource_kinds::volume_fit::{
    capacity, claim_reference, only_node, requested_class, requested_size,
};

use super::{
    NodeOfClaim, ReclaimAction, finalizers_without, needs_volume, node_of_claim, provisioner_of,
    volume_name,
};
use crate::volume_expansion::bytes as whole_bytes;

/// The provisioning that a claim needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Provisioning {
    /// The claim needs no provisioning here.
    None,
    /// A volume here.
    Here,
    /// A volume on any node: the node for such claims provisions it.
    Anywhere,
    /// An unsupported request, with the message.
    Unsupported(String),
}

/// The provisioning that a claim needs of this node.
pub fn provisioning(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    node: &str,
) -> Provisioning {
    let provisioner = provisioner_of(claim);
    let maker = provisioner
        .and_then(Driver::of_provisioner)
        .map(Maker::Driver);
    let of_nfs = || class.and_then(NfsClass::of).map(|_| Maker::Nfs);
    let (Some(provisioner), Some(maker)) = (provisioner, maker.or_else(of_nfs)) else {
        return Provisioning::None;
    };
    let Some(class) = class.filter(|class| class.provisioner == provisioner) else {
        return Provisioning::None;
    };
    if claim.spec.is_none() || !needs_volume(claim) {
        return Provisioning::None;
    }
    let provisioning = match node_of_claim(claim, class) {
        NodeOfClaim::Chosen(selected) if selected == node => Provisioning::Here,
        NodeOfClaim::Chosen(_) | NodeOfClaim::NotChosen => Provisioning::None,
        NodeOfClaim::Any => Provisioning::Anywhere,
    };
    if provisioning == Provisioning::None {
        return provisioning;
    }
    match unsupported(claim, maker) {
        Some(text) => Provisioning::Unsupported(text),
        None => provisioning,
    }
}

/// The maker of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    /// A driver of volumes on this node.
    Driver(Driver),
    /// An NFS server.
    Nfs,
}

fn unsupported(claim: &PersistentVolumeClaim, maker: Maker) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    let is_block = claim_mode(claim) == VolumeMode::Block;
    if maker == Maker::Nfs && is_block {
        return Some("directories of an NFS export are no block devices".to_owned());
    }
    if maker == Maker::Nfs && data_source(claim) != DataSource::Nothing {
        return Some(
            "directories of an NFS export are made empty: no snapshots, no clones".to_owned(),
        );
    }
    if is_block && maker == Maker::Driver(Driver::LocalCow) {
        // A copy-on-write file below a block device that overwrites its blocks can run out of
        // space: the device would fail, and with it its users.
        return Some(format!(
            "{} makes no block devices; classes of {} do",
            Driver::LocalCow.name(),
            Driver::Local.name()
        ));
    }
    if let Some(class) = spec.volume_attributes_class_name.as_deref()
        && !class.is_empty()
    {
        return Some(format!(
            "the VolumeAttributesClass {class:?} cannot be applied: volumes of this provisioner have \
             no attributes. Remove spec.volumeAttributesClassName"
        ));
    }
    if spec.selector.is_some() {
        return Some("claim.spec.selector is not supported for dynamic provisioning".to_owned());
    }
    None
}

/// The `volumeMode` of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeMode {
    /// A directory.
    Filesystem,
    /// The image of a block device, in a separate directory.
    Block,
}

impl VolumeMode {
    fn parse(mode: Option<&str>) -> Self {
        match mode {
            Some("Block") => Self::Block,
            _ => Self::Filesystem,
        }
    }

    /// The mode as in `volumeMode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Filesystem => "Filesystem",
            Self::Block => "Block",
        }
    }
}

/// The mode of a claim; `Filesystem` by default.
pub fn claim_mode(claim: &PersistentVolumeClaim) -> VolumeMode {
    let spec = claim.spec.as_ref();
    VolumeMode::parse(spec.and_then(|spec| spec.volume_mode.as_deref()))
}

/// The mode of a PersistentVolume; `Filesystem` by default.
pub fn volume_mode(volume: &PersistentVolume) -> VolumeMode {
    let spec = volume.spec.as_ref();
    VolumeMode::parse(spec.and_then(|spec| spec.volume_mode.as_deref()))
}

/// The reason why a volume cannot be copied from one of another mode; `None` if it can.
pub fn other_mode(claim: &PersistentVolumeClaim, source_mode: Option<&str>) -> Option<String> {
    let (requested, source) = (claim_mode(claim), VolumeMode::parse(source_mode));
    (requested != source).then(|| {
        format!(
            "its volumeMode is {}, and the claim asks for {}",
            source.as_str(),
            requested.as_str()
        )
    })
}

/// The source of a claim's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSource {
    /// Empty.
    Nothing,
    /// The volume of another claim of the namespace.
    Claim(String),
    /// A snapshot of the namespace.
    Snapshot(String),
    /// The volume cannot be created, with the reason.
    Other(String),
}

/// The source that a claim names (statefulset.md §11.15).
pub fn data_source(claim: &PersistentVolumeClaim) -> DataSource {
    let Some(spec) = &claim.spec else {
        return DataSource::Nothing;
    };
    let claim_namespace = claim.metadata.namespace.as_deref();
    let (group, kind, name, namespace) = match (&spec.data_source_ref, &spec.data_source) {
        (Some(source), _) => (
            source.api_group.as_deref(),
            source.kind.as_str(),
            source.name.clone(),
            source.namespace.as_deref(),
        ),
        (None, Some(source)) => (
            source.api_group.as_deref(),
            source.kind.as_str(),
            source.name.clone(),
            None,
        ),
        (None, None) => return DataSource::Nothing,
    };
    if namespace.is_some() && namespace != claim_namespace {
        return DataSource::Other("data sources of other namespaces are not supported".to_owned());
    }
    match (group.unwrap_or_default(), kind) {
        ("", "PersistentVolumeClaim") => DataSource::Claim(name),
        (snapshot::GROUP, "VolumeSnapshot") => DataSource::Snapshot(name),
        (group, kind) => DataSource::Other(format!(
            "volumes cannot be made from a {kind} of {group:?}: only from claims and snapshots"
        )),
    }
}

/// The requested size of a claim in bytes.
pub fn size_of(claim: &PersistentVolumeClaim) -> u64 {
    whole_bytes(requested_size(claim))
}

/// The size of a volume in bytes.
pub fn size_of_volume(volume: &PersistentVolume) -> u64 {
    whole_bytes(capacity(volume))
}

/// The path of a volume on its node; empty if it has none.
pub fn path_of(volume: &PersistentVolume) -> &str {
    let local = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
    local.map_or("", |local| local.path.as_str())
}

/// The class of a claim.
pub fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    requested_class(claim).filter(|class| !class.is_empty())
}

/// The volume object for a claim, with its path.
pub fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &str,
    path: &Path,
) -> Result<PersistentVolume, IncompleteMetadata> {
    let mode = claim_mode(claim);
    let spec = claim.spec.clone().unwrap_or_default();
    let requests = spec
        .resources
        .and_then(|resources| resources.requests)
        .unwrap_or_default();
    let size = requests.get("storage").cloned().unwrap_or_default();
    let annotations = BTreeMap::from([(PROVISIONED_BY.to_owned(), class.provisioner.clone())]);
    let policy = class
        .reclaim_policy
        .clone()
        .unwrap_or_else(|| "Delete".to_owned());
    let on_this_node = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm {
        match_expressions: Some(vec![on_this_node]),
        match_fields: None,
    };
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume_name(claim)?),
            annotations: Some(annotations),
            finalizers: Some(vec![REMOVAL_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(BTreeMap::from([("storage".to_owned(), size)])),
            claim_ref: Some(claim_reference(claim)),
            local: Some(LocalVolumeSource {
                path: path.to_string_lossy().into_owned(),
                fs_type: None,
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![term],
                }),
            }),
            persistent_volume_reclaim_policy: Some(policy),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some(mode.as_str().to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// The action for a volume on this node, or on an NFS server.
pub fn reclaim_action(volume: &PersistentVolume, node: &str) -> ReclaimAction {
    if !is_ours(volume, node) && !is_nfs_directory(volume) {
        return ReclaimAction::Keep;
    }
    // The directory has another name, or is on two nodes.
    if volume_move::is_under_way(volume) {
        return ReclaimAction::Keep;
    }
    super::reclaim_action(volume, REMOVAL_FINALIZER)
}

/// Whether a directory of an NFS export belongs to a provisioner from elsewhere, which has the same name. Volumes
/// of this program have its finalizer, until they are about to go.
pub fn is_of_other_provisioner(volume: &PersistentVolume, class: Option<&StorageClass>) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    let maker = annotations.and_then(|all| all.get(PROVISIONED_BY));
    maker.is_some_and(|maker| maker != NFS_PROVISIONER)
        && finalizers_without(volume, REMOVAL_FINALIZER).is_none()
        && class.is_none_or(|class| NfsClass::of(class).is_none())
}

/// Made by us, and on this node alone.
pub fn is_ours(volume: &PersistentVolume, node: &str) -> bool {
    let local = volume
        .spec
        .as_ref()
        .is_some_and(|spec| spec.local.is_some());
    local && Driver::of_volume(volume).is_some() && only_node(volume) == Some(node)
}

#[cfg(test)]
mod tests {
    use json_tree::{Value, json};
    use resource_kinds::annotations::{SELECTED_NODE, STORAGE_PROVISIONER};

    use super::*;

    fn claim(change: Value) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": {"name": "data-web-0", "namespace": "default", "uid": "c1",
                "annotations": {STORAGE_PROVISIONER: "mainstay.dev/local", SELECTED_NODE: "n"}},
            "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}},
        });
        json_merge(&mut claim, &change);
        json_tree::from_value(claim).unwrap()
    }

    fn json_merge(target: &mut Value, patch: &Value) {
        match patch {
            Value::Object(patch) => {
                for (key, value) in patch {
                    json_merge(&mut target[key.as_str()], value);
                }
            }
            other => *target = other.clone(),
        }
    }

    fn class(mode: &str) -> StorageClass {
        json_tree::from_value(json!({"metadata": {"name": "local"},
            "provisioner": "mainstay.dev/local", "volumeBindingMode": mode}))
        .unwrap()
    }

    fn provisioning_for(change: Value, mode: &str) -> Provisioning {
        provisioning(&claim(change), Some(&class(mode)), "n")
    }

    #[test]
    fn a_claim_is_served_on_the_selected_node() {
        let late = "WaitForFirstConsumer";
        assert_eq!(provisioning_for(json!({}), late), Provisioning::Here);
        let select = |node: Value| json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        assert_eq!(
            provisioning_for(select("other".into()), late),
            Provisioning::None
        );
        let mut unselected = claim(json!({}));
        unselected
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .remove(SELECTED_NODE);
        assert_eq!(
            provisioning(&unselected, Some(&class(late)), "n"),
            Provisioning::None
        );
        assert_eq!(
            provisioning(&unselected, Some(&class("Immediate")), "n"),
            Provisioning::Anywhere
        );
    }

    #[test]
    fn others_claims_and_bound_ones_are_none_of_ours() {
        let by = json!({"metadata": {"annotations": {STORAGE_PROVISIONER: "example.org/nfs"}}});
        assert_eq!(provisioning_for(by, "Immediate"), Provisioning::None);
        assert_eq!(
            provisioning_for(json!({"spec": {"volumeName": "v"}}), "Immediate"),
            Provisioning::None
        );
        assert_eq!(
            provisioning(&claim(json!({})), None, "n"),
            Provisioning::None
        );
    }

    #[test]
    fn directories_of_an_nfs_export_are_made_by_any_node() {
        let nfs: StorageClass = json_tree::from_value(json!({"metadata": {"name": "nfs"},
            "provisioner": "mainstay.dev/nfs", "parameters": {"server": "s", "path": "/srv"}}))
        .unwrap();
        let annotations = json!({STORAGE_PROVISIONER: "mainstay.dev/nfs"});
        let mut nfs_claim = claim(json!({"metadata": {"annotations": annotations}}));
        nfs_claim
            .metadata
            .annotations
            .as_mut()
            .unwrap()
            .remove(SELECTED_NODE);
        assert_eq!(
            provisioning(&nfs_claim, Some(&nfs), "n"),
            Provisioning::Anywhere
        );
        let spec = nfs_claim.spec.as_mut().unwrap();
        spec.volume_mode = Some("Block".to_owned());
        assert!(matches!(
            provisioning(&nfs_claim, Some(&nfs), "n"),
            Provisioning::Unsupported(_)
        ));
    }

    /// seeds.md M11: the nfs-subdir-external-provisioner has the name of the built-in one.
    #[test]
    fn directories_of_another_provisioner_are_left_to_it() {
        let class = |parameters: Value| -> StorageClass {
            let class = json!({"metadata": {"name": "nfs-client"}, "parameters": parameters,
                "provisioner": "k8s-sigs.io/nfs-subdir-external-provisioner"});
            json_tree::from_value(class).unwrap()
        };
        let volume = |maker: &str, finalizers: &[&str]| -> PersistentVolume {
            let volume = json!({"metadata": {"name": "pvc-c1", "finalizers": finalizers,
                "annotations": {PROVISIONED_BY: maker}},
                "spec": {"nfs": {"server": "s", "path": "/srv/d"}}});
            json_tree::from_value(volume).unwrap()
        };
        let external = class(json!({"archiveOnDelete": "false"}));
        let local_class = class(json!({"server": "s", "path": "/srv"}));
        let created = volume(&external.provisioner, &["kubernetes.io/pv-protection"]);
        assert!(is_of_other_provisioner(&created, Some(&external)));
        assert!(is_of_other_provisioner(&created, None));
        // What a killed program left without its finalizer.
        assert!(!is_of_other_provisioner(&created, Some(&local_class)));
        let protected = volume(&external.provisioner, &[REMOVAL_FINALIZER]);
        assert!(!is_of_other_provisioner(&protected, Some(&external)));
        let named = volume(NFS_PROVISIONER, &[]);
        assert!(!is_of_other_provisioner(&named, None));
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let block = json!({"spec": {"volumeMode": "Block"}});
        assert_eq!(
            provisioning_for(block.clone(), "Immediate"),
            Provisioning::Here
        );
        let mut of_pool = class("Immediate");
        of_pool.provisioner = "mainstay.dev/local-cow".to_owned();
        let mut block = claim(block);
        let annotations = block.metadata.annotations.as_mut().unwrap();
        annotations.insert(STORAGE_PROVISIONER.to_owned(), of_pool.provisioner.clone());
        assert!(matches!(
            provisioning(&block, Some(&of_pool), "n"),
            Provisioning::Unsupported(_)
        ));
        let selector = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}});
        assert!(matches!(
            provisioning_for(selector, "Immediate"),
            Provisioning::Unsupported(_)
        ));
    }

    /// statefulset.md §11.7.
    #[test]
    fn the_volume_is_named_for_the_claim_and_tied_to_the_node() {
        let created = volume(
            &claim(json!({})),
            &class("Immediate"),
            "n",
            Path::new("/v/pvc-c1"),
        )
        .unwrap();
        let created = json_tree::to_value(created).unwrap();
        assert_eq!(created["metadata"]["name"], "pvc-c1");
        assert_eq!(
            created["metadata"]["annotations"][PROVISIONED_BY],
            "mainstay.dev/local"
        );
        assert_eq!(created["spec"]["local"]["path"], "/v/pvc-c1");
        assert_eq!(created["spec"]["persistentVolumeReclaimPolicy"], "Delete");
        assert_eq!(created["spec"]["claimRef"]["uid"], "c1");
        assert_eq!(created["spec"]["capacity"]["storage"], "1Gi");
        let term = &created["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
        assert_eq!(term["matchExpressions"][0]["values"], json!(["n"]));
    }

    #[test]
    fn a_block_device_is_made_of_its_like_only() {
        let files = claim(json!({}));
        let block = claim(json!({"spec": {"volumeMode": "Block"}}));
        let created = volume(
            &block,
            &class("Immediate"),
            "n",
            Path::new("/v/pvc-c1/image"),
        )
        .unwrap();
        assert_eq!(
            created.spec.as_ref().unwrap().volume_mode.as_deref(),
            Some("Block")
        );
        assert_eq!(volume_mode(&created), VolumeMode::Block);
        assert_eq!(other_mode(&block, Some("Block")), None);
        assert_eq!(other_mode(&files, None), None);
        assert!(other_mode(&block, Some("Filesystem")).is_some());
        assert!(other_mode(&files, Some("Block")).is_some());
    }

    /// statefulset.md §11.8.
    #[test]
    fn only_released_volumes_with_policy_delete_are_removed() {
        let created = volume(
            &claim(json!({})),
            &class("Immediate"),
            "n",
            Path::new("/v/pvc-c1"),
        )
        .unwrap();
        let with = |phase: &str, policy: &str| {
            let mut created = json_tree::to_value(&created).unwrap();
            created["status"]["phase"] = phase.into();
            created["spec"]["persistentVolumeReclaimPolicy"] = policy.into();
            reclaim_action(&json_tree::from_value(created).unwrap(), "n")
        };
        assert_eq!(with("Bound", "Delete"), ReclaimAction::Keep);
        assert_eq!(with("Released", "Retain"), ReclaimAction::Keep);
        assert_eq!(with("Released", "Delete"), ReclaimAction::Remove);
        let mut foreign = created.clone();
        foreign.metadata.annotations = None;
        foreign.status.get_or_insert_default().phase = Some("Released".to_owned());
        assert_eq!(reclaim_action(&foreign, "n"), ReclaimAction::Keep);
        let mut elsewhere = created;
        elsewhere.status.get_or_insert_default().phase = Some("Released".to_owned());
        assert_eq!(reclaim_action(&elsewhere, "other"), ReclaimAction::Keep);
    }
}
