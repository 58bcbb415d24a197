//! Executes a plan for a node.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use controller_framework::{EventType, Recorder};
use controller_planners::attach_detach::AttachDetachAction;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_api_client::guarded_writes::{Delete, WriteRefusal, delete, refusal, unless_outrun};
use kube_api_client::{Api, Client, ListParams, Patch, PatchParams, PostParams};
use object_model::Uid;
use resource_kinds::MetadataIdentity;

use super::Error;
use super::observe::Observed;

/// The reason of events about volumes that are not attached; kube-controller-manager's.
const FAILED_ATTACH: &str = "FailedAttachVolume";
/// The annotation of an attachment or a Node with the version that a new leader has read first.
pub(super) const CLAIMED_AT: &str = "node.mainstay.dev/claimed-at";

pub(super) struct Executor {
    client: Client,
    recorder: Recorder,
    /// The UIDs of the attachments that this leader has created or claimed, and of the Nodes that this leader has
    /// written.
    written: Mutex<BTreeSet<Uid>>,
}

impl Executor {
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self {
            client,
            recorder,
            written: Mutex::default(),
        }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The UIDs of the attachments that this leader has created or claimed, and of the Nodes that this leader has
    /// written.
    pub fn written(&self) -> MutexGuard<'_, BTreeSet<Uid>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the UID of a deleted object from [`written`](Self::written).
    pub fn forget(&self, deleted: &ObjectMeta) {
        if let Ok(uid) = deleted.object_uid() {
            self.written().remove(&uid);
        }
    }

    /// Executes the steps; returns whether a write was refused because the observed version was old.
    pub async fn execute(
        &self,
        observed: &Observed,
        actions: Vec<AttachDetachAction>,
    ) -> Result<bool, Error> {
        let mut is_outrun = false;
        for action in actions {
            tracing::debug!(node = observed.view.name, ?action, "write");
            is_outrun |= self.write(observed, action).await?;
        }
        Ok(is_outrun)
    }

