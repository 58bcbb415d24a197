//! The state of a node and its volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use controller_planners::attach_detach::{Attachment, Node as NodeState, ObservedNode, Volume};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeSpec};
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;
use sha2::{Digest, Sha256};

use super::AttachDetach;
use crate::volume_binding::volume_of;

/// The observed state of a node.
pub(super) struct Observed {
    pub view: ObservedNode,
    /// The Node, whose version guards the write of its status.
    pub node: Option<Arc<Node>>,
    /// The pods that need a volume, by PersistentVolume.
    pub users: BTreeMap<String, Vec<Arc<PodView>>>,
    /// The nodes with attachments whose Node object was deleted.
    pub deleted_nodes: BTreeSet<String>,
}

impl Observed {
    /// Replaces the Node by another version; `written` are the UIDs of the objects that this leader has written.
    pub fn with_node(
        &mut self,
        node: Option<Arc<Node>>,
        written: &BTreeSet<Uid>,
    ) -> Result<(), IncompleteMetadata> {
        self.view.node = node
            .as_deref()
            .map(|node| state(node, written))
            .transpose()?;
        self.node = node;
        Ok(())
    }
}

fn state(node: &Node, written: &BTreeSet<Uid>) -> Result<NodeState, IncompleteMetadata> {
    let status = node.status.as_ref();
    let in_use = status.and_then(|status| status.volumes_in_use.as_ref());
    let attached = status.and_then(|status| status.volumes_attached.as_ref());
    let attached = attached.into_iter().flatten();
    Ok(NodeState {
        in_use: in_use.into_iter().flatten().cloned().collect(),
        attached: attached.map(|volume| volume.name.clone()).collect(),
        is_claimed: written.contains(&node.metadata.object_uid()?),
    })
}

impl AttachDetach {
    pub(super) fn observe(&self, name: &str) -> Result<Observed, IncompleteMetadata> {
        let caches = &self.context.caches;
        let node = caches.nodes.get("", name);
        let mut desired = BTreeMap::new();
        let mut users: BTreeMap<String, Vec<Arc<PodView>>> = BTreeMap::new();
        for pod in self.pods_by_node.get(name) {
            if pod.has_ended() {
                continue;
            }
            for claim in &pod.claims {
                let claim = caches.claims.get(&pod.namespace, &claim.name);
                let volume = claim.and_then(|claim| volume_of(&claim));
                let volume = volume.and_then(|volume| caches.volumes.get("", &volume));
                let Some((attachment, volume)) = volume.and_then(|v| self.desired(name, &v)) else {
                    continue;
                };
                let of_volume = users.entry(volume.volume.clone()).or_default();
                of_volume.push(pod.clone());
                desired.insert(attachment, volume);
            }
        }
        let mut attachments = Vec::new();
        let mut elsewhere: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for existing in self.attachments.list() {
            let Some(volume) = &existing.spec.source.persistent_volume_name else {
                continue;
            };
            if existing.spec.node_name != name {
                let nodes = elsewhere.entry(volume.clone()).or_default();
                nodes.insert(existing.spec.node_name.clone());
                continue;
            }
            let cached_volume = caches.volumes.get("", volume);
            let unique_name = cached_volume.as_ref().and_then(|volume| ids(volume));
            let unique_name = unique_name.map(|(driver, handle)| unique_name_of(&driver, &handle));
            let meta = &existing.metadata;
            let uid = meta.object_uid()?;
            let status = existing.status.as_ref();
            let error = status.and_then(|status| status.attach_error.as_ref());
            attachments.push(Attachment {
                name: meta.object_name()?.to_owned(),
                version: meta.object_version()?,
                is_claimed: self.executor.written().contains(&uid),
                uid,
                node: name.to_owned(),
                volume: volume.clone(),
                unique_name,
                is_attached: status.is_some_and(|status| status.attached),
                error: error.and_then(|error| error.message.clone()),
                is_deleting: meta.deletion_timestamp.is_some(),
            });
        }
        let holders: BTreeSet<&String> = elsewhere.values().flatten().collect();
        let is_deleted = |node: &&&String| caches.nodes.get("", node).is_none();
        let deleted = holders.iter().filter(is_deleted);
        let deleted = deleted.map(|node| (*node).clone()).collect();
        Ok(Observed {
            deleted_nodes: deleted,
            view: ObservedNode {
                name: name.to_owned(),
                node: node
                    .as_deref()
                    .map(|node| state(node, &self.executor.written()))
                    .transpose()?,
                desired,
                attachments,
                elsewhere,
                proof: None,
            },
            node,
            users,
        })
    }

    /// The attachment that a volume needs, with its name; `None` if the driver attaches no volumes.
    fn desired(&self, node: &str, volume: &PersistentVolume) -> Option<(String, Volume)> {
        let (driver, handle) = ids(volume)?;
        let object = self.drivers.get("", &driver);
        let required = object.and_then(|object| object.spec.attach_required);
        if required == Some(false) {
            return None;
        }
        let name = attachment_name(&driver, &handle, node);
        let volume = Volume {
            volume: volume.metadata.name.clone()?,
            unique_name: unique_name_of(&driver, &handle),
            driver,
            is_exclusive: is_exclusive(volume.spec.as_ref()?),
        };
        Some((name, volume))
    }
}

/// Driver and handle of a driver's volume.
fn ids(volume: &PersistentVolume) -> Option<(String, String)> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some((source.driver.clone(), source.volume_handle.clone()))
}

fn unique_name_of(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The name of an attachment; nodes compute this name as well.
fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    let hash = Sha256::digest(format!("{handle}{driver}{node}"));
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{digits}")
}

/// Whether all access modes allow one node only.
fn is_exclusive(spec: &PersistentVolumeSpec) -> bool {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    let shared = |mode: &String| mode == "ReadWriteMany" || mode == "ReadOnlyMany";
    !modes.is_empty() && !modes.iter().any(shared)
}
