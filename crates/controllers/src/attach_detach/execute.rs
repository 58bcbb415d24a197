//! Executes a plan for a node.

use std::collections::BTreeSet;

use api_client::{Api, Client, ListParams, Patch, PatchParams, PostParams};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::storage::v1::{
    VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use planners::attach_detach::Action;
use reconcile::Recorder;
use reconcile::execute::{Delete, Refusal, delete, refusal, unless_outrun};
use serde_json::json;

use super::Error;
use super::observe::Observed;

#[derive(Clone)]
pub(super) struct Executor {
    pub client: Client,
    pub recorder: Recorder,
}

impl Executor {
    pub async fn execute(&self, observed: &Observed, actions: Vec<Action>) -> Result<(), Error> {
        for action in actions {
            tracing::debug!(node = observed.view.name, ?action, "write");
            self.write(observed, action).await?;
        }
        Ok(())
    }

    async fn write(&self, observed: &Observed, action: Action) -> Result<(), Error> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        match action {
            Action::SetAttached(names) => self.set_attached(observed, &names).await?,
            Action::Attach { name, volume } => {
                if volume.is_exclusive && self.is_elsewhere(observed, &volume.volume).await? {
                    // The cache shows it soon, and the node is looked at again.
                    return Ok(());
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
                let made = attachments
                    .create(&PostParams::default(), &attachment)
                    .await;
                match made {
                    Err(error) if refusal(&error) != Refusal::AlreadyExists => {
                        return Err(error.into());
                    }
                    _ => {}
                }
            }
            Action::Detach { name, uid } => {
                tracing::info!(attachment = name, node = observed.view.name, "detach");
                delete(&attachments, &name, Delete::of_uid(uid)).await?;
            }
            Action::Refuse { volume, nodes } => {
                let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
                let message = format!(
                    "Multi-Attach error for volume \"{}\" Volume is already exclusively attached to one node and can't be attached to another ({})",
                    volume.volume,
                    nodes.join(", ")
                );
                for pod in observed.users.get(&volume.volume).into_iter().flatten() {
                    let pod = Pod {
                        metadata: ObjectMeta {
                            name: Some(pod.name.to_string()),
                            namespace: Some(pod.namespace.to_string()),
                            uid: Some(pod.uid.to_string()),
                            ..ObjectMeta::default()
                        },
                        ..Pod::default()
                    };
                    self.recorder
                        .warning(&pod, "FailedAttachVolume", message.clone());
                }
            }
        }
        Ok(())
    }

    /// Whether a volume is attached to another node; the cache may not show it yet.
    async fn is_elsewhere(&self, observed: &Observed, volume: &str) -> Result<bool, Error> {
        let attachments: Api<VolumeAttachment> = Api::all(self.client.clone());
        let listed = attachments.list(&ListParams::default()).await?;
        Ok(listed.items.iter().any(|found| {
            let of = found.spec.source.persistent_volume_name.as_deref();
            of == Some(volume) && found.spec.node_name != observed.view.name
        }))
    }

    /// The write names the version of the Node: in a newer one the volume may be in use.
    async fn set_attached(
        &self,
        observed: &Observed,
        names: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let Some(node) = &observed.node else {
            return Ok(());
        };
        let volumes: Vec<_> = names
            .iter()
            .map(|name| json!({"name": name, "devicePath": ""}))
            .collect();
        let patch = Patch::Merge(json!({
            "metadata": {
                "uid": node.metadata.uid,
                "resourceVersion": node.metadata.resource_version,
            },
            "status": {"volumesAttached": volumes},
        }));
        let nodes: Api<Node> = Api::all(self.client.clone());
        let params = PatchParams::default();
        let written = nodes.patch_status(&observed.view.name, &params, &patch);
        unless_outrun(written.await)?;
        Ok(())
    }
}