    async fn write(&self, observed: &Observed, action: AttachDetachAction) -> Result<bool, Error> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        match action {
            AttachDetachAction::SetAttached(names) => {
                return self.set_attached(observed, &names).await;
            }
            AttachDetachAction::Attach { name, volume } => {
                if volume.is_exclusive && self.is_elsewhere(observed, &volume.volume).await? {
                    // The attachment will be in the cache soon, and the node is checked again.
                    return Ok(false);
                }
                let attachment = VolumeAttachment {
                    metadata: ObjectMeta {
                        name: Some(name),
                        ..ObjectMeta::default()
                    },
                    spec: VolumeAttachmentSpec {
                        attacher: volume.driver,
                        node_name: observed.view.name.clone(),
                        source: VolumeAttachmentSource {
                            persistent_volume_name: Some(volume.volume),
                            ..VolumeAttachmentSource::default()
                        },
                    },
                    status: None,
                };
                let created = attachments
                    .create(&PostParams::default(), &attachment)
                    .await;
                match created {
                    Ok(created) => {
                        self.written().insert(created.metadata.object_uid()?);
                    }
                    Err(error) if refusal(&error) == WriteRefusal::AlreadyExists => {}
                    Err(error) => return Err(error.into()),
                }
            }
            AttachDetachAction::Claim { name, uid, version } => {
                let patch = Patch::Merge(json!({"metadata": {
                    "uid": uid,
                    "resourceVersion": version,
                    "annotations": {CLAIMED_AT: version},
                }}));
                let params = PatchParams::default();
                let written = attachments.patch(&name, &params, &patch).await;
                match unless_outrun(written)?.is_some() {
                    true => self.written().insert(uid),
                    false => return Ok(true),
                };
            }
            AttachDetachAction::ClaimNode => {
                let Some(node) = &observed.node else {
                    return Ok(false);
                };
                let version = node.metadata.object_version()?;
                let patch = json!({"metadata": {"annotations": {CLAIMED_AT: version}}});
                return self.write_node(node, patch, "").await;
            }
            AttachDetachAction::Detach { name, uid, version } => {
                tracing::info!(attachment = name, node = observed.view.name, "detach");
                let how = Delete {
                    resource_version: Some(version),
                    ..Delete::of_uid(uid.clone())
                };
                // Without a response, the deletion may be executed later: the attachment must be claimed before its
                // next use.
                self.written().remove(&uid);
                delete(&attachments, &name, how).await?;
            }
            AttachDetachAction::Failed { volume, error } => {
                let volume = &volume.volume;
                let message =
                    format!("AttachVolume.Attach failed for volume \"{volume}\" : {error}");
                self.report_to_users(observed, volume, &message);
            }
            AttachDetachAction::Refuse { volume, nodes } => {
                let message = multi_attach(&volume.volume, &nodes, &observed.deleted_nodes);
                self.report_to_users(observed, &volume.volume, &message);
            }
        }
        Ok(false)
    }

    fn report_to_users(&self, observed: &Observed, volume: &str, message: &str) {
        for pod in observed.users.get(volume).into_iter().flatten() {
            let warning = EventType::Warning;
            self.recorder
                .event(pod.reference(), warning, FAILED_ATTACH, message);
        }
    }

    /// Whether a volume is attached to another node; the attachment may not be in the cache yet.
    async fn is_elsewhere(&self, observed: &Observed, volume: &str) -> Result<bool, Error> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        let listed = attachments.list(&ListParams::default()).await?;
        Ok(listed.items.iter().any(|attachment| {
            let of = attachment.spec.source.persistent_volume_name.as_deref();
            of == Some(volume) && attachment.spec.node_name != observed.view.name
        }))
    }

    async fn set_attached(
        &self,
        observed: &Observed,
        names: &BTreeSet<String>,
    ) -> Result<bool, Error> {
        let Some(node) = &observed.node else {
            return Ok(false);
        };
        let volumes: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "devicePath": ""}))
            .collect();
        let patch = json!({"status": {"volumesAttached": volumes}});
        self.write_node(node, patch, "status").await
    }

    /// Patches a Node, or a sub-resource of the Node, over the observed version, because in a newer version the volume
    /// may be in use. Returns whether there was a newer version.
    async fn write_node(
        &self,
        node: &Node,
        mut patch: Value,
        subresource: &str,
    ) -> Result<bool, Error> {
        let meta = &node.metadata;
        let (name, uid, version) = (
            meta.object_name()?,
            meta.object_uid()?,
            meta.object_version()?,
        );
        patch["metadata"]["uid"] = json!(uid);
        patch["metadata"]["resourceVersion"] = json!(version);
        let nodes: Api<Node> = Api::all(self.client.clone());
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        // Without a response, the write may be executed later: the Node must be written again.
        self.written().remove(&uid);
        let written = match subresource {
            "status" => nodes.patch_status(name, &params, &patch).await,
            _ => nodes.patch(name, &params, &patch).await,
        };
        let is_written = unless_outrun(written)?.is_some();
        if is_written {
            self.written().insert(uid);
        }
        Ok(!is_written)
    }
}

/// kube-controller-manager's message, and a remedy if an administrator has to act.
fn multi_attach(volume: &str, nodes: &BTreeSet<String>, deleted: &BTreeSet<String>) -> String {
    let names = |nodes: Vec<&str>| nodes.join(", ");
    let mut text = format!(
        "Multi-Attach error for volume \"{volume}\" Volume is already exclusively attached to one node and can't be attached to another ({})",
        names(nodes.iter().map(String::as_str).collect())
    );
    let deleted: Vec<&str> = nodes.intersection(deleted).map(String::as_str).collect();
    if !deleted.is_empty() {
        text.push_str(&format!(
            ". The Node {} was deleted, and nothing proves that its pods are dead: if its machine is off, create the Node with the taint {}",
            names(deleted),
            resource_kinds::reasons::taint::OUT_OF_SERVICE
        ));
    }
    text
}
